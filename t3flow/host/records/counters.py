"""Counters in the journal: how often runs and steps ended in each way, and how long they took. They survive restarts, kills, and retention.

SQLite triggers count in the very transaction that journals what is counted, so a kill at any point neither loses nor doubles a count. Deleting old
runs does not change the counters. An earlier release that is installed again counts as well, because the triggers are part of the journal's file.
"""

import json
import sqlite3
import time
from collections.abc import Sequence
from typing import NamedTuple

from t3flow.engine.journal import Journal
from t3flow.host.records import tables

RUNS = "runs"
"""[workflow, outcome] → ended runs."""
STEPS = "steps"
"""[step, kind of event] → ended steps."""
STEP_SECONDS = "step_seconds"
"""[step, bound] → attempts of a step that took at most so long and longer than the bound before; the sum has the labels [step]."""
RESULTS = "results"
"""[workflow, result] → users in ended runs."""
DOWNTIME = "downtime_seconds"
"""[bound] → restarts with a downtime up to it."""
PAIRING = "pairing_seconds"
"""[bound] → successful probes that took so long."""
PROBES = "probes"
"""["ok" or "failed"] → probes of pairings by t3flow."""
DISPATCH = "dispatch"
"""["failure" or "fallback"] → lines in the dispatch's log about pairings by others than t3flow."""
DROPPED = "dropped"
"""[] → messages in the queue that t3flow did not write."""
SINCE = "since"
"""[] → `at`: when counting began."""
SUM = "_sum"
"""Suffix of the counter that has the seconds of a histogram in total."""

STEP_BOUNDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
DOWNTIME_BOUNDS = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)
PAIRING_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets, in seconds. A later release may have others: what was counted keeps its own."""

TABLE = """
create table if not exists counters (
    metric text not null, labels text not null, value real not null, at real not null, primary key (metric, labels)
) without rowid"""
ADDED = "on conflict (metric, labels) do update set value = value + excluded.value, at = excluded.at"
ADD = f"insert into counters values (?, ?, ?, ?) {ADDED}"


def _bucket(seconds: str, bounds: Sequence[float]) -> str:
    """Return SQL for the lowest bound that a number of seconds does not exceed."""
    return f"coalesce((select min(value) from json_each('{json.dumps(bounds)}') where value >= {seconds}), '+Inf')"


_ATTEMPT = """(select max(0, new.at - at) as seconds from events
    where run = new.run and seq < new.seq and step = new.step and kind = 'started' order by seq desc limit 1)"""
_USERS = """(select case json_type(value, '$.result') when 'text' then json_extract(value, '$.result') end as result,
    json_extract(value, '$.downtime_s') as seconds
    from json_each(case when json_valid(new.result) then new.result end, '$.users') where type = 'object')"""
TRIGGERS = {
    "count_step": f"""create trigger count_step after insert on events
when new.kind in ('completed', 'failed', 'undone', 'undo_failed') begin
    insert into counters values ('{STEPS}', json_array(new.step, new.kind), 1, new.at) {ADDED};
    insert into counters select '{STEP_SECONDS}', json_array(new.step, {_bucket("seconds", STEP_BOUNDS)}), 1, new.at
        from {_ATTEMPT} where true {ADDED};
    insert into counters select '{STEP_SECONDS}{SUM}', json_array(new.step), seconds, new.at from {_ATTEMPT} where true {ADDED};
end""",
    "count_run": f"""create trigger count_run after update of status on runs
when old.status = 'running' and new.status != 'running' begin
    insert into counters values ('{RUNS}', json_array(new.workflow, coalesce(new.outcome, '')), 1, new.updated) {ADDED};
    insert into counters select '{RESULTS}', json_array(new.workflow, result), 1, new.updated
        from {_USERS} where result is not null {ADDED};
    insert into counters select '{DOWNTIME}', json_array({_bucket("seconds", DOWNTIME_BOUNDS)}), 1, new.updated
        from {_USERS} where typeof(seconds) in ('integer', 'real') {ADDED};
    insert into counters select '{DOWNTIME}{SUM}', '[]', seconds, new.updated
        from {_USERS} where typeof(seconds) in ('integer', 'real') {ADDED};
end""",
}


class Counter(NamedTuple):
    """How often something happened, or the seconds that it took in total, and when it happened last (epoch seconds)."""

    value: float
    at: float


Counters = dict[tuple[str, ...], Counter]
"""Labels → counter."""


def install(journal: Journal) -> None:
    """Create the table and the triggers of this release. Idempotent; writes nothing if they are there."""
    known = {str(sql).lower() for (sql,) in journal.query("select sql from sqlite_master where type = 'trigger'")}
    if tables.has_table(journal, "counters") and {sql.lower() for sql in TRIGGERS.values()} <= known:
        return
    with journal.transaction() as connection:
        connection.execute(TABLE)
        connection.execute("insert or ignore into counters values (?, '[]', 0, ?)", (SINCE, time.time()))
        for name, sql in TRIGGERS.items():
            connection.execute(f"drop trigger if exists {name}")
            connection.execute(sql)


def add(connection: sqlite3.Connection, metric: str, labels: Sequence[str], value: float = 1.0) -> None:
    """Add to a counter within the caller's transaction. The table is created if it is missing."""
    connection.execute(TABLE)
    connection.execute(ADD, (metric, json.dumps(labels), value, time.time()))


def observe(connection: sqlite3.Connection, metric: str, bounds: Sequence[float], seconds: float) -> None:
    """Count a duration in the bucket that it belongs to, and add it to the sum, within the caller's transaction."""
    bound = next((str(bound) for bound in bounds if seconds <= bound), "+Inf")
    add(connection, metric, [bound])
    add(connection, f"{metric}{SUM}", [], max(0.0, seconds))


def read(journal: Journal) -> dict[str, Counters]:
    """Return all counters by name, as of one moment. Empty for the journal of an earlier release."""
    found: dict[str, Counters] = {}
    if tables.has_table(journal, "counters"):
        for metric, labels, value, at in journal.query("select metric, labels, value, at from counters"):
            found.setdefault(metric, {})[tuple(str(label) for label in json.loads(labels))] = Counter(value, at)
    return found
