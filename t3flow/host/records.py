"""What t3flow remembers about the host beside its runs: deferrals, backups, rejected versions, and single facts. In the journal's file."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from t3flow.engine.journal import Journal

SCHEMA = """
create table deferrals (
    user text primary key, run text not null, target text not null, since real not null,
    checks integer not null default 0, next_check real, waiting_for text not null, detail text not null default '',
    revoked integer not null default 0
) without rowid;
create table backups (
    path text primary key, user text not null, wrote text not null, target text not null, level integer not null,
    fingerprint text, created real not null, run text not null
) without rowid;
create table rejected (version text primary key, reason text not null, at real not null) without rowid;
create table facts (key text primary key, value text not null) without rowid;
"""

REJECTED_FOR = "rejected_for"
LEVELS = "levels"
UNTRIED = "untried"
"""The fact that says on whose databases which version has still to be tried."""


@dataclass(frozen=True)
class Deferral:
    """A user who is to move to `target` once idle. Times are seconds since the epoch."""

    user: str
    run: str
    target: str
    since: float
    checks: int
    next_check: float | None
    waiting_for: str
    detail: str
    revoked: bool


@dataclass(frozen=True)
class Backup:
    """A snapshot: the version that wrote the database (`wrote`), the one moved to (`target`), and its schema level."""

    path: str
    user: str
    wrote: str
    target: str
    level: int
    fingerprint: list[Any] | None
    created: float
    run: str


def deferrals(journal: Journal) -> list[Deferral]:
    """All pending deferrals, oldest first."""
    rows = journal.query(
        "select user, run, target, since, checks, next_check, waiting_for, detail, revoked from deferrals order by since, user"
    )
    return [Deferral(*(*row[:8], bool(row[8]))) for row in rows]


def deferral(journal: Journal, user: str) -> Deferral | None:
    """One user's pending deferral."""
    return next((entry for entry in deferrals(journal) if entry.user == user), None)


def put_deferral(journal: Journal, user: str, run: str, target: str, waiting_for: str, next_check: float) -> None:
    """Makes a deferral, or gives the one that is pending a newer target and its drain. Since when it is pending stays."""
    with journal.transaction() as connection:
        connection.execute(
            "insert into deferrals (user, run, target, since, next_check, waiting_for) values (?, ?, ?, ?, ?, ?) "
            "on conflict (user) do update set target = excluded.target, run = excluded.run",
            (user, run, target, time.time(), next_check, waiting_for),
        )


def note_check(journal: Journal, user: str, waiting_for: str, detail: str, next_check: float) -> None:
    """Notes why a check found the user not ready, and when the next one is due."""
    with journal.transaction() as connection:
        connection.execute(
            "update deferrals set checks = checks + 1, waiting_for = ?, detail = ?, next_check = ? where user = ?",
            (waiting_for, detail, next_check, user),
        )


def set_revoked(journal: Journal, user: str, revoked: bool) -> None:
    """Marks a deferral as taken out of the queue by a person, or put back."""
    with journal.transaction() as connection:
        connection.execute("update deferrals set revoked = ? where user = ?", (revoked, user))


def drop_deferral(journal: Journal, user: str) -> None:
    """The user is where they were to go, or no longer to go there."""
    with journal.transaction() as connection:
        connection.execute("delete from deferrals where user = ?", (user,))


def backups(journal: Journal, user: str | None = None) -> list[Backup]:
    """The snapshots on record, oldest first."""
    rows = journal.query(
        "select path, user, wrote, target, level, fingerprint, created, run from backups "
        "where user = coalesce(?, user) order by created, path",
        user,
    )
    return [Backup(*(*row[:5], json.loads(row[5] or "null"), *row[6:])) for row in rows]


def put_backup(journal: Journal, backup: Backup) -> None:
    """Records a snapshot; again for the same path replaces the record."""
    with journal.transaction() as connection:
        connection.execute(
            "insert or replace into backups values (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(backup.path, backup.user, backup.wrote, backup.target, backup.level),
                *(json.dumps(backup.fingerprint), backup.created, backup.run),
            ),
        )


def drop_backup(journal: Journal, path: str) -> None:
    """Forgets a snapshot."""
    with journal.transaction() as connection:
        connection.execute("delete from backups where path = ?", (path,))


def note_level(journal: Journal, version: str, level: int) -> None:
    """Notes the schema level that a version migrates to, as a trial has shown."""
    if level and (fact(journal, LEVELS) or {}).get(version) != level:
        change_fact(journal, LEVELS, lambda known: {**(known or {}), version: level})


def level_of_version(journal: Journal, version: str) -> int | None:
    """The schema level that a version knows: as a trial has shown, else by the newest snapshot of a database that it wrote."""
    noted = (fact(journal, LEVELS) or {}).get(version)
    if noted is not None:
        return int(noted)
    rows = journal.query("select level from backups where wrote = ? order by created desc limit 1", version)
    return int(rows[0][0]) if rows else None


def rejected(journal: Journal) -> dict[str, str]:
    """The versions that failed, with the reason."""
    return {
        str(version): str(reason)
        for version, reason in journal.query("select version, reason from rejected order by at")
    }


def rejected_for(journal: Journal, version: str) -> list[str]:
    """On whose databases alone a version failed; empty when that is not known."""
    return list((fact(journal, REJECTED_FOR) or {}).get(version, []))


def reject(journal: Journal, version: str, reason: str, users: list[str]) -> None:
    """Remembers that a version failed, and on whose databases: it is not tried again on its own."""
    set_fact(journal, REJECTED_FOR, {**(fact(journal, REJECTED_FOR) or {}), version: users})
    with journal.transaction() as connection:
        connection.execute("insert or replace into rejected values (?, ?, ?)", (version, reason, time.time()))


def unreject(journal: Journal, version: str) -> None:
    """A version that passed after all."""
    with journal.transaction() as connection:
        connection.execute("delete from rejected where version = ?", (version,))


def note_untried(journal: Journal, version: str, users: list[str]) -> None:
    """Notes on whose databases a version has still to be tried."""
    change_fact(journal, UNTRIED, lambda known: {**(known or {}), **dict.fromkeys(users, version)})


def fact(journal: Journal, key: str) -> Any:
    """A single fact (JSON), or None."""
    rows = journal.query("select value from facts where key = ?", key)
    return json.loads(rows[0][0]) if rows else None


def change_fact(journal: Journal, key: str, change: Callable[[Any], Any], *, synced: bool = True) -> Any:
    """Makes of a fact (None when there is none) what `change` returns, in one transaction, and returns it; None removes the fact."""
    with journal.transaction(synced=synced) as connection:
        row = connection.execute("select value from facts where key = ?", (key,)).fetchone()
        value = change(json.loads(row[0]) if row else None)
        if value is None:
            connection.execute("delete from facts where key = ?", (key,))
        else:
            connection.execute("insert or replace into facts values (?, ?)", (key, json.dumps(value)))
    return value


def set_fact(journal: Journal, key: str, value: Any, *, synced: bool = True) -> None:
    """Writes a fact; None removes it."""
    change_fact(journal, key, lambda known: value, synced=synced)


def note_pairing(journal: Journal, user: str, reason: str) -> None:
    """Notes how a user's last pairing went ("" for well); since when it goes so stays."""

    def change(known: Any) -> dict[str, Any]:
        known = known or {}
        if user not in known or bool(known[user]["reason"]) != bool(reason):
            known[user] = {"since": time.time(), "reason": reason}
        else:
            known[user]["reason"] = reason
        return dict(known)

    change_fact(journal, "pairing", change)
