"""The records of pending deferrals, one for each user."""

import time
from dataclasses import dataclass

from t3flow.engine.journal import Journal


@dataclass(frozen=True)
class Deferral:
    """A user who is to be restarted on `version` once idle, by the drain `run`. Times are epoch seconds."""

    user: str
    run: str
    version: str
    since: float
    checks: int
    next_check: float | None
    waiting_for: str
    detail: str
    revoked: bool


def deferrals(journal: Journal) -> list[Deferral]:
    """Return all pending deferrals, oldest first."""
    rows = journal.query(
        "select user, run, target, since, checks, next_check, waiting_for, detail, revoked from deferrals order by since, user"
    )
    return [Deferral(*(*row[:8], bool(row[8]))) for row in rows]


def deferral(journal: Journal, user: str) -> Deferral | None:
    """Return a user's pending deferral, or None."""
    return next((entry for entry in deferrals(journal) if entry.user == user), None)


def put_deferral(journal: Journal, user: str, run: str, version: str, waiting_for: str, next_check: float) -> None:
    """Record a deferral, or give the user's pending one a newer version and its drain; the time since when it is pending stays."""
    with journal.transaction() as connection:
        connection.execute(
            "insert into deferrals (user, run, target, since, next_check, waiting_for) values (?, ?, ?, ?, ?, ?) "
            "on conflict (user) do update set target = excluded.target, run = excluded.run",
            (user, run, version, time.time(), next_check, waiting_for),
        )


def replace_drain(journal: Journal, known: Deferral, run: str) -> bool:
    """Give a deferral another drain. Return False and change nothing if the deferral was dropped or changed since it was read."""
    with journal.transaction() as connection:
        changed = connection.execute(
            "update deferrals set run = ? where user = ? and run = ? and target = ?",
            (run, known.user, known.run, known.version),
        )
    return changed.rowcount == 1


def note_check(journal: Journal, user: str, waiting_for: str, detail: str, next_check: float) -> None:
    """Record why a check found the user not ready, and when the next check is due."""
    with journal.transaction(synced=False) as connection:  # if a power cut loses this, the next check records it again
        connection.execute(
            "update deferrals set checks = checks + 1, waiting_for = ?, detail = ?, next_check = ? where user = ?",
            (waiting_for, detail, next_check, user),
        )


def set_revoked(journal: Journal, user: str, revoked: bool) -> None:
    """Record whether an operator has taken a deferral out of the queue."""
    with journal.transaction() as connection:
        connection.execute("update deferrals set revoked = ? where user = ?", (revoked, user))


def drop_deferral(journal: Journal, user: str) -> None:
    """Delete a deferral that was carried out or is no longer wanted. Idempotent."""
    with journal.transaction() as connection:
        connection.execute("delete from deferrals where user = ?", (user,))
