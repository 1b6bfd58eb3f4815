"""The engine on both queues: replay, retries, sagas, signals, the lease, recovery, and deliveries in any order."""

import itertools
import random
import sqlite3
import threading
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
from support import begin, deliver, kinds, open_engine, queue_of, settle, take, watching

from t3flow import T3flowError
from t3flow.engine import engine as engines
from t3flow.engine import journal as journals
from t3flow.engine.errors import Interrupted, NotYet, StepFailed, UndoFailed
from t3flow.engine.flow import current_flow
from t3flow.engine.journal import Journal, JournalError, append_event
from t3flow.engine.runs import HOST_LEASE, Abort, Outcome, new_run, send_signal, wake_run
from t3flow.engine.step import STEPS, pause, step

EFFECTS: list[str] = []


@pytest.fixture(autouse=True)
def _no_effects() -> None:
    EFFECTS.clear()


class Flaky(T3flowError):
    """A temporary failure."""


@step()
def remove(name: str) -> None:
    """Undo an addition."""
    EFFECTS.append(f"-{name}")


@step(undo=remove)
def add(name: str) -> str:
    """Have an effect."""
    EFFECTS.append(f"+{name}")
    return name.upper()


@step(retries=3, retry_delay_seconds=0.01, retry_on=(Flaky,))
def flaky(failures: int) -> int:
    """Fail so many times, then succeed."""
    EFFECTS.append("try")
    if EFFECTS.count("try") <= failures:
        raise Flaky("not now")
    return EFFECTS.count("try")


@step()
def broken() -> None:
    """Fail for good."""
    raise T3flowError("it is broken")


@step()
def buggy() -> None:
    """Have a bug."""
    raise KeyError("nothing")


@step()
def refuse_undo() -> None:
    """Fail as an undo."""
    raise T3flowError("cannot be undone")


@step(undo=refuse_undo)
def irrevocable() -> None:
    """Have an undo that fails."""


@step()
def poll(times: int) -> int:
    """Poll, and be ready at the given call."""
    EFFECTS.append("poll")
    if EFFECTS.count("poll") < times:
        raise NotYet(time.time() + 0.3, "patience")
    return EFFECTS.count("poll")


@step(interruptible=True)
def long_work() -> None:
    """Work until interrupted."""
    EFFECTS.append("long")
    pause(20)


def straight() -> Outcome:
    """Run two steps."""
    return Outcome("done", add("a") + add("b"))


def retrying(failures: int) -> Outcome:
    """Run a step that fails at first."""
    try:
        return Outcome("done", str(flaky(failures)))
    except StepFailed as failure:
        return Outcome("gave_up", f"{failure.kind}: {failure.reason}", "failed")


def polling(times: int) -> Outcome:
    """Run a step that polls."""
    return Outcome("done", str(poll(times)))


def saga(fail: str) -> Outcome:
    """Change three things as one."""
    flow = current_flow()
    try:
        with flow.saga():
            add("1")
            if fail == "undo":
                irrevocable()
            add("2")
            if fail == "abort":
                raise Abort(Outcome("aborted", "as asked", "failed"))
            if fail:
                broken()
            add("3")
    except UndoFailed as failure:
        return Outcome("undo_failed", failure.reason, "failed")
    except StepFailed as failure:
        return Outcome("undone", failure.reason, "failed")
    return Outcome("done")


def settled_then_failing() -> Outcome:
    """Settle an inner saga before the outer one fails."""
    flow = current_flow()
    with flow.saga():
        add("outer")
        with flow.saga():
            add("inner")
        raise Abort(Outcome("aborted", "", "failed"))


def bug() -> Outcome:
    """Run a step with a bug."""
    with current_flow().saga():
        add("1")
        buggy()
    return Outcome("done")


def exclusive(name: str) -> Outcome:
    """Work with the lease."""
    with current_flow().lease(HOST_LEASE):
        add(name)
        poll(1)
        add(f"{name}'")
        poll_twice()
        remove(name)
    return Outcome("done")


@step()
def poll_twice() -> None:
    """Sleep once while the run has the lease."""
    EFFECTS.append("twice")
    if EFFECTS.count("twice") % 2:
        raise NotYet(time.time() + 0.01, "once more")


def interruptible() -> Outcome:
    """Stop when interrupted, and report the signal."""
    try:
        with current_flow().saga():
            add("1")
            long_work()
    except Interrupted as interrupted:
        return Outcome("stopped", interrupted.signal, "cancelled")
    return Outcome("done")


def shielded() -> Outcome:
    """Defer signals for a while."""
    flow = current_flow()
    try:
        with flow.shielded():
            add("1")
            poll(3)
            add("2")
        add("3")
    except Interrupted as interrupted:
        return Outcome("stopped", interrupted.signal, "cancelled")
    return Outcome("done")


WORKFLOWS = {
    each.__name__: each
    for each in (straight, retrying, polling, saga, settled_then_failing, bug, exclusive, interruptible, shielded)
}


def test_a_run_goes_through_its_steps_once(tmp_path: Path, queue_url: str) -> None:
    engine = open_engine(tmp_path, WORKFLOWS, queue_url)
    run = settle(engine, begin(engine, "straight"))
    assert (run.status, run.outcome, run.result["reason"]) == ("succeeded", "done", "AB")
    assert EFFECTS == ["+a", "+b"]
    assert kinds(engine, run.id) == ["created", "started add", "completed add", "started add", "completed add", "ended"]


def test_a_replay_takes_results_from_the_journal(tmp_path: Path, queue_url: str) -> None:
    """After a crash between two steps, only the second one runs."""
    engine = open_engine(tmp_path, WORKFLOWS, queue_url)
    run_id = begin(engine, "straight")
    with engine.journal.transaction() as connection:
        append_event(connection, run_id, "started", "add", 1, {"args": ["a"], "kwargs": {}})
        append_event(connection, run_id, "completed", "add", 1, {"result": "FROM JOURNAL "})
    run = settle(engine, run_id)
    assert run.result["reason"] == "FROM JOURNAL B"
    assert EFFECTS == ["+b"]


@pytest.mark.parametrize("seed", range(20))
def test_each_message_three_times_in_any_order(tmp_path: Path, queue_url: str, seed: int) -> None:
    """Runs retry, poll, take the lease, and fail; each message is delivered three times, shuffled, by several workers at once."""
    import threading
    from datetime import UTC, datetime

    dice = random.Random(seed)
    engine = open_engine(tmp_path, WORKFLOWS, queue_url)
    runs = [
        begin(engine, "straight"),
        begin(engine, "exclusive", name="x"),
        begin(engine, "exclusive", name="y"),
        begin(engine, "saga", fail="step"),
    ]
    kept: list[object] = []
    deadline = time.monotonic() + 20
    while any(engine.journal.run(run).status == "running" for run in runs):
        assert time.monotonic() < deadline, [kinds(engine, run) for run in runs]
        now = datetime.now(UTC).replace(tzinfo=None)
        fresh = list(engine.queue.read_schedule(now))
        while (task := take(engine.queue)) is not None:
            fresh.append(task)
        kept += fresh * 3
        dice.shuffle(kept)
        batch, kept = kept[: dice.randint(1, 6)], kept[6:] if len(kept) > 40 else kept
        kept = [task for task in kept if task not in batch] if dice.random() < 0.5 else kept
        threads = [threading.Thread(target=engine.queue.execute, args=(task, now)) for task in batch]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        engine.recover()
    for task in kept * 3:
        engine.queue.execute(task)
    assert sorted(effect for effect in EFFECTS if effect[0] in "+-") == sorted(
        ["+a", "+b", "+x", "+x'", "-x", "+y", "+y'", "-y", "+1", "+2", "-2", "-1"]
    )
    alone = [effect for effect in EFFECTS if effect[1] in "xy"]
    assert alone in (["+x", "+x'", "-x", "+y", "+y'", "-y"], ["+y", "+y'", "-y", "+x", "+x'", "-x"])


def test_a_step_is_queued_again_when_it_may_be(tmp_path: Path, queue_url: str) -> None:
    engine = open_engine(tmp_path, WORKFLOWS, queue_url)
    run_id = begin(engine, "retrying", failures=2)
    deliver(engine)
    scheduled = engine.queue.scheduled()
    assert [task.name for task in scheduled] == ["flaky"], "the retry is a Huey task named after the step"
    run = settle(engine, run_id)
    assert (run.outcome, run.result["reason"]) == ("done", "3")


def test_a_step_that_never_works_is_given_up(tmp_path: Path) -> None:
    engine = open_engine(tmp_path, WORKFLOWS)
    run = settle(engine, begin(engine, "retrying", failures=99))
    assert (run.outcome, run.result["reason"]) == ("gave_up", "Flaky: not now")
    assert EFFECTS == ["try"] * 4


def test_a_polling_step_keeps_one_row(tmp_path: Path, queue_url: str) -> None:
    engine = open_engine(tmp_path, WORKFLOWS, queue_url)
    run = settle(engine, begin(engine, "polling", times=20))
    assert run.result["reason"] == "20"
    waiting = [event for event in engine.journal.events(run.id) if event.kind == "waiting"]
    assert [event.data["checks"] for event in waiting] == [19]
    assert len(engine.journal.events(run.id)) == 5


@pytest.mark.parametrize(
    ("fail", "outcome", "effects"),
    [
        ("", "done", ["+1", "+2", "+3"]),
        ("step", "undone", ["+1", "+2", "-2", "-1"]),
        ("abort", "aborted", ["+1", "+2", "-2", "-1"]),
        ("undo", "undo_failed", ["+1", "+2", "-2", "-1"]),
    ],
)
def test_a_saga_is_all_or_nothing(tmp_path: Path, fail: str, outcome: str, effects: list[str]) -> None:
    engine = open_engine(tmp_path, WORKFLOWS)
    run = settle(engine, begin(engine, "saga", fail=fail))
    assert (run.outcome, EFFECTS) == (outcome, effects)


def test_what_an_inner_saga_settled_is_not_undone(tmp_path: Path) -> None:
    engine = open_engine(tmp_path, WORKFLOWS)
    run = settle(engine, begin(engine, "settled_then_failing"))
    assert (run.outcome, EFFECTS) == ("aborted", ["+outer", "+inner", "-outer"])


def test_a_mistake_in_a_step_undoes_and_ends_as_error(tmp_path: Path) -> None:
    engine = open_engine(tmp_path, WORKFLOWS)
    run = settle(engine, begin(engine, "bug"))
    assert (run.outcome, run.status) == ("error", "failed")
    assert "KeyError" in run.result["reason"]
    assert EFFECTS == ["+1", "-1"]


def test_another_versions_history_is_undone_not_guessed_at(tmp_path: Path) -> None:
    engine = open_engine(tmp_path, WORKFLOWS)
    run_id = begin(engine, "saga", fail="")
    with engine.journal.transaction() as connection:
        append_event(connection, run_id, "started", "add", 1, {"args": ["0"], "kwargs": {}})
        append_event(connection, run_id, "completed", "add", 1, {"result": "0"})
        append_event(connection, run_id, "completed", "a_step_of_yore", 1, {"result": None})
    run = settle(engine, run_id)
    assert (run.outcome, EFFECTS) == ("error", ["-0"])
    assert "another version" in run.result["reason"]


def test_a_step_under_way_is_undone_with_the_others(tmp_path: Path) -> None:
    """The consumer dies in the second step, and the next program's workflow differs before it."""
    engine = open_engine(tmp_path, WORKFLOWS)
    run_id = begin(engine, "saga", fail="")
    with engine.journal.transaction() as connection:
        append_event(connection, run_id, "completed", "a_step_of_yore", 1, {"result": None})
        append_event(connection, run_id, "started", "add", 1, {"args": ["1"], "kwargs": {}})
    assert settle(engine, run_id).outcome == "error"
    assert EFFECTS == ["-1"]


def test_a_journal_that_cannot_be_written_leaves_the_run_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is locked just when a step ends: nothing is undone or ended unnoticed, and the run resumes from its last event."""
    monkeypatch.setattr(journals, "BUSY_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(engines, "STALLED_RETRY_SECONDS", 0.1)
    engine = open_engine(tmp_path, WORKFLOWS)
    run_id = begin(engine, "saga", fail="")
    function = STEPS["add"].function

    def held(name: str) -> str:
        done: str = function(name)
        if EFFECTS == ["+1"]:
            other.execute("begin immediate")
        return done

    monkeypatch.setattr(STEPS["add"], "function", held)
    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as other:
        deliver(engine)
        assert (EFFECTS, engine.journal.run(run_id).status) == (["+1"], "running")
        assert engine.journal.query("select run from locks") == []
        other.execute("rollback")
    engine.recover()
    assert settle(engine, run_id).outcome == "done"
    assert EFFECTS == ["+1", "+1", "+2", "+3"]


def test_a_step_that_meets_such_a_journal_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unwritable journal does not count as a death of the consumer, however often it happens."""
    monkeypatch.setattr(engines, "STALLED_RETRY_SECONDS", 0.01)
    engine = open_engine(tmp_path, WORKFLOWS)
    run_id = begin(engine, "saga", fail="")
    function = STEPS["add"].function

    def held(name: str) -> str:
        if len(EFFECTS) < 5:
            EFFECTS.append("held")
            raise JournalError("the journal is locked")
        done: str = function(name)
        return done

    monkeypatch.setattr(STEPS["add"], "function", held)
    assert settle(engine, run_id).outcome == "done"
    assert EFFECTS == [*["held"] * 5, "+1", "+2", "+3"]


def test_an_unknown_workflow_is_undone(tmp_path: Path) -> None:
    engine = open_engine(tmp_path, WORKFLOWS)
    run_id = begin(engine, "of_yore")
    with engine.journal.transaction() as connection:
        append_event(connection, run_id, "started", "add", 1, {"args": ["0"], "kwargs": {}})
        append_event(connection, run_id, "completed", "add", 1, {"result": "0"})
    assert settle(engine, run_id).outcome == "error"
    assert EFFECTS == ["-0"]


def test_a_signal_interrupts_a_long_step_and_undoes(tmp_path: Path, queue_url: str) -> None:
    engine = open_engine(tmp_path, WORKFLOWS, queue_url)
    run_id = begin(engine, "interruptible")
    with watching(engine):
        worker = threading.Thread(target=deliver, args=(engine,))
        worker.start()
        while "long" not in EFFECTS:
            time.sleep(0.01)
        began = time.monotonic()
        send_signal(engine.journal, run_id, "cancel")
        worker.join(10)
        assert time.monotonic() - began < 3
    run = engine.journal.run(run_id)
    assert (run.outcome, run.result["reason"]) == ("stopped", "cancel")
    assert EFFECTS == ["+1", "long", "-1"]


def test_a_signal_is_held_back_by_a_shield(tmp_path: Path) -> None:
    engine = open_engine(tmp_path, WORKFLOWS)
    run_id = begin(engine, "shielded")
    deliver(engine)
    send_signal(engine.journal, run_id, "freeze")
    run = settle(engine, run_id)
    assert (run.outcome, run.result["reason"]) == ("stopped", "freeze")
    assert [effect for effect in EFFECTS if effect != "poll"] == ["+1", "+2"]


def test_a_signal_wakes_a_sleeper(tmp_path: Path, queue_url: str) -> None:
    engine = open_engine(tmp_path, {"sleeper": sleeper}, queue_url)
    run_id = begin(engine, "sleeper")
    deliver(engine)
    assert engine.journal.run(run_id).status == "running"
    send_signal(engine.journal, run_id, "cancel")
    engine.deliver_signals()
    deliver(engine)
    assert engine.journal.run(run_id).outcome == "woken"


@step()
def sleep_long() -> None:
    """Sleep for an hour."""
    raise NotYet(time.time() + 3600, "the hour")


def sleeper() -> Outcome:
    """Sleep until signaled."""
    try:
        sleep_long()
    except Interrupted:
        return Outcome("woken")
    return Outcome("slept")


def test_shutdown_lets_a_run_go_and_the_next_engine_takes_it_up(tmp_path: Path, queue_url: str) -> None:
    engine = open_engine(tmp_path, WORKFLOWS, queue_url)
    run_id = begin(engine, "interruptible")
    worker = threading.Thread(target=deliver, args=(engine,))
    worker.start()
    while "long" not in EFFECTS:
        time.sleep(0.01)
    engine.stop()
    worker.join(5)
    assert not worker.is_alive()
    assert engine.journal.run(run_id).claim is None
    after = open_engine(tmp_path, WORKFLOWS, queue_url)
    assert after.recover() >= 0
    with watching(after):
        worker = threading.Thread(target=deliver, args=(after,))
        worker.start()
        while EFFECTS.count("long") < 2:
            time.sleep(0.01)
        send_signal(after.journal, run_id, "cancel")
        worker.join(10)
    assert after.journal.run(run_id).outcome == "stopped"


def test_a_step_that_begins_as_the_engine_stops_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step checked for signals just before, and is not under way yet when running steps are interrupted."""
    engine = open_engine(tmp_path, WORKFLOWS)
    run_id = begin(engine, "interruptible")
    monkeypatch.setattr(engine, "_on_event", lambda run, event: engine.stop() if event.step == "long_work" else None)
    worker = threading.Thread(target=deliver, args=(engine,))
    worker.start()
    worker.join(5)
    assert not worker.is_alive()
    assert kinds(engine, run_id)[-1] == "stopped long_work"
    assert engine.journal.run(run_id).claim is None


def test_the_lock_goes_to_the_urgent_then_to_the_oldest(tmp_path: Path, queue_url: str) -> None:
    engine = open_engine(tmp_path, WORKFLOWS, queue_url)
    first, second = begin(engine, "exclusive", name="1"), begin(engine, "exclusive", name="2")
    urgent = new_run(engine.journal, "exclusive", {"name": "3"}, priority=9)
    assert urgent is not None
    engine.advance(first)  # takes the lease and sleeps with it
    for run in (second, urgent):
        engine.advance(run)
    for run in (first, second, urgent):
        settle(engine, run)
    assert [effect for effect in EFFECTS if effect[-1] == "'"] == ["+1'", "+3'", "+2'"]


def test_a_lost_queue_is_rebuilt_from_the_journal(tmp_path: Path, queue_url: str, queue_kind: str) -> None:
    """The queue is deleted, flushed, or replaced: all pending messages are restored."""
    engine = open_engine(tmp_path, {**WORKFLOWS, "sleeper": sleeper}, queue_url)
    runs = [begin(engine, "polling", times=3), begin(engine, "sleeper")]
    deliver(engine)
    engine.queue.storage.flush_all()
    assert engine.queue.message_ids() == set()
    assert engine.recover() == 2
    assert len(engine.queue.message_ids()) == 2
    engine.recover()
    assert len(engine.queue.message_ids()) == 2, "a run with a message gets no second one"
    assert settle(engine, runs[0]).outcome == "done"
    other = open_engine(tmp_path, {**WORKFLOWS, "sleeper": sleeper}, f"sqlite://{tmp_path}/other.db")
    assert other.recover() == 1


def test_claims_of_a_dead_incarnation_count_for_nothing(tmp_path: Path) -> None:
    engine = open_engine(tmp_path, WORKFLOWS)
    run_id = begin(engine, "straight")
    with engine.journal.transaction() as connection:
        connection.execute("update runs set claim = 'feed/1' where id = ?", (run_id,))
    assert settle(engine, run_id).outcome == "done"


def test_a_held_run_rests_and_a_released_one_goes_on(tmp_path: Path, queue_url: str) -> None:
    engine = open_engine(tmp_path, WORKFLOWS, queue_url)
    run_id = begin(engine, "polling", times=2)
    deliver(engine)
    engine.revoke({run_id: "frozen"})
    engine.revoke({run_id: "frozen"})
    time.sleep(0.05)
    deliver(engine)
    engine.recover()
    deliver(engine)
    assert engine.journal.run(run_id).status == "running"
    engine.restore([run_id])
    engine.restore([run_id])
    assert settle(engine, run_id).outcome == "done"


def test_an_early_copy_of_a_hint_does_nothing(tmp_path: Path) -> None:
    engine = open_engine(tmp_path, {"sleeper": sleeper})
    run_id = begin(engine, "sleeper")
    deliver(engine)
    before = engine.journal.events(run_id)
    for _ in range(5):
        engine.hint(run_id)
        deliver(engine)
    assert engine.journal.events(run_id) == before


@pytest.mark.parametrize("with_lease", [False, True])
def test_a_wake_in_the_middle_of_a_poll_is_kept(
    tmp_path: Path, with_lease: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step has read the state before the wake, and asks to sleep for an hour after it."""

    def poll_hourly(times: int) -> int:
        EFFECTS.append("polled")
        if len(EFFECTS) == 1:
            wake_run(engine.journal, run_id)
            engine.hint(run_id)
        raise NotYet(time.time() + 3600, "an hour")

    def hourly() -> Outcome:
        with current_flow().lease(HOST_LEASE) if with_lease else nullcontext():
            return Outcome("done", str(poll(2)))

    monkeypatch.setattr(poll, "function", poll_hourly)
    engine = open_engine(tmp_path, {"hourly": hourly})
    run_id = begin(engine, "hourly")
    deliver(engine)
    assert EFFECTS == ["polled", "polled"]
    run = engine.journal.run(run_id)
    assert run.wake_at is not None
    assert run.wake_at > time.time() + 3000


def test_a_hint_that_comes_before_the_release_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue may deliver a message to another worker before the sender has let the run go."""

    @step()
    def due_at_once() -> None:
        """Poll without a delay, three times."""
        EFFECTS.append("asked")
        if len(EFFECTS) < 4:
            raise NotYet(time.time(), "nothing")

    def eager() -> Outcome:
        due_at_once()
        return Outcome("done")

    monkeypatch.delitem(STEPS, "due_at_once")
    engine = open_engine(tmp_path, {"eager": eager})

    def deliver_at_once(run_id: str, at: float | None = None, step: str | None = None, **more: Any) -> str:
        other = threading.Thread(target=engine.advance, args=(run_id,))
        other.start()
        other.join()
        return "delivered"

    monkeypatch.setattr(engine.queue, "send", deliver_at_once)
    begin(engine, "eager")
    assert [run.outcome for run in engine.journal.runs()] == ["done"]


def test_two_engines_never_share_a_run(tmp_path: Path) -> None:
    """Claims are compare-and-swap: in one process only one worker has a run, however many threads try."""
    engine = open_engine(tmp_path, WORKFLOWS)
    for _ in range(20):
        run_id = begin(engine, "straight")
        EFFECTS.clear()
        threads = [threading.Thread(target=engine.advance, args=(run_id,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert EFFECTS == ["+a", "+b"]


def test_a_scheduled_id_is_taken_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", create=True)
    assert new_run(journal, "straight", {}, run_id="bump-1") == "bump-1"
    assert new_run(journal, "straight", {}, run_id="bump-1") is None


def test_the_queue_may_be_away(tmp_path: Path, redis_server: Any) -> None:
    """Recovery sends the hint when the queue answers again."""
    engine = open_engine(tmp_path, WORKFLOWS, redis_server.url)
    redis_server.stop()
    run_id = begin(engine, "straight")
    assert engine.recover() == 0, "an unavailable queue is not called again"
    redis_server.start()
    engine.probe_queue()
    assert settle(engine, run_id).outcome == "done"


def test_ids_are_new_each_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", create=True)
    made = {new_run(journal, "straight", {}) for _ in range(200)}
    assert len(made) == 200


def test_queues_of_two_processes_are_one(queue_url: str, tmp_path: Path) -> None:
    engine = open_engine(tmp_path, WORKFLOWS, queue_url)
    run_id = new_run(engine.journal, "straight", {})
    assert run_id is not None
    other = queue_of(queue_url)
    other.register(lambda run: None, [])
    for _ in itertools.repeat(None, 3):
        other.send(run_id)
    assert settle(engine, run_id).outcome == "done"
    assert EFFECTS == ["+a", "+b"]
