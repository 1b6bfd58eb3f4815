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
    """Record the users on whose databases a version has yet to be tried. Idempotent.

    What is recorded for the version that a user is deferred to stays: a later version may never be reached. `untried` holds one version of each user,
    for earlier releases.
    """
    with tables.transaction(journal) as connection:
        connection.executemany("insert or replace into untried values (?, ?)", [(user, version) for user in users])
        for user in users:
            connection.execute(
                "delete from untried_versions where user = ? and version not in (select target from deferrals where user = ?)",
                (user, user),
            )
            connection.execute("insert or ignore into untried_versions values (?, ?)", (user, version))


def note_tried(journal: Journal, user: str) -> None:
    """Record that the version that a user is moved to was tried on their databases. Idempotent."""
    with tables.transaction(journal) as connection:
        connection.execute("delete from untried where user = ?", (user,))
        connection.execute("delete from untried_versions where user = ?", (user,))


def is_untried(journal: Journal, user: str, version: str) -> bool:
    """Return whether a version has yet to be tried on a user's databases."""
    sql = "select 1 from untried where user = ? and version = ?"
    if tables.rows(journal, "untried", "untried", sql, user, version):
        return True
    if not tables.has_table(journal, "untried_versions"):
        return False
    return bool(journal.query("select 1 from untried_versions where user = ? and version = ?", user, version))
