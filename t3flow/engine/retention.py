"""Retention: the events of runs that ended long ago are deleted, in batches so small that no worker waits for them.

Safe to kill at any point: a run whose events are half deleted is still there and is gone through again. What was deleted unsynced and comes back
after a power cut is deleted again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from loguru import logger

from t3flow.engine.journal import Journal

BATCH_EVENTS = 500
"""How many events one transaction deletes: a few milliseconds."""
PAUSE_SECONDS = 0.01
"""Between two batches, for those who wait to write."""
MAX_EVENTS, MAX_RUNS, MAX_SECONDS = 20_000, 2_000, 1.0
"""The most that one call deletes, and the longest that it takes."""
FREE_PAGES = 2_000
"""How many free pages one call gives back to the file system."""

OLD_RUNS = """
select id from runs where created < ? and updated < ? and status != 'running' {unused}
and id not in (select id from (select id, max(created) from runs where status != 'running' group by workflow))
order by created limit ?"""
"""Ended runs from before a time, oldest first, without the newest of each workflow: `status` tells of that one."""


@dataclass(frozen=True)
class Deleted:
    """What one call has deleted, and whether there is more to delete."""

    runs: int
    events: int
    is_complete: bool


def delete_runs_before(
    journal: Journal,
    before: float,
    is_needed: Callable[[str], bool] = lambda run_id: False,
    max_events: int = MAX_EVENTS,
) -> Deleted:
    """Delete the runs that ended before a time (epoch seconds), their events first. Idempotent.

    A run to which another table of the journal refers in a column `run` (a deferral, a backup, a lock, a signal) stays, and so does one of which
    `is_needed` says so. Bounded: call again for the rest. Raises JournalError.
    """
    unused = "".join(f" and id not in (select run from {table})" for table in _tables_with_runs(journal))
    found = [str(row[0]) for row in journal.query(OLD_RUNS.format(unused=unused), before, before, MAX_RUNS)]
    deadline = time.monotonic() + MAX_SECONDS
    runs = events = 0
    for run_id in found:
        if is_needed(run_id):
            continue
        while True:
            if events >= max_events or time.monotonic() > deadline:
                return Deleted(runs, events, is_complete=False)
            count = _delete_batch(journal, run_id, unused)
            events += count
            if count < BATCH_EVENTS:
                runs += 1
                break
            time.sleep(PAUSE_SECONDS)
    return Deleted(runs, events, is_complete=len(found) < MAX_RUNS)


def _delete_batch(journal: Journal, run_id: str, unused: str) -> int:
    """Delete the first events of a run, and with the last of them the run, unless something has come to need it. Return how many."""
    with journal.transaction(synced=False) as connection:
        row = connection.execute(
            f"select 1 from runs where id = ? and status != 'running'{unused}", (run_id,)
        ).fetchone()
        if row is None:
            return 0
        deleted = connection.execute(
            "delete from events where run = ? and seq in (select seq from events where run = ? order by seq limit ?)",
            (run_id, run_id, BATCH_EVENTS),
        ).rowcount
        if deleted < BATCH_EVENTS:
            connection.execute("delete from runs where id = ?", (run_id,))
    return deleted


def _tables_with_runs(journal: Journal) -> list[str]:
    """The tables that refer to runs, whichever there are: those of a later t3flow included."""
    rows = journal.query(
        "select m.name from sqlite_master as m join pragma_table_info(m.name) as p on p.name = 'run' "
        "where m.type = 'table' and m.name != 'events' order by m.name"
    )
    return [str(row[0]) for row in rows]


def delete_expired_runs(
    journal: Journal, keep_days: float, is_needed: Callable[[str], bool] = lambda run_id: False
) -> Deleted:
    """Delete what is older than so many days and give its space back. Bounded and idempotent, for a minute's tick."""
    trimmed = delete_runs_before(journal, time.time() - keep_days * 86400, is_needed)
    if trimmed.runs or trimmed.events:
        pages = journal.free_pages(FREE_PAGES)
        logger.info(
            "the journal has {} runs and {} events less, which ended over {:g} days ago ({} pages given back)",
            trimmed.runs,
            trimmed.events,
            keep_days,
            pages,
        )
    return trimmed
