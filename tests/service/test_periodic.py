"""The scheduled bump: planned beforehand, started once, skipped if missed; and what a starting consumer removes."""

import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime

import pytest
from conftest import RedisServer

from t3flow import periodic
from t3flow.engine.engine import Engine
from t3flow.engine.journal import append_event
from t3flow.engine.queue import open_queue
from t3flow.engine.runs import HOST_LEASE, new_run
from t3flow.host import freeze
from t3flow.host.host import Host, set_current_host
from t3flow.host.records import deferral_records, facts
from t3flow.settings.schema import Settings
from t3flow.workflows import WORKFLOWS


def plan(host: Host) -> dict[str, float]:
    found = facts.read(host.journal, periodic.NEXT_BUMP)
    assert isinstance(found, dict)
    return found


def test_a_due_bump_is_begun_once(bare: Callable[..., Host]) -> None:
    host = bare()
    now = time.time()
    assert periodic.start_due_bump(host, now) is None, "the first call only plans"
    at = plan(host)["at"]
    assert at > now
    assert periodic.start_due_bump(host, at - 1) is None
    run = periodic.start_due_bump(host, at + 30)
    assert run is not None
    assert periodic.start_due_bump(host, at + 31) is None
    assert plan(host)["at"] > at + 60
    assert [each.id for each in host.journal.runs()] == [run]


def test_a_crash_between_the_two_notes_begins_it_once(bare: Callable[..., Host]) -> None:
    """The run's id contains the due time, so a second try creates no second run."""
    host = bare()
    periodic.start_due_bump(host, time.time())
    drawn = plan(host)
    assert periodic.start_due_bump(host, drawn["at"] + 1) is not None
    facts.write(host.journal, periodic.NEXT_BUMP, drawn)
    assert periodic.start_due_bump(host, drawn["at"] + 2) is None
    assert len(host.journal.runs()) == 1


def test_a_missed_bump_is_skipped(bare: Callable[..., Host]) -> None:
    host = bare()
    periodic.start_due_bump(host, time.time())
    at = plan(host)["at"]
    assert periodic.start_due_bump(host, at + 121) is None
    assert host.journal.runs() == []
    assert plan(host)["at"] > at


def test_jitter_is_within_bounds_and_another_each_day(bare: Callable[..., Host]) -> None:
    host = bare()
    drawn = set()
    for _ in range(30):
        periodic.plan_next(host, time.time(), [])
        drawn.add(plan(host)["at"] - plan(host)["due"])
    assert len(drawn) > 20
    assert all(0 <= each <= host.settings.schedule.jitter_s for each in drawn)


def test_scratch_of_ended_runs_is_swept(bare: Callable[..., Host]) -> None:
    host = bare()
    live = new_run(host.journal, "bump", {})
    scratch = host.settings.paths.scratch_dir
    for name in (f"t3flow-{live}", "t3flow-bump-20260101T000000-abcdef", "t3flow-notes", "other"):
        (scratch / name).mkdir()
    periodic.remove_stale_scratch(host)
    assert {path.name for path in scratch.iterdir()} == {f"t3flow-{live}", "t3flow-notes", "other"}


def test_a_bump_is_begun_on_time_without_a_queue(bare: Callable[..., Host], redis_server: RedisServer) -> None:
    """The bump is not lost if Redis is unavailable when it is due, because a thread does the periodic work too."""
    host = bare()
    engine = Engine(host.journal, open_queue(redis_server.url, b"k" * 32), WORKFLOWS)
    periodic.start_due_bump(host, time.time())
    at = time.time() + 1
    facts.write(host.journal, periodic.NEXT_BUMP, {**plan(host), "at": at, "due": at})
    redis_server.child.send_signal(signal.SIGSTOP)
    minute = periodic.Minute(engine, host)
    thread = threading.Thread(target=minute.repeat, args=(lambda: None,))
    try:
        time.sleep(1.5)
        began = time.monotonic()
        thread.start()
        while not (found := host.journal.runs()):
            assert time.monotonic() - began < 20
            time.sleep(0.1)
        assert [run.workflow for run in found] == ["bump"]
        assert found[0].message is None
    finally:
        redis_server.child.send_signal(signal.SIGCONT)
        engine.stopping.set()
        thread.join()
    engine.stopping.clear()
    engine.probe_queue()
    assert host.journal.run(found[0].id).message in engine.queue.message_ids(), (
        "it has its message once the queue is back"
    )


def test_clock_and_queue_do_the_minutes_work_once(bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    host = bare()
    engine = Engine(host.journal, open_queue(f"sqlite://{host.settings.paths.state_dir}/queue.db", b"k" * 32), {})
    done: list[float] = []
    monkeypatch.setattr(periodic, "tick", lambda engine, host: done.append(time.monotonic()))
    minute = periodic.register(engine, host)
    [task] = engine.queue.read_periodic(datetime(2026, 11, 25, 4, 0))
    for _ in range(3):
        minute()
        engine.queue.execute(task)
    assert len(done) == 1


def test_a_host_that_has_just_booted_has_its_first_minute(
    bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that a power cut interrupted resumes at once, since a user's server may be stopped."""
    host = bare()
    engine = Engine(host.journal, open_queue(f"sqlite://{host.settings.paths.state_dir}/queue.db", b"k" * 32), {})
    done: list[str] = []
    monkeypatch.setattr(periodic, "tick", lambda engine, host: done.append("tick"))
    monkeypatch.setattr(time, "monotonic", lambda: 12.0)
    periodic.Minute(engine, host)()
    assert done == ["tick"]


def test_slow_work_of_a_minute_costs_no_other_minute(
    bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bump that is due just after it began would be noticed two minutes later, and skipped."""
    host = bare()
    engine = Engine(host.journal, open_queue(f"sqlite://{host.settings.paths.state_dir}/queue.db", b"k" * 32), {})
    now = 1000.0
    done: list[float] = []

    def tick(*given: object) -> None:
        nonlocal now
        done.append(now)
        now += 40

    monkeypatch.setattr(periodic, "tick", tick)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    minute = periodic.Minute(engine, host)
    minute()
    now = 1060.0
    minute()
    assert done == [1000.0, 1060.0]


def test_a_worker_that_hangs_in_the_minutes_work_silences_the_clock(
    bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise all periodic work would stop while systemd's watchdog is fed."""
    host = bare()
    engine = Engine(host.journal, open_queue(f"sqlite://{host.settings.paths.state_dir}/queue.db", b"k" * 32), {})
    hangs, begun = threading.Event(), threading.Event()

    def hang(*given: object) -> None:
        begun.set()
        hangs.wait()

    monkeypatch.setattr(periodic, "tick", hang)
    monkeypatch.setattr(periodic, "POLL_SECONDS", 0.02)
    minute = periodic.Minute(engine, host)
    beats: list[float] = []
    worker = threading.Thread(target=minute, daemon=True)
    clock = threading.Thread(target=minute.repeat, args=(lambda: beats.append(time.monotonic()),), daemon=True)
    worker.start()
    assert begun.wait(5)
    clock.start()
    time.sleep(0.5)
    assert len(beats) == 1
    hangs.set()
    time.sleep(0.5)
    assert len(beats) > 5
    engine.stopping.set()
    for thread in (worker, clock):
        thread.join(5)


def test_a_drain_that_has_the_host_is_not_held_back(bare: Callable[..., Host]) -> None:
    """It sleeps with the lease, as after a restart of the consumer. Revoked, it would keep the lease and block a rollback."""
    host = bare()
    engine = Engine(host.journal, open_queue(f"sqlite://{host.settings.paths.state_dir}/queue.db", b"k" * 32), {})
    run = new_run(host.journal, "drain", {"user": "ada"}) or ""
    deferral_records.put_deferral(host.journal, "ada", run, "0.0.25", "active_turn", time.time())
    with host.journal.transaction() as connection:
        connection.execute("insert into locks values (?, ?, ?)", (HOST_LEASE, run, time.time()))
    watch = periodic.freeze_watcher(engine, host)
    freeze.freeze(host.settings, host.journal, "as asked")
    watch()
    assert host.journal.run(run).revoked is None
    engine.revoke({run: "frozen"})  # as early versions did
    watch()
    assert host.journal.run(run).revoked is None
    with host.journal.transaction() as connection:
        connection.execute("delete from locks")
    watch()
    assert host.journal.run(run).revoked == "frozen"


def test_a_drain_whose_deferral_was_dropped_halfway_ends(bare: Callable[..., Host]) -> None:
    """A kill between the two writes of `settle_deferral`. Its message stayed revoked, so the run was never advanced again, nor deleted."""
    host = bare()
    set_current_host(host)
    engine = Engine(
        host.journal, open_queue(f"sqlite://{host.settings.paths.state_dir}/queue.db", b"k" * 32), WORKFLOWS
    )
    run = new_run(host.journal, "drain", {"user": "ada"}) or ""
    deferral_records.put_deferral(host.journal, "ada", run, "0.0.25", "active_turn", time.time())
    watch = periodic.freeze_watcher(engine, host)
    freeze.freeze(host.settings, host.journal, "as asked")
    watch()
    assert host.journal.run(run).revoked == "frozen"
    deferral_records.drop_deferral(host.journal, "ada")
    watch()
    engine.advance(run)
    assert host.journal.run(run).outcome == "up_to_date"


def test_a_freeze_that_meets_the_watcher_keeps_its_record(
    bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watcher has just found no file when a run freezes tracking. It took the new record for that of a file which an operator had removed."""
    host = bare()
    engine = Engine(host.journal, open_queue(f"sqlite://{host.settings.paths.state_dir}/queue.db", b"k" * 32), {})
    is_frozen = freeze.is_frozen

    def meet(settings: Settings) -> bool:
        monkeypatch.setattr(freeze, "is_frozen", is_frozen)
        freeze.freeze(host.settings, host.journal, "ada failed", by="bump-1")
        return False

    watch = periodic.freeze_watcher(engine, host)
    monkeypatch.setattr(freeze, "is_frozen", meet)
    watch()
    found = freeze.frozen(host.settings, host.journal)
    assert found is not None
    assert (found["by"], found["reason"]) == ("bump-1", "ada failed")
    host.settings.paths.freeze_file.unlink()
    watch()
    assert facts.read(host.journal, "freeze") is None


@pytest.mark.parametrize(("kind", "is_woken"), [("waiting", True), ("retrying", False)])
def test_a_freeze_wakes_a_bump_that_polls_alone(bare: Callable[..., Host], kind: str, is_woken: bool) -> None:
    """Else a bump that accepts a version, which no freeze ends, would use up the retries of half a minute within two seconds."""
    host = bare()
    set_current_host(host)
    engine = Engine(host.journal, open_queue(f"sqlite://{host.settings.paths.state_dir}/queue.db", b"k" * 32), {})
    run = new_run(host.journal, "bump", {}, wake_at=time.time() + 60) or ""
    with host.journal.transaction() as connection:
        append_event(connection, run, kind, "accept", 1, {})
    freeze.freeze(host.settings, host.journal, "as asked")
    periodic.freeze_watcher(engine, host)()
    assert ((host.journal.run(run).wake_at or 0) <= time.time()) is is_woken


def test_a_part_that_fails_keeps_no_other_from_its_turn(
    bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = bare()
    engine = Engine(host.journal, open_queue(f"sqlite://{host.settings.paths.state_dir}/queue.db", b"k" * 32), {})
    done: list[str] = []

    def fail(*given: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(periodic, "start_due_bump", fail)
    monkeypatch.setattr(engine, "recover", lambda: done.append("recover") or 0)
    periodic.tick(engine, host)
    assert done == ["recover"]
