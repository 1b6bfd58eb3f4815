"""Counters in the journal: what the triggers count, over kills, retention, and the journal of an earlier release."""

import itertools
import json
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from t3flow.engine import retention
from t3flow.engine.journal import Journal, append_event
from t3flow.engine.runs import Outcome, end_run, new_run
from t3flow.host.pairing import own_activity
from t3flow.host.records import counters, tables

PROGRAM = Path(__file__).parents[1] / "engine" / "program.py"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "journal.db", create=True, extra_schema=tables.SCHEMA)
    counters.install(made)
    return made


def record(journal: Journal, run: str, *kinds: str, step: str = "resolve") -> None:
    for kind in kinds:
        with journal.transaction() as connection:
            append_event(connection, run, kind, step, 1, {})


def values(journal: Journal, metric: str) -> dict[tuple[str, ...], float]:
    return {labels: counter.value for labels, counter in counters.read(journal).get(metric, {}).items()}


def test_a_run_counts_once_with_its_users(journal: Journal) -> None:
    """The outcome, each user's result, and each downtime in its bucket; malformed results are left out and end the run all the same."""
    run = new_run(journal, "bump", {}) or ""
    users = {
        "ada": {"result": "restarted", "downtime_s": 0.25},
        "grace": {"result": "restarted", "downtime_s": 400},
        "linus": {"result": "deferred", "downtime_s": None},
        "odd": "text",
        "odder": {"result": ["x"], "downtime_s": "long"},
    }
    before = time.time()
    end_run(journal, journal.run(run), Outcome("updated", "", "succeeded", {"users": users}))
    assert values(journal, counters.RUNS) == {("bump", "updated"): 1}
    assert values(journal, counters.RESULTS) == {("bump", "restarted"): 2, ("bump", "deferred"): 1}
    assert values(journal, counters.DOWNTIME) == {("0.25",): 1, ("+Inf",): 1}
    assert values(journal, counters.DOWNTIME + counters.SUM) == {(): 400.25}
    assert before <= counters.read(journal)[counters.RUNS]["bump", "updated"].at <= time.time()
    for data in ({"users": float("nan")}, {"users": [1]}, {}):
        again = new_run(journal, "bump", {}) or ""
        end_run(journal, journal.run(again), Outcome("error", "", "failed", data))
    assert values(journal, counters.RUNS) == {("bump", "updated"): 1, ("bump", "error"): 3}
    assert sum(values(journal, counters.RESULTS).values()) == 3


def test_steps_count_by_kind_and_by_how_long_an_attempt_took(journal: Journal) -> None:
    """Completed, failed, undone and not undone; the time is that of the last attempt, and never negative."""
    run = new_run(journal, "bump", {}) or ""
    record(journal, run, "started")
    time.sleep(0.12)
    record(journal, run, "retrying", "started", "completed")
    record(journal, run, "started", "failed")
    record(journal, run, "started", "undone", "undo_failed", step="undo")
    record(journal, run, "completed", step="never started")
    assert values(journal, counters.STEPS) == {
        ("resolve", "completed"): 1,
        ("resolve", "failed"): 1,
        ("undo", "undone"): 1,
        ("undo", "undo_failed"): 1,
        ("never started", "completed"): 1,
    }
    assert values(journal, counters.STEP_SECONDS) == {("resolve", "0.1"): 2, ("undo", "0.1"): 2}
    assert 0 <= values(journal, counters.STEP_SECONDS + counters.SUM)[("resolve",)] < 0.1
    with journal.transaction() as connection:  # the clock was set back by an hour
        connection.execute("update events set at = at + 3600 where kind = 'started'")
    record(journal, run, "completed")
    assert values(journal, counters.STEP_SECONDS) == {("resolve", "0.1"): 3, ("undo", "0.1"): 2}


def test_kills_neither_lose_nor_double_a_count(tmp_path: Path, journal: Journal) -> None:
    """Real consumers, killed at random moments: the counters equal what the journal has, each time."""
    dice = random.Random(11)
    runs = [new_run(journal, "chain", {"length": 12, "fail": number % 2 == 0}) or "" for number in range(6)]
    words = [sys.executable, str(PROGRAM), str(journal.path), f"sqlite://{tmp_path}/queue.db", str(tmp_path / "trace")]
    kills = 0
    for _ in itertools.repeat(None, 200):
        child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        deadline = time.monotonic() + dice.uniform(0.02, 0.2)
        while time.monotonic() < deadline and any(journal.run(run).status == "running" for run in runs):
            time.sleep(0.002)
        child.kill()
        child.wait()
        kills += 1
        compare(journal)
        if all(journal.run(run).status != "running" for run in runs):
            break
    assert kills >= 3, "the consumer must be killed on the way"
    assert values(journal, counters.RUNS) == {("chain", "done"): 3, ("chain", "failed_as_asked"): 3}
    before = counters.read(journal)
    end_run(journal, journal.run(new_run(journal, "chain", {}) or ""), Outcome("done"))  # the newest stays
    assert retention.delete_runs_before(journal, time.time() + 1).runs == len(runs)
    assert journal.query("select count(*) from runs") == [(1,)]
    after = counters.read(journal)
    assert after[counters.RUNS]["chain", "done"].value == 4
    assert {**after, counters.RUNS: None} == {**before, counters.RUNS: None}


def compare(journal: Journal) -> None:
    """Check the counters against the events and runs of one moment."""
    with closing(sqlite3.connect(journal.path)) as connection:
        connection.execute("begin")
        kinds = ("completed", "failed", "undone", "undo_failed")
        steps = connection.execute(f"select step, kind from events where kind in {kinds}").fetchall()
        ended = connection.execute("select workflow, outcome from runs where status != 'running'").fetchall()
        rows = connection.execute("select metric, labels, value from counters").fetchall()
    found = {(metric, *json.loads(labels)): value for metric, labels, value in rows}
    assert {key[1:]: value for key, value in found.items() if key[0] == counters.STEPS} == Counter(steps)
    assert {key[1:]: value for key, value in found.items() if key[0] == counters.RUNS} == Counter(ended)
    in_buckets: Counter[str] = Counter()
    for key, value in found.items():
        if key[0] == counters.STEP_SECONDS:
            in_buckets[key[1]] += int(value)
    assert in_buckets == Counter(step for step, _ in steps)


def test_triggers_of_another_release_are_replaced(journal: Journal) -> None:
    """A release that counts in another way puts its own triggers in place, and keeps what was counted; a start that changes nothing writes nothing."""
    run = new_run(journal, "bump", {}) or ""
    end_run(journal, journal.run(run), Outcome("updated"))
    with journal.transaction() as connection:
        connection.execute("drop trigger count_run")
        connection.execute("create trigger count_run after update of status on runs begin select 1; end")
    counters.install(journal)
    written = journal.query("pragma schema_version")
    counters.install(journal)
    assert journal.query("pragma schema_version") == written
    run = new_run(journal, "bump", {}) or ""
    end_run(journal, journal.run(run), Outcome("updated"))
    assert values(journal, counters.RUNS) == {("bump", "updated"): 2}


def test_a_journal_without_counters_is_read_and_probes_count_in_it(tmp_path: Path) -> None:
    """An earlier release's journal has no counters; the first probe by a command creates the table, before any consumer has started."""
    made = Journal(tmp_path / "journal.db", create=True, extra_schema=tables.SCHEMA)
    assert counters.read(made) == {}
    with own_activity.probing(made, "ada"):
        pass
    with pytest.raises(ZeroDivisionError), own_activity.probing(made, "ada"):
        raise ZeroDivisionError
    assert values(made, counters.PROBES) == {("ok",): 1, ("failed",): 1}
    assert values(made, counters.PAIRING) == {("0.1",): 1}
    counters.install(made)
    assert counters.SINCE in counters.read(made)
    assert values(made, counters.PROBES) == {("ok",): 1, ("failed",): 1}
