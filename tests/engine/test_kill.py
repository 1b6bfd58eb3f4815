"""Consumers killed with SIGKILL at points spread over all their work: each run ends as it would have."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t3flow.engine.history import CONTINUED
from t3flow.engine.journal import Journal, append_event
from t3flow.engine.runs import Outcome, end_run, new_run, send_signal

PROGRAM = Path(__file__).with_name("program.py")


def _start(top: Path, url: str, **environment: str) -> subprocess.Popen[str]:
    words = [sys.executable, str(PROGRAM), str(top / "journal.db"), url, str(top / "trace")]
    child = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **environment}
    )
    assert child.stdout is not None
    assert child.stdout.readline() in ("ready\n", "")  # a step may have killed it already
    return child


def _ended(journal: Journal, run: str) -> bool:
    return journal.run(run).status != "running"


@pytest.mark.parametrize("fail", [False, True], ids=["to the end", "undone"])
def test_killed_at_random_moments(tmp_path: Path, queue_url: str, fail: bool) -> None:
    dice = random.Random(7)
    journal = Journal(tmp_path / "journal.db", create=True)
    length = 40
    run = new_run(journal, "chain", {"length": length, "fail": fail})
    assert run is not None
    kills = 0
    for _ in itertools.repeat(None, 200):
        child = _start(tmp_path, queue_url)
        deadline = time.monotonic() + dice.uniform(0.01, 0.25)
        while time.monotonic() < deadline and not _ended(journal, run):
            time.sleep(0.002)
        child.kill()
        child.wait()
        kills += 1
        if _ended(journal, run):
            break
    assert journal.run(run).outcome == ("failed_as_asked" if fail else "done")
    assert kills >= 3, "the consumer must be killed on the way"
    lines = (tmp_path / "trace").read_text().split("\n")
    put = [int(line.split()[1]) for line in lines if line.startswith("put")]
    unput = [int(line.split()[1]) for line in lines if line.startswith("unput")]
    assert sorted(set(put)) == list(range(length))
    assert put == sorted(put), "in order, each at most repeated"
    assert len(put) - length <= kills
    if fail:
        assert sorted(set(unput)) == list(range(length))
        assert unput == sorted(unput, reverse=True)
    else:
        assert unput == []
    assert journal.query("select * from locks") == []


@pytest.mark.parametrize("last_line", ["put 3", "put 10", "unput 19", "unput 10", "unput 0"])
def test_killed_before_an_upgrade_that_renames_steps(tmp_path: Path, last_line: str) -> None:
    """The later program finds results, a step under way, and undos under former names. Each undo runs, and only an interrupted one runs twice."""
    journal = Journal(tmp_path / "journal.db", create=True)
    run = new_run(journal, "chain", {"length": 20, "fail": True})
    assert run is not None
    url = f"sqlite://{tmp_path}/queue.db"
    trace = tmp_path / "trace"
    earlier = _start(tmp_path, url, PROGRAM_IS_EARLIER="1")
    deadline = time.monotonic() + 20
    while not (trace.exists() and f"{last_line}\n" in trace.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    earlier.kill()
    earlier.wait()
    former = {event.step for event in journal.events(run) if event.kind in ("completed", "undone")}
    later = _start(tmp_path, url)
    while not _ended(journal, run):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    later.kill()
    later.wait()
    assert "program_add" in former
    assert journal.run(run).outcome == "failed_as_asked"
    lines = trace.read_text().split()[1::2]
    expected = [str(number) for number in [*range(20), *reversed(range(20))]]
    assert [number for number, _ in itertools.groupby(lines)] == [number for number, _ in itertools.groupby(expected)]
    assert len(expected) <= len(lines) <= len(expected) + 1, "an interrupted step may run twice"


def test_a_step_that_kills_its_consumer_is_given_up(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", create=True)
    run = new_run(journal, "deadly", {})
    assert run is not None
    url = f"sqlite://{tmp_path}/queue.db"
    for _ in range(3):
        assert _start(tmp_path, url).wait(20) == -signal.SIGKILL
    child = _start(tmp_path, url)
    deadline = time.monotonic() + 30
    while not _ended(journal, run):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.kill()
    child.wait()
    ended = journal.run(run)
    assert ended.outcome == "error"
    assert "died 3 times" in ended.result["reason"]
    assert (tmp_path / "trace").read_text().split() == ["put", "1", "die", "die", "die", "unput", "1"]


def test_sigterm_ends_within_seconds_and_the_run_goes_on(tmp_path: Path, queue_url: str) -> None:
    journal = Journal(tmp_path / "journal.db", create=True)
    run = new_run(journal, "long", {})
    assert run is not None
    for times in (1, 2, 3, 4):
        child = _start(tmp_path, queue_url)
        deadline = time.monotonic() + 10
        while not (tmp_path / "trace").exists() or (tmp_path / "trace").read_text().count("long") < times:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        began = time.monotonic()
        child.terminate()
        child.wait(20)
        assert time.monotonic() - began < 5
        assert journal.run(run).status == "running"
        assert journal.run(run).claim is None
    child = _start(tmp_path, queue_url)
    time.sleep(0.3)
    send_signal(journal, run, "cancel")
    deadline = time.monotonic() + 10
    while not _ended(journal, run):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.kill()
    child.wait()
    assert "interrupted by cancel" in journal.run(run).result["reason"]


def test_killed_while_a_run_starts_over(tmp_path: Path, queue_url: str) -> None:
    """Each number is put in order, twice only if interrupted; no lease is left, and no history is long."""
    dice = random.Random(11)
    journal = Journal(tmp_path / "journal.db", create=True)
    count = 200
    run = new_run(journal, "laps", {"count": count})
    assert run is not None
    kills, last = 0, 0
    while not _ended(journal, run):
        assert kills < 200
        child = _start(tmp_path, queue_url)
        deadline = time.monotonic() + dice.uniform(0.05, 0.4)
        while time.monotonic() < deadline and not _ended(journal, run):
            time.sleep(0.002)
        child.kill()
        child.wait()
        kills += 1
        events = journal.events(run)
        assert events[0].kind == "created"
        assert len(events) < 30
        assert events[-1].seq >= last, "event numbers rise"
        last = events[-1].seq
    assert journal.run(run).result["reason"] == str(count)
    assert kills >= 3, "the consumer must be killed on the way"
    lines = (tmp_path / "trace").read_text().split("\n")
    put = [int(line.split()[1]) for line in lines if line.startswith("put")]
    assert sorted(set(put)) == list(range(count))
    assert put == sorted(put)
    assert len(put) - count <= kills
    assert not [line for line in lines if line.startswith("unput")]
    assert journal.query("select * from locks") == []
    [continued] = [event for event in journal.events(run) if event.kind == CONTINUED]
    assert continued.data["times"] >= 8


TRIM = """
import sys
from pathlib import Path
from t3flow.engine import retention
from t3flow.engine.journal import Journal
retention.BATCH_EVENTS, retention.PAUSE_SECONDS = 7, 0.0
journal = Journal(Path(sys.argv[1]))
print("ready", flush=True)
while not retention.delete_expired_runs(journal, 90, lambda run: run == "needed").is_complete:
    pass
"""


def test_killed_while_old_runs_are_deleted(tmp_path: Path) -> None:
    """Runs to keep are complete at each point, runs to delete are gone in the end, and the file is intact."""
    dice = random.Random(5)
    journal = Journal(tmp_path / "journal.db", create=True)
    names = [f"old-{number}" for number in range(60)]
    for name in (*names, "needed", "young"):
        new_run(journal, "chain", {}, run_id=name)
        with journal.transaction(synced=False) as connection:
            for number in range(100):
                append_event(connection, name, "completed", "step", 1, {"result": number})
        end_run(journal, journal.run(name), Outcome("done"))
        with journal.transaction() as connection:
            then = time.time() - (1 if name == "young" else 100) * 86400
            connection.execute("update runs set created = ?, updated = ? where id = ?", (then, then, name))
    kills, code = 0, -1
    while code != 0:
        words = [sys.executable, "-c", TRIM, str(journal.path)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(dice.uniform(0.0, 0.03))
        if kills < 100:
            child.kill()
        code = child.wait()
        kills += 1
        assert journal.query("pragma integrity_check") == [("ok",)]
        for name in ("needed", "young"):
            assert len(journal.events(name)) == 102
        left = [run.id for run in journal.runs()]
        assert {run for (run,) in journal.query("select distinct run from events")} <= set(left), (
            "no events without their run"
        )
    assert left == ["needed", "young"]
    assert kills >= 5, "the consumer must be killed on the way"
