"""Measured durations for each user: the newest snapshot, and the start of a version on the user's databases as the gate saw it.

They are in a table that the first write creates, so that an earlier release can still read and write the journal.
"""

import time

from t3flow.engine.journal import Journal
from t3flow.host.host import Host
from t3flow.host.records import tables

TABLE = """
create table if not exists measured (
    user text not null, what text not null, seconds real not null, at real not null, primary key (user, what)
) without rowid"""
SNAPSHOT = "snapshot"
START = "start:"
KEPT_SECONDS = 30 * 86400.0
LOAD_FACTOR = 3.0
"""How many times longer a start may take in place than in the gate, where no other server shares the host."""


def note_snapshot(journal: Journal, user: str, seconds: float) -> None:
    """Record how long a user's newest snapshot took."""
    _note(journal, user, SNAPSHOT, seconds)


def snapshot_seconds(journal: Journal, user: str) -> float:
    """Return how long a user's newest snapshot took; 0 if that was not measured."""
    return max(_seconds(journal, "user = ? and what = ?", user, SNAPSHOT), default=0.0)


def note_start(journal: Journal, user: str, version: str, seconds: float) -> None:
    """Record how long a version took to its first answer on a copy of a user's databases, including its migration. Idempotent."""
    _note(journal, user, START + version, seconds)


def start_seconds(journal: Journal, user: str, version: str) -> float:
    """Return how long a version took to start on a user's databases; if it was not tried on them, the longest start of any user; otherwise 0."""
    own = _seconds(journal, "user = ? and what = ?", user, START + version)
    return max(own or _seconds(journal, "what = ?", START + version), default=0.0)


def start_limit(host: Host, user: str, version: str) -> float:
    """Return the time limit (seconds) for a server's first answer in place: the limits in the settings, or the gate's measurement with a margin."""
    settings = host.settings
    measured = LOAD_FACTOR * start_seconds(host.journal, user, version)
    return max(float(settings.dispatch.verify_timeout_s), float(settings.gate.start_timeout_s), measured)


def _note(journal: Journal, user: str, what: str, seconds: float) -> None:
    now = time.time()
    with journal.transaction(synced=False) as connection:
        connection.execute(TABLE)
        connection.execute("delete from measured where user = ? and at < ?", (user, now - KEPT_SECONDS))
        connection.execute("insert or replace into measured values (?, ?, ?, ?)", (user, what, seconds, now))


def _seconds(journal: Journal, where: str, *values: str) -> list[float]:
    if not tables.has_table(journal, "measured"):
        return []
    return [float(seconds) for (seconds,) in journal.query(f"select seconds from measured where {where}", *values)]
