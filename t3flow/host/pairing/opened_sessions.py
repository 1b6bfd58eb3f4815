"""The sessions that t3flow's own probes opened and that are not revoked yet, in the journal. Only ids are recorded, never a cookie."""

import time

from t3flow.engine.journal import Journal, JournalError
from t3flow.engine.log import logger
from t3flow.host.records import tables
from t3flow.host.records.tables import has_table
from t3flow.t3 import sessions

LIFETIME_SECONDS = 31 * 86400.0
"""t3 ends a session by itself after 30 days."""


def note(journal: Journal, user: str, cookie: str) -> None:
    """Record the session of a cookie. Best effort: a session that is not recorded ends by itself after 30 days."""
    if not (session := sessions.session_id(cookie)):
        return
    try:
        with tables.transaction(journal, synced=False) as connection:
            now = time.time()
            connection.execute("insert or replace into probe_sessions values (?, ?, ?)", (user, session, now))
            connection.execute("delete from probe_sessions where opened < ?", (now - LIFETIME_SECONDS,))
    except JournalError as error:
        logger.debug("the session of a probe was not recorded: {}", error)


def opened(journal: Journal) -> dict[str, list[str]]:
    """Return the ids of the recorded sessions of each user, the oldest first."""
    found: dict[str, list[str]] = {}
    if has_table(journal, "probe_sessions"):
        for user, session in journal.query("select user, session from probe_sessions order by opened"):
            found.setdefault(str(user), []).append(str(session))
    return found


def forget(journal: Journal, user: str, ids: list[str]) -> None:
    """Drop sessions that are revoked, or that cannot be. Idempotent."""
    with tables.transaction(journal, synced=False) as connection:
        sql = "delete from probe_sessions where user = ? and session = ?"
        connection.executemany(sql, [(user, session) for session in ids])
