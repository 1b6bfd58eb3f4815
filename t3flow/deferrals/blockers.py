"""Blockers: why a deferral does not progress and will not progress by itself. Counted per user and kind, logged, and shown by `status`.

The table is created on the first write, so that an earlier t3flow still reads and writes the journal.
"""

import shlex
import time
from typing import NamedTuple

from t3flow.engine.journal import Journal
from t3flow.engine.log import logger
from t3flow.host.records import tables

MARK = "DEFERRAL STUCK"
"""The words that the alert T3DeferralStuck looks for in the log."""
TABLE = """
create table if not exists deferral_troubles (
    user text not null, kind text not null, count integer not null, since real not null, at real not null,
    detail text not null, said real not null, primary key (user, kind)
) without rowid"""
WRITTEN = "written"
"""The databases change while a snapshot of them takes long."""
DRAIN = "drain"
"""The drain ended in an error."""
RESTART = "restart"
"""A restart failed for no fault of the version or of this user: other users may meet it as well."""
OWN = "own"
"""A restart failed for a fault of this user's own, such as a configuration or a port."""
LOG_FROM = {WRITTEN: 3, DRAIN: 3, RESTART: 1, OWN: 1}
"""From how many occurrences on a blocker of a kind is logged."""
LOG_AGAIN_SECONDS = 86400.0
FORGOTTEN_SECONDS = 2 * 86400.0
"""A blocker that was not met for this long is over; the next one is counted from 1."""


class Blocker(NamedTuple):
    """A blocker of a user: how often it was met, since when and when last (epoch seconds), and what it is, for people."""

    user: str
    kind: str
    times: int
    since: float
    at: float
    detail: str

    @property
    def line(self) -> str:
        """Return the blocker with the command to run."""
        user = shlex.quote(self.user)
        often = f" ({self.times} times so far)" if self.times > 1 else ""
        command = {
            WRITTEN: f"t3flow enqueue drain {user}",
            DRAIN: f"t3flow enqueue drain {user}",
            RESTART: "t3flow doctor",
            OWN: "t3flow doctor",
        }
        return f"{self.detail}{often}; {command[self.kind]}"


def note(journal: Journal, user: str, kind: str, detail: str) -> int:
    """Count one more occurrence of a blocker and return the count; once it is high enough, log it, once a day. A repeat counts one more."""
    now = time.time()
    detail = " ".join(detail.split())
    with journal.transaction() as connection:
        connection.execute(TABLE)
        row = connection.execute(
            "select count, since, at, said from deferral_troubles where user = ? and kind = ?", (user, kind)
        ).fetchone()
        count, since, at, said = row or (0, now, now, 0.0)
        if now - at > FORGOTTEN_SECONDS:
            count, since, said = 0, now, 0.0
        count += 1
        is_logged = count >= LOG_FROM[kind] and now - said > LOG_AGAIN_SECONDS
        connection.execute(
            "insert or replace into deferral_troubles values (?, ?, ?, ?, ?, ?, ?)",
            (user, kind, count, since, now, detail, now if is_logged else said),
        )
    if is_logged:
        logger.error("{}: {}", MARK, Blocker(user, kind, count, since, now, detail).line)
    return int(count)


def forget(journal: Journal, user: str, kind: str | None = None) -> None:
    """Drop a user's blockers, or those of a kind. Idempotent."""
    if tables.has_table(journal, "deferral_troubles"):
        with journal.transaction(synced=False) as connection:
            connection.execute(
                "delete from deferral_troubles where user = ? and kind = coalesce(?, kind)", (user, kind)
            )


def of_user(journal: Journal, user: str, kind: str) -> Blocker | None:
    """Return a user's blocker of a kind, however often it was met."""
    return next((each for each in _all(journal) if (each.user, each.kind) == (user, kind)), None)


def last_of_others(journal: Journal, user: str, kind: str) -> Blocker | None:
    """Return the blocker of a kind that another user met last."""
    return next((each for each in reversed(_all(journal)) if each.kind == kind and each.user != user), None)


def lines(journal: Journal) -> dict[str, str]:
    """Return each user with a blocker that is to be shown, with the line of the newest one."""
    return {each.user: each.line for each in shown(journal)}


def shown(journal: Journal) -> list[Blocker]:
    """Return the blockers that were met often enough to be shown, the newest last."""
    return [each for each in _all(journal) if each.times >= LOG_FROM[each.kind]]


def _all(journal: Journal) -> list[Blocker]:
    if not tables.has_table(journal, "deferral_troubles"):
        return []
    rows = journal.query("select user, kind, count, since, at, detail from deferral_troubles order by at")
    return [Blocker(*row) for row in rows if row[1] in LOG_FROM]
