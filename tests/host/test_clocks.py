"""Clock steps and sleeping machines: no missed bump is caught up, no timer is lost."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from conftest import Managed

from t3flow import periodic
from t3flow.deferrals import blockers, idleness
from t3flow.engine.engine import Engine
from t3flow.engine.queue import open_queue
from t3flow.engine.runs import new_run
from t3flow.host import slots
from t3flow.host.host import Host, set_current_host
from t3flow.host.pairing import last_pairings, verify_records
from t3flow.host.pairing.probe import NotPaired
from t3flow.host.records import deferral_records, facts
from t3flow.host.services.manager import ServerState
from t3flow.rollout.bake import begin_bake
from t3flow.service.verifier import Verifier
from t3flow.workflows import WORKFLOWS

HOUR, DAY = 3600.0, 86400.0


def at(host: Host) -> float:
    """Return when the next bump is due."""
    planned = facts.read(host.journal, periodic.NEXT_BUMP)
    assert isinstance(planned, dict)
    found: float = planned["at"]
    return found


@pytest.mark.parametrize("away", [2 * HOUR, 5 * HOUR + 60, 8 * HOUR, DAY, 40 * DAY])
def test_a_machine_that_slept_catches_nothing_up(bare: Callable[..., Host], away: float) -> None:
    """Down or asleep from a minute before the due time: that bump is skipped, and the next one is scheduled."""
    host = bare()
    periodic.start_due_bump(host, time.time())
    due = at(host)
    assert periodic.start_due_bump(host, due - 60) is None
    assert periodic.start_due_bump(host, due - 60 + away) is None
    assert host.journal.runs() == []
    assert at(host) > due - 60 + away


@pytest.mark.parametrize("jump", [DAY, -DAY, HOUR, -HOUR])
def test_a_clock_that_jumps_begins_nothing_twice(bare: Callable[..., Host], jump: float) -> None:
    """Minute by minute over two days with a clock step: at most one bump per due time, none outside its two minutes."""
    host = bare()
    start = time.time()
    periodic.start_due_bump(host, start)
    begun = []
    now = at(host) - 3 * HOUR
    for minute in range(2 * 24 * 60):
        now += 60 + (jump if minute == 60 else 0)
        planned = at(host)
        run = periodic.start_due_bump(host, now)
        if run is not None:
            begun.append(run)
            assert 0 <= now - planned <= 120
    assert len(begun) == len(set(begun))
    assert len(begun) <= 3


def test_every_sleeper_is_woken_by_a_step_of_the_clock(
    bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What sleeps until a time which the clock has just moved a day away from is looked at now.

    A small correction wakes nobody.
    """
    host = bare()
    set_current_host(host)
    run = new_run(host.journal, "drain", {"user": "ada"}, wake_at=time.time() + HOUR)
    assert run is not None
    deferral_records.put_deferral(host.journal, "ada", run, "0.0.25", "window", time.time() + HOUR)
    owed = new_run(host.journal, "revive", {"user": "ada"}, wake_at=time.time() + 60)
    assert owed is not None
    watch = periodic.clock_watcher(host)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 2)
    watch()
    assert (host.journal.run(run).wake_at or 0) > real() + HOUR / 2
    monkeypatch.setattr(time, "time", lambda: real() - DAY)
    watch()
    assert all((host.journal.run(each).wake_at or 0) < real() - DAY + 5 for each in (run, owed))


def test_a_clock_that_was_ahead_while_the_consumer_ran_last(
    bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host boots with a clock that is years ahead, which is corrected at its next boot: nothing sleeps for years, not even the next bump."""
    host = bare()
    set_current_host(host)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 1500 * DAY)
    periodic.start_due_bump(host, time.time())
    run = new_run(host.journal, "drain", {"user": "ada"}, wake_at=time.time() + HOUR) or ""
    deferral_records.put_deferral(host.journal, "ada", run, "0.0.25", "window", time.time() + HOUR)
    blockers.note(host.journal, "bob", blockers.RESTART, "bob was stopped in vain")
    facts.write(host.journal, periodic.HEARTBEAT, time.time())
    monkeypatch.setattr(time, "time", real)
    periodic.clock_watcher(host)
    assert (host.journal.run(run).wake_at or math.inf) <= time.time()
    assert periodic.start_due_bump(host, time.time()) is None
    assert at(host) < time.time() + 400 * DAY
    assert idleness.after_a_failure(host, "ada", time.time()) is None


class Stopped(Managed):
    """A service manager whose servers are stopped."""

    def state(self, user: str) -> ServerState:
        return ServerState(f"t3-serve@{user}", False, None, None, "inactive")


def test_a_drain_that_a_clock_ahead_told_to_wait_reads_its_user(bare: Callable[..., Host]) -> None:
    """An attempt that gave way by the wrong clock was to be repeated years later, and each check until then read nothing."""
    host = bare()
    host = replace(host, services=Stopped(host.settings.paths.serve_env_dir / "none"))
    deferral_records.put_deferral(host.journal, "ada", "drain-1", "0.0.25", "queued_work", time.time())
    pending = deferral_records.deferral(host.journal, "ada")
    assert pending is not None
    for ahead, found in ((HOUR, "queued_work"), (1500 * DAY, "server_stopped")):
        wait = idleness.reason_to_wait(host, pending, time.time() + ahead, any_time=True)
        assert wait is not None
        assert wait["waiting_for"] == found, wait


def test_the_verify_goes_on_after_the_clock_was_set_back(
    bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure seemed to lie ahead, so that one witness was paired each second, no other user was verified, and a fault of the dispatch stayed."""
    host = bare(("ada", "bob", "cy"))
    verifier = Verifier(host, threading.Event())
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + DAY)
    verifier._failed("ada", NotPaired("502"))
    verify_records.note_dispatch(host.journal, "none of the users tried can pair")
    monkeypatch.setattr(time, "time", real)
    tried = []
    for _ in range(3):
        user = verifier._next(["ada", "bob", "cy"], HOUR)
        if user is not None:
            tried.append(user)
            last_pairings.note_pairing(host.journal, user, "")
    assert sorted(tried) == ["ada", "bob", "cy"]
    verifier.advance()
    last_pairings.note_pairing(host.journal, "bob", "")
    verifier.advance()
    assert verify_records.dispatch_fault(host.journal) is None


def test_a_bake_ends_after_the_clock_was_set_back(bare: Callable[..., Host]) -> None:
    """It lasted until the time of the wrong clock, and other hosts of a fleet wait for its end."""
    host = bare()
    set_current_host(host)
    versions_dir, version = host.settings.paths.versions_dir, "0.0.25-nightly.20260609.501"
    slots.slot_path(versions_dir, version).mkdir(parents=True)
    (slots.slot_path(versions_dir, version) / slots.MANIFEST).write_text("{}")
    slots.assign(versions_dir, "ada", version)
    engine = Engine(
        host.journal, open_queue(f"sqlite://{host.settings.paths.state_dir}/queue.db", b"k" * 32), WORKFLOWS
    )
    run = begin_bake.unjournaled(version, ["ada"])
    watch = facts.read(host.journal, facts.BAKE)
    facts.write(host.journal, facts.BAKE, {**watch, "until": time.time() + 1500 * DAY})
    engine.advance(run)
    assert host.journal.run(run).status == "running"
    assert facts.read(host.journal, facts.BAKE)["until"] <= time.time() + host.settings.bake.minutes * 60
