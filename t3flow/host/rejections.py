"""Which versions failed, on whose databases, and whose databases a version has still to be tried on."""

import time

from t3flow.engine.journal import Journal
from t3flow.host import tables


def rejected(journal: Journal) -> dict[str, str]:
    """The versions that failed, with the reason."""
    return {
        str(version): str(reason)
        for version, reason in journal.query("select version, reason from rejected order by at")
    }


def rejected_for(journal: Journal, version: str) -> list[str]:
    """On whose databases alone a version failed; empty when that is not known."""
    sql = "select user from rejected_for where version = ? order by user"
    return [str(user) for (user,) in tables.rows(journal, "rejected_for", "rejected_for", sql, version)]


def reject(journal: Journal, version: str, reason: str, users: list[str]) -> None:
    """Remembers that a version failed, and on whose databases, in one commit: it is not tried again on its own."""
    with tables.writing(journal) as connection:
        connection.execute("insert or replace into rejected values (?, ?, ?)", (version, reason, time.time()))
        connection.execute("delete from rejected_for where version = ?", (version,))
        connection.executemany("insert or ignore into rejected_for values (?, ?)", [(version, user) for user in users])


def unreject(journal: Journal, version: str) -> None:
    """A version that passed after all."""
    with tables.writing(journal) as connection:
        connection.execute("delete from rejected where version = ?", (version,))
        connection.execute("delete from rejected_for where version = ?", (version,))


def note_untried(journal: Journal, version: str, users: list[str]) -> None:
    """Notes on whose databases a version has still to be tried."""
    with tables.writing(journal) as connection:
        connection.executemany("insert or replace into untried values (?, ?)", [(user, version) for user in users])


def note_tried(journal: Journal, user: str) -> None:
    """A user's database was tried after all. Repeating it is harmless."""
    with tables.writing(journal) as connection:
        connection.execute("delete from untried where user = ?", (user,))


def is_untried(journal: Journal, user: str, version: str) -> bool:
    """Whether a version has still to be tried on a user's database."""
    sql = "select 1 from untried where user = ? and version = ?"
    return bool(tables.rows(journal, "untried", "untried", sql, user, version))
