"""Probes and restarts by t3flow itself, recorded per user with begin and end.

What the dispatch logs during them is blamed on no version. A probe within a restart needs no record: the restart lasts longer.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

from t3flow.engine.journal import Journal
from t3flow.host.records import counters, tables

RETENTION_SECONDS = 3600.0
"""How long records are kept; also how long a restart that never finished counts as in flight."""
AFTERMATH_SECONDS = 10.0
"""A browser's request to a restarting server fails after the two exchanges of the dispatch, of 5 s each, have timed out."""
PROBE_SECONDS = 60.0
"""Upper bound of a probe and of the delay of its line in the dispatch's log."""
LAG_SECONDS = 1.0
"""How much later than the answer the log line may be dated."""


def note_restart(journal: Journal, user: str) -> None:
    """Record that t3flow is about to stop a user's server. Idempotent."""
    with _transaction(journal, user) as connection:
        connection.execute(
            "insert into ours select ?, ?, null where not exists (select 1 from ours where user = ? and until is null)",
            (user, time.time(), user),
        )


def note_restart_end(journal: Journal, user: str) -> None:
    """Record that a user's server is back, or was not stopped. Requests from before may still fail for AFTERMATH_SECONDS."""
    with _transaction(journal, user) as connection:
        over = time.time() + AFTERMATH_SECONDS
        connection.execute("update ours set until = ? where user = ? and until is null", (over, user))


@contextmanager
def probing(journal: Journal, user: str) -> Iterator[None]:
    """Record and count a probe of a pairing for the block. After a failure it lasts AFTERMATH_SECONDS longer; after a kill, PROBE_SECONDS in all."""
    begin, started = time.time(), time.monotonic()
    with _transaction(journal, user) as connection:
        connection.execute("insert or replace into ours values (?, ?, ?)", (user, begin, begin + PROBE_SECONDS))
    after = AFTERMATH_SECONDS
    try:
        yield
        after = LAG_SECONDS
    finally:
        took = time.monotonic() - started
        with _transaction(journal, user) as connection:
            over = time.time() + after
            connection.execute("update ours set until = ? where user = ? and since = ?", (over, user, begin))
            counters.add(connection, counters.PROBES, ["ok" if after == LAG_SECONDS else "failed"])
            if after == LAG_SECONDS:
                counters.observe(connection, counters.PAIRING, counters.PAIRING_BOUNDS, took)


def is_own(journal: Journal, user: str, earliest: float, latest: float) -> bool:
    """Return whether an event between `earliest` and `latest` (epoch seconds) may have been caused by t3flow."""
    sql = "select 1 from ours where user = ? and since <= ? and ? <= coalesce(until, since + ?)"
    return bool(
        tables.rows(journal, "ours", f"{tables.OWN_ACTIVITY}{user}", sql, user, latest, earliest, RETENTION_SECONDS)
    )


def restart_began(journal: Journal, user: str) -> float | None:
    """Return when the restart in flight began (epoch seconds), or None. A restart that never finished counts for RETENTION_SECONDS."""
    sql = "select min(since) from ours where user = ? and until is null and since > ?"
    found = tables.rows(journal, "ours", f"{tables.OWN_ACTIVITY}{user}", sql, user, time.time() - RETENTION_SECONDS)
    return found[0][0] if found else None


@contextmanager
def _transaction(journal: Journal, user: str) -> Iterator[sqlite3.Connection]:
    """Open a transaction (not synced) that also deletes old records."""
    with tables.transaction(journal, synced=False) as connection:
        yield connection
        oldest = time.time() - RETENTION_SECONDS
        connection.execute("delete from ours where user = ? and coalesce(until, since) <= ?", (user, oldest))
