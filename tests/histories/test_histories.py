"""Histories that were recorded, replayed by the code as it is now: a run in flight over an upgrade goes on where it was, or is undone."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from t3flow import workflows
from t3flow.engine.engine import Engine
from t3flow.engine.flow import RECORDED
from t3flow.engine.journal import Journal
from t3flow.engine.queue import open_queue
from t3flow.engine.runs import new_run
from t3flow.engine.step import STEPS

History = dict[str, Any]
HISTORIES = {
    f"{scenario}-{number}-{history['workflow']}": history
    for scenario, recorded in json.loads((Path(__file__).parent / "recorded.json").read_text()).items()
    for number, history in enumerate(recorded)
}


class Ran(BaseException):
    """A step was run, which ends the replay."""


@pytest.fixture(params=HISTORIES)
def history(request: pytest.FixtureRequest) -> History:
    found: History = HISTORIES[request.param]
    return found


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    journal = Journal(tmp_path / "journal.db", create=True)
    return Engine(journal, open_queue(f"sqlite://{tmp_path}/queue.db", b"k" * 32), workflows.WORKFLOWS)


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step may run: the first that is asked to says so."""
    for name, step in STEPS.items():

        def run(*arguments: Any, name: str = name, **more: Any) -> None:
            raise Ran(name)

        monkeypatch.setattr(step, "function", run)


def put(engine: Engine, history: History, events: list[list[Any]]) -> str:
    """Journals a run with these events."""
    run = new_run(engine.journal, history["workflow"], history["args"])
    assert run is not None
    with engine.journal.transaction() as connection:
        connection.execute("delete from events where run = ?", (run,))
        for number, (kind, step, attempt, data) in enumerate(events, 1):
            row = (run, number, time.time(), kind, step, attempt, json.dumps(data))
            connection.execute("insert into events values (?, ?, ?, ?, ?, ?, ?)", row)
    return run


def begun_after(events: list[list[Any]], count: int) -> str | None:
    """The step that comes next, None if something else does."""
    for kind, step, _, _ in events[count:]:
        if kind == "started":
            return str(step)
        if kind in RECORDED - {"acquired", "released", "settled"}:
            return None
    return None


def test_each_is_there() -> None:
    outcomes = {history["outcome"] for history in HISTORIES.values()}
    assert outcomes >= {"updated", "gate_failed", "rolled_back", "frozen", "cancelled"}
    assert {history["workflow"] for history in HISTORIES.values()} >= {"bump", "drain"}


def test_a_whole_history_is_replayed_without_a_step(
    engine: Engine, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch)
    run = put(engine, history, history["events"][:-1])
    engine.advance(run)
    ended = engine.journal.run(run)
    assert (ended.outcome, ended.result) == (history["outcome"], history["result"])


def test_each_beginning_goes_on_with_the_step_that_came_next(
    engine: Engine, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch)
    tried = 0
    for count in range(1, len(history["events"])):
        kind, step, _, _ = history["events"][count - 1]
        expected = step if kind == "started" else begun_after(history["events"], count)
        if expected is None or kind in ("waiting", "retrying", "stopped"):
            continue
        run = put(engine, history, history["events"][:count])
        with pytest.raises(Ran) as ran:
            engine.advance(run)
        assert ran.value.args == (expected,), count
        with engine.journal.transaction() as connection:
            connection.execute("update runs set status = 'failed' where id = ?", (run,))
            connection.execute("delete from locks")
        tried += 1
    assert tried >= 2


def test_a_history_of_other_code_is_undone(engine: Engine, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step that ended: had it had another name, the run would be undone up to there, and nothing else would be done."""
    undos = {step.undo.name for step in STEPS.values() if step.undo is not None}
    ran: list[str] = []
    for name, step in STEPS.items():
        monkeypatch.setattr(step, "function", lambda *arguments, name=name, **more: ran.append(name))
    for count, (kind, step, _, _) in enumerate(history["events"]):
        if kind != "completed":
            continue
        ran.clear()
        events = [*history["events"][:count], ["completed", "of_other_code", 1, {"result": None}]]
        run = put(engine, history, events)
        engine.advance(run)
        ended = engine.journal.run(run)
        assert (ended.status, ended.outcome) == ("failed", "error"), step
        assert "another version of t3flow" in ended.result["reason"]
        assert set(ran) <= undos, step
        assert ran == expected_undos(events)
        with engine.journal.transaction() as connection:
            connection.execute("delete from locks")


def expected_undos(events: list[list[Any]]) -> list[str]:
    """The undo of each step that was begun and neither settled nor undone, last first."""
    open_steps: list[tuple[int, str, str]] = []
    for number, (kind, step, _, data) in enumerate(events, 1):
        known = STEPS.get(step or "")
        if kind == "started" and known is not None and known.undo is not None:
            if (entry := (step, json.dumps(data))) not in [each[1:] for each in open_steps]:
                open_steps.append((number, *entry))
        elif kind == "settled":
            open_steps = [each for each in open_steps if each[0] <= data["since"]]
        elif kind in ("undone", "undo_failed"):
            open_steps = [each for each in open_steps if each[0] != data["of"]]
    names = [STEPS[step].undo for _, step, _ in reversed(open_steps)]
    return [undo.name for undo in names if undo is not None]
