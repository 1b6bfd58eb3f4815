"""Retention: delete runs that ended long ago, in batches so small that no worker waits for them.

Safe to kill at any point: a run goes last, after all of its events. What a power cut brings back is deleted again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from loguru import logger

from t3flow.engine.journal import Journal

BATCH_EVENTS = 500
"""Events deleted in one transaction, which takes a few milliseconds."""
PAUSE_SECONDS = 0.01
"""Between two batches, for threads that wait to write."""
MAX_EVENTS, MAX_RUNS, MAX_SECONDS = 20_000, 2_000, 1.0
"""Bounds of one call."""
FREE_PAGES = 2_000
"""Free pages that one call returns to the file system."""

OLD_RUNS = """
select id from runs where created < ? and updated < ? and status != 'running' {unused}
and id not in (select id from (select id, max(created) from runs where status != 'running' group by workflow))
order by created limit ?"""
"""Runs that ended before a time, oldest first, without the newest of each workflow, which `status` shows."""


@dataclass(frozen=True)
class Deleted:
    """What one call has deleted, and whether that was all."""

    runs: int
    events: int
    is_complete: bool


def delete_runs_before(
    journal: Journal,
    before: float,
    is_needed: Callable[[str], bool] = lambda run_id: False,
    max_events: int = MAX_EVENTS,
) -> Deleted:
    """Delete the runs that ended before a time (epoch seconds), and their events. Idempotent. Raises JournalError.

    A run stays if another table of the journal refers to it in a column `run` (a deferral, a backup, the lease, a signal) or if `is_needed` returns
    true. Bounded: call again for the rest.
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
    """Delete the first events of a run, and with the last of them the run, unless it is needed by now. Return how many events."""
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
    """Return the tables that refer to runs, including those of a later t3flow."""
    rows = journal.query(
        "select m.name from sqlite_master as m join pragma_table_info(m.name) as p on p.name = 'run' "
        "where m.type = 'table' and m.name != 'events' order by m.name"
    )
    return [str(row[0]) for row in rows]


def delete_expired_runs(
    journal: Journal, keep_days: float, is_needed: Callable[[str], bool] = lambda run_id: False
) -> Deleted:
    """Delete runs older than so many days and free their space. Bounded and idempotent, for the work of each minute."""
    total = delete_runs_before(journal, time.time() - keep_days * 86400, is_needed)
    if total.runs or total.events:
        pages = journal.free_pages(FREE_PAGES)
        logger.info(
            "deleted {} runs and {} events that are over {:g} days old from the journal ({} pages freed)",
            total.runs,
            total.events,
            keep_days,
            pages,
        )
    return total
