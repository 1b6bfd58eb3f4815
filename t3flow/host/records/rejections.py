"""Which versions were rejected, on which users' databases, and on which databases a version has yet to be tried."""

import time

from t3flow.engine.journal import Journal
from t3flow.host.records import tables


def rejected(journal: Journal) -> dict[str, str]:
    """Return rejected version → reason."""
    rows = journal.query("select version, reason from rejected order by at")
    return {str(version): str(reason) for version, reason in rows}


def rejected_before(journal: Journal, before: float) -> list[str]:
    """Return the versions that were rejected before a time (epoch seconds)."""
    return [str(version) for (version,) in journal.query("select version from rejected where at < ?", before)]


def rejected_for(journal: Journal, version: str) -> list[str]:
    """Return the users on whose databases alone a version failed; empty if that is unknown."""
    sql = "select user from rejected_for where version = ? order by user"
    return [str(user) for (user,) in tables.rows(journal, "rejected_for", "rejected_for", sql, version)]


def reject(journal: Journal, version: str, reason: str, users: list[str]) -> None:
    """Record that a version failed, and on which users' databases, in one transaction: scheduled runs do not try it again."""
    with tables.transaction(journal) as connection:
        connection.execute("insert or replace into rejected values (?, ?, ?)", (version, reason, time.time()))
        connection.execute("delete from rejected_for where version = ?", (version,))
        connection.executemany("insert or ignore into rejected_for values (?, ?)", [(version, user) for user in users])


def unreject(journal: Journal, version: str) -> None:
    """Delete the rejection of a version that passed after all. Idempotent."""
    with tables.transaction(journal) as connection:
        connection.execute("delete from rejected where version = ?", (version,))
        connection.execute("delete from rejected_for where version = ?", (version,))


def note_untried(journal: Journal, version: str, users: list[str]) -> None:
    """Record the users on whose databases a version has yet to be tried."""
    with tables.transaction(journal) as connection:
        connection.executemany("insert or replace into untried values (?, ?)", [(user, version) for user in users])


def note_tried(journal: Journal, user: str) -> None:
    """Record that a version was tried on a user's databases. Idempotent."""
    with tables.transaction(journal) as connection:
        connection.execute("delete from untried where user = ?", (user,))


def is_untried(journal: Journal, user: str, version: str) -> bool:
    """Return whether a version has yet to be tried on a user's databases."""
    sql = "select 1 from untried where user = ? and version = ?"
    return bool(tables.rows(journal, "untried", "untried", sql, user, version))
