"""Threads that come and go leave no connection to the journal open."""

import gc
import os
import threading
from contextlib import suppress
from pathlib import Path

from t3flow.engine.journal import Journal


def opened(name: str) -> int:
    """Return how many descriptors of this process are of a file."""
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{descriptor}").endswith(name)
    return found


def test_a_connection_ends_with_its_thread(tmp_path: Path) -> None:
    """Without a garbage collection: SQLite keeps a closed file open while another connection has it, and reuses that descriptor."""
    journal = Journal(tmp_path / "journal.db", create=True)

    def work() -> None:
        with journal.transaction() as connection:
            connection.execute("insert or replace into meta values ('a', 'b')")
        with journal.transaction(synced=False) as connection:
            connection.execute("insert or replace into meta values ('a', 'c')")
        journal.query("select 1 from meta")

    work()
    before = opened("journal.db-wal")
    gc.disable()
    try:
        for _ in range(50):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
    finally:
        gc.enable()
    assert opened("journal.db-wal") == before
    assert opened("journal.db") <= before + 3
