"""Runs that loop for weeks: they continue as new, their replay stays short, and no event costs more than the first."""

import time
from pathlib import Path

import pytest
from support import begin, deliver, open_engine, settle

from t3flow.engine import flow as flows
from t3flow.engine.errors import Interrupted, NotYet, UndoFailed
from t3flow.engine.flow import LONG_HISTORY_EVENTS, current_flow
from t3flow.engine.history import CONTINUED
from t3flow.engine.runs import HOST_LEASE, Outcome, send_signal
from t3flow.engine.step import step
from t3flow.state.runs import Narrator

EFFECTS: list[str] = []


@pytest.fixture(autouse=True)
def _no_effects() -> None:
    EFFECTS.clear()


@step()
def lap_undone(number: int) -> None:
    """Undo a lap."""
    EFFECTS.append(f"-{number}")


@step(undo=lap_undone)
def lap(number: int) -> int:
    """Count one more lap."""
    EFFECTS.append(f"+{number}")
    return number + 1


@step()
def rest(number: int) -> None:
    """Sleep once in each lap."""
    if EFFECTS.count(f"rest {number}") == 0:
        EFFECTS.append(f"rest {number}")
        raise NotYet(time.time(), "breath")


@step()
def think(number: int) -> int:
    """Do nothing."""
    return number


def laps(count: int) -> Outcome:
    """Loop as a drain does: wait, then work with the lease, and carry the count over."""
    flow = current_flow()
    number = int(flow.carried.get("number", 0))
    try:
        while number < count:
            flow.continue_as_new_if_long(number=number)
            rest(number)
            with flow.lease(HOST_LEASE), flow.saga():
                number = lap(number)
    except Interrupted as interrupted:
        return Outcome("stopped", interrupted.signal, "cancelled")
    return Outcome("done", str(number))


def where_it_may_not(how: str) -> Outcome:
    """Try to continue as new while a step is unsettled, or with the lease."""
    flow = current_flow()
    for number in range(LONG_HISTORY_EVENTS):
        think(number)
    try:
        if how == "locked":
            with flow.lease(HOST_LEASE):
                flow.continue_as_new_if_long()
        else:
            with flow.saga():
                lap(1)
                flow.continue_as_new_if_long()
    except UndoFailed:
        return Outcome("wrong")
    return Outcome("done")


def many(count: int) -> Outcome:
    """Run many steps."""
    for number in range(count):
        think(number)
    return Outcome("done")


def many_undoable(count: int) -> Outcome:
    """Run many steps in one saga."""
    with current_flow().saga():
        for number in range(count):
            lap(number)
    return Outcome("done")


WORKFLOWS = {each.__name__: each for each in (laps, where_it_may_not, many, many_undoable)}


def test_a_long_run_starts_over_and_loses_nothing(tmp_path: Path, queue_url: str) -> None:
    engine = open_engine(tmp_path, WORKFLOWS, queue_url)
    run_id = begin(engine, "laps", count=120)
    longest, last, seen = 0, 0, 0
    while engine.journal.run(run_id).status == "running":
        deliver(engine)
        events = engine.journal.events(run_id)
        longest = max(longest, len(events))
        assert events[0].kind == "created"
        assert events[-1].seq >= last, "event numbers rise"
        for event in engine.journal.events(run_id, seen):
            seen = event.seq
        last = events[-1].seq
    run = engine.journal.run(run_id)
    assert (run.outcome, run.result["reason"]) == ("done", "120")
    assert [effect for effect in EFFECTS if effect[0] in "+-"] == [f"+{number}" for number in range(120)]
    assert longest <= LONG_HISTORY_EVENTS + 20
    events = engine.journal.events(run_id)
    assert seen == events[-1].seq > 700
    [continued] = [event for event in events if event.kind == CONTINUED]
    assert continued.data["times"] >= 3
    assert continued.data["events"] > 600, "including the deleted events"
    line = Narrator(run).line(continued)
    assert line is not None
    assert "starts over" in line.text


@pytest.mark.parametrize("how", ["locked", "unsettled"])
def test_it_does_not_start_over_where_something_is_open(tmp_path: Path, how: str) -> None:
    engine = open_engine(tmp_path, WORKFLOWS)
    run = settle(engine, begin(engine, "where_it_may_not", how=how))
    assert run.outcome == "done"
    assert CONTINUED not in {event.kind for event in engine.journal.events(run.id)}


def test_a_signal_that_comes_meanwhile_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "LONG_HISTORY_EVENTS", 20)
    engine = open_engine(tmp_path, WORKFLOWS)
    run_id = begin(engine, "laps", count=50)
    while CONTINUED not in {event.kind for event in engine.journal.events(run_id)}:
        engine.advance(run_id)
    send_signal(engine.journal, run_id, "cancel")
    run = settle(engine, run_id)
    assert (run.outcome, run.result["reason"]) == ("stopped", "cancel")


@pytest.mark.parametrize("workflow", ["many", "many_undoable"])
def test_the_last_event_costs_no_more_than_the_first(tmp_path: Path, workflow: str) -> None:
    """The cost is linear: 6 times the steps may not take 18 times the CPU, as when each step searched the whole history."""
    engine = open_engine(tmp_path, WORKFLOWS)
    unsynced = engine.journal._connection("NORMAL")
    engine.journal._local.opened["FULL"] = unsynced

    def cpu_seconds(count: int) -> float:
        run_id = begin(engine, workflow, count=count)
        began = time.process_time()
        engine.advance(run_id)
        assert engine.journal.run(run_id).outcome == "done"
        return time.process_time() - began

    cpu_seconds(50)
    short, long = min(cpu_seconds(500) for _ in range(2)), cpu_seconds(3000)
    assert long < 18 * short, (short, long)
