"""What t3flow itself does to a user's pairing, and when: its own probes, and the time in which it restarts a server.

Noted as rows of user, begin and end, so that what the dispatch logs meanwhile is blamed on no build. A probe within a restart needs no
note of its own: the restart ends with it.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

from t3flow.engine.journal import Journal
from t3flow.host.records import tables

KEPT_SECONDS = 3600.0
"""How long it is remembered; also the longest that a restart which was never finished counts as one."""
AFTERMATH_SECONDS = 10.0
"""A browser's request that met a restarting server fails when the dispatch's two exchanges, 5 s each, have waited in vain."""
PROBE_SECONDS = 60.0
"""No probe, and no line that the dispatch logs of it, takes longer."""
LAG_SECONDS = 1.0
"""How much later than the answer its line may be dated."""


def restarting(journal: Journal, user: str) -> None:
    """The user's server is about to be away because of us. Repeating it changes nothing."""
    with _writing(journal, user) as connection:
        connection.execute(
            "insert into ours select ?, ?, null where not exists (select 1 from ours where user = ? and until is null)",
            (user, time.time(), user),
        )


def restarted(journal: Journal, user: str) -> None:
    """The user's server is back, or was left as it was; who met it while it was away may still hear of it for a moment."""
    with _writing(journal, user) as connection:
        over = time.time() + AFTERMATH_SECONDS
        connection.execute("update ours set until = ? where user = ? and until is null", (over, user))


@contextmanager
def probing(journal: Journal, user: str) -> Iterator[None]:
    """Within, the user's pairing is tried by us. After a failure the dispatch may be at it for a moment still; after a kill, for PROBE_SECONDS."""
    begin = time.time()
    with _writing(journal, user) as connection:
        connection.execute("insert or replace into ours values (?, ?, ?)", (user, begin, begin + PROBE_SECONDS))
    after = AFTERMATH_SECONDS
    try:
        yield
        after = LAG_SECONDS
    finally:
        with _writing(journal, user) as connection:
            over = time.time() + after
            connection.execute("update ours set until = ? where user = ? and since = ?", (over, user, begin))


def was_ours(journal: Journal, user: str, earliest: float, latest: float) -> bool:
    """Whether something at a time from `earliest` to `latest` (epoch seconds) may have been of our doing."""
    sql = "select 1 from ours where user = ? and since <= ? and ? <= coalesce(until, since + ?)"
    return bool(tables.rows(journal, "ours", f"{tables.OWN_ACTIVITY}{user}", sql, user, latest, earliest, KEPT_SECONDS))


def begun(journal: Journal, user: str) -> float | None:
    """Return when the restart began that is under way (epoch seconds), or None: one that was never finished counts as over after KEPT_SECONDS."""
    sql = "select min(since) from ours where user = ? and until is null and since > ?"
    found = tables.rows(journal, "ours", f"{tables.OWN_ACTIVITY}{user}", sql, user, time.time() - KEPT_SECONDS)
    return found[0][0] if found else None


@contextmanager
def _writing(journal: Journal, user: str) -> Iterator[sqlite3.Connection]:
    """A transaction, not synced, which also forgets what is long over."""
    with tables.transaction(journal, synced=False) as connection:
        yield connection
        oldest = time.time() - KEPT_SECONDS
        connection.execute("delete from ours where user = ? and coalesce(until, since) <= ?", (user, oldest))
