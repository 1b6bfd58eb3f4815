"""How long things took for a user: their newest snapshot, and the start of a version on their databases as its gate saw it.

In a table of the journal's file that is made when first written to, so that an earlier t3flow still reads and writes the journal.
"""

import os
import time
from pathlib import Path

from t3flow.engine.journal import Journal
from t3flow.host import records
from t3flow.host.backups import store
from t3flow.host.host import Host
from t3flow.host.records import Backup

TABLE = """
create table if not exists measured (
    user text not null, what text not null, seconds real not null, at real not null, primary key (user, what)
) without rowid"""
SNAPSHOT = "snapshot"
START = "start:"
KEPT_SECONDS = 30 * 86400.0
UNDER_LOAD = 3.0
"""How many times longer a start may take in place than in the gate, which has no other server to share the host with."""


def take(host: Host, user: str, wrote: str, target: str, run: str, folder: Path | None = None) -> Backup:
    """Take a snapshot (`backups.take`) and note how long it took, unless the last one served again. Raises what that raises."""
    began, since = time.monotonic(), time.time()
    made = store.take(host, user, wrote=wrote, target=target, run=run, folder=folder)
    if (
        folder is None and made.created >= since and os.stat(made.path).st_nlink == 1
    ):  # a link: of a snapshot that is the same
        _note(host.journal, user, SNAPSHOT, time.monotonic() - began)
    return made


def snapshot_seconds(journal: Journal, user: str) -> float:
    """Return how long a user's newest snapshot took; 0 where that was not seen."""
    return max(_seconds(journal, "user = ? and what = ?", user, SNAPSHOT), default=0.0)


def note_start(journal: Journal, user: str, version: str, seconds: float) -> None:
    """Note how long a version took until it answered on a copy of a user's databases, its migration included. Idempotent."""
    _note(journal, user, START + version, seconds)


def start_seconds(journal: Journal, user: str, version: str) -> float:
    """Return how long a version took to start on a user's databases; where it was not tried on them, on anybody's; 0 where on nobody's."""
    own = _seconds(journal, "user = ? and what = ?", user, START + version)
    return max(own or _seconds(journal, "what = ?", START + version), default=0.0)


def start_limit(host: Host, user: str, version: str) -> float:
    """Return how many seconds a server may take in place until its first answer: what the gate allows, or what it measured, with a margin."""
    settings = host.settings
    measured = UNDER_LOAD * start_seconds(host.journal, user, version)
    return max(float(settings.dispatch.verify_timeout_s), float(settings.gate.start_timeout_s), measured)


def _note(journal: Journal, user: str, what: str, seconds: float) -> None:
    now = time.time()
    with journal.transaction(synced=False) as connection:
        connection.execute(TABLE)
        connection.execute("delete from measured where user = ? and at < ?", (user, now - KEPT_SECONDS))
        connection.execute("insert or replace into measured values (?, ?, ?, ?)", (user, what, seconds, now))


def _seconds(journal: Journal, where: str, *values: str) -> list[float]:
    if not records.has_table(journal, "measured"):
        return []
    return [float(seconds) for (seconds,) in journal.query(f"select seconds from measured where {where}", *values)]
