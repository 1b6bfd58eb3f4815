"""Databases that are written to while a snapshot of them takes long: their server is not stopped for a second one, and their user is told why."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from rigged import Rig
from scenes import FIRST, NEXT, write

from t3flow.deferrals import blockers
from t3flow.host.backups import durations
from t3flow.rollout import stop
from t3flow.sandbox.host import Sandbox

STOP = stop.stop_if_idle.name
WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("pragma synchronous = off")
connection.execute("create table if not exists notes (at real)")
while True:
    connection.execute("insert into notes values (?)", (time.time(),))
    print("written", flush=True)
    time.sleep(0.01)
"""


@pytest.fixture
def rig(make_box: Callable[..., Sandbox], monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Return a user with a database of 40 MB, and a bound that a snapshot of it exceeds."""
    box = make_box(["ada"], consumer=False)
    monkeypatch.setenv("PATH", box.environment["PATH"])
    write(box.database("ada"), "create table large as select randomblob(40000000) as bytes")
    monkeypatch.setattr(stop, "SECOND_SNAPSHOT_SECONDS", 0.05)
    monkeypatch.setattr(stop, "RECHECK_SECONDS", 1.2)
    return Rig(box, {"schema_level": 32})


@pytest.fixture
def writer(rig: Rig) -> Iterator[subprocess.Popen[bytes]]:
    """Return a program beside the server that writes to the database all the time, and to nothing that says who is at work."""
    words = [sys.executable, "-c", WRITER, str(rig.box.database("ada"))]
    child = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def test_the_server_runs_on_and_the_user_is_told(rig: Rig, writer: subprocess.Popen[bytes], log: list[str]) -> None:
    """Three tries without a moment of outage, each later than the last; then the alert and `status` say which file, by what, and the command."""
    server = rig.box.supervise("status", "ada")
    waits = []
    for _ in range(blockers.LOG_FROM[blockers.WRITTEN]):
        assert blockers.lines(rig.host.journal) == {}
        run = rig.drain()
        [asked] = [each for each in rig.host.journal.events(run.id) if (each.kind, each.step) == ("completed", STOP)]
        waits.append(asked.data["result"]["ask_again"] - asked.at)
        found = rig.deferral()
        assert found.waiting_for == "quiet_period", found
        assert "databases change while a snapshot of them takes" in found.detail
    now = rig.box.supervise("status", "ada")
    assert (now["main_pid"], now["starts"]) == (server["main_pid"], server["starts"]), "it was never stopped"
    assert all(later > 1.5 * wait for wait, later in itertools.pairwise(waits)), waits
    assert rig.box.pairs("ada")
    for text in ("state.sqlite-wal", f"(pid {writer.pid}), outside t3-serve@ada", "; t3flow enqueue drain ada"):
        assert text in rig.status(), text
        assert any(blockers.MARK in line and text in line for line in log), text
    assert rig.verdict == (False, False)


def test_a_person_may_insist_and_is_told_the_outage(
    rig: Rig, writer: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain of all does not; a drain of the named user takes the second snapshot, whatever it takes, and says for how long they were away."""
    rig.drain()
    assert "moved 0 of 1 deferred" in rig.now().result["reason"]
    assert rig.box.assigned("ada") == FIRST
    monkeypatch.setattr("t3flow.restart.LONG_OUTAGE_SECONDS", 0.1)
    ended = rig.now("ada")
    assert (ended.outcome, rig.box.assigned("ada"), rig.box.level("ada")) == ("updated", NEXT, 32), ended.result
    assert "ada was down for " in ended.result["reason"]
    assert blockers.lines(rig.host.journal) == {}


def test_a_snapshot_that_takes_longer_than_expected_is_used(
    rig: Rig, writer: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outage is paid for by then: the user is moved with it, and not started again on the former version."""
    monkeypatch.setattr(durations, "snapshot_seconds", lambda journal, user: 0.01)
    began = rig.box.supervise("status", "ada")["starts"]
    rig.drain()
    assert (rig.box.assigned("ada"), rig.box.level("ada")) == (NEXT, 32)
    assert rig.box.supervise("status", "ada")["starts"] == began + 1, "one stop and one start"


def test_a_quiet_database_is_moved_however_long_its_snapshot_takes(rig: Rig) -> None:
    """What was not written to needs no second snapshot. The newest snapshot's duration is noted; one that served again leaves it as it is."""
    rig.drain()
    assert (rig.box.assigned("ada"), rig.box.level("ada")) == (NEXT, 32)
    assert durations.snapshot_seconds(rig.host.journal, "ada") > 0.05
