"""Recorded histories, replayed by the present code: a run in flight during an upgrade resumes where it was, or is undone."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from t3flow import workflows
from t3flow.engine.engine import Engine
from t3flow.engine.history import RECORDED, digest, undo_reference
from t3flow.engine.journal import Journal
from t3flow.engine.queue import open_queue
from t3flow.engine.runs import new_run
from t3flow.engine.step import LEGACY_UNDOS, STEPS, present_name
from t3flow.host import freeze
from t3flow.host.records import tables
from t3flow.service.consumer import make_engine
from t3flow.settings.load import load

History = dict[str, Any]
HISTORIES = {
    f"{source}{scenario}-{number}-{history['workflow']}": history
    for source, name in (("", "recorded.json"), ("before-snapshots-", "before_snapshots.json"))
    for scenario, recorded in json.loads((Path(__file__).parent / name).read_text()).items()
    for number, history in enumerate(recorded)
}
"""Those of today's workflows, and of bumps from before the snapshots of all users were one step: such runs go on as they began."""


BEFORE_RENAMES: dict[str, list[History]] = json.loads((Path(__file__).parent / "before_renames.json").read_text())
"""Histories with the former names of steps."""


class Ran(BaseException):
    """A step ran, which ends the replay."""


@pytest.fixture(params=HISTORIES)
def history(request: pytest.FixtureRequest) -> History:
    found: History = HISTORIES[request.param]
    return found


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    journal = Journal(tmp_path / "journal.db", create=True)
    return Engine(journal, open_queue(f"sqlite://{tmp_path}/queue.db", b"k" * 32), workflows.WORKFLOWS)


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every step raise Ran."""
    for name, step in STEPS.items():

        def run(*arguments: Any, name: str = name, **more: Any) -> None:
            raise Ran(name)

        monkeypatch.setattr(step, "function", run)


def step_of(name: str | None) -> Any:
    """Return the step that a history names; None for an event of no step."""
    return STEPS.get(present_name(name or ""))


def put(engine: Engine, history: History, events: list[list[Any]]) -> str:
    """Journal a run with these events."""
    run = new_run(engine.journal, history["workflow"], history["args"])
    assert run is not None
    with engine.journal.transaction() as connection:
        connection.execute("delete from events where run = ?", (run,))
        for number, (kind, step, attempt, data) in enumerate(events, 1):
            row = (run, number, time.time(), kind, step, attempt, json.dumps(data))
            connection.execute("insert into events values (?, ?, ?, ?, ?, ?, ?)", row)
    return run


def begun_after(events: list[list[Any]], count: int) -> str | None:
    """Return the step that comes next, or None if another event does."""
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
    assert ended.outcome == history["outcome"]
    assert without_texts(ended.result) == without_texts(history["result"])


def without_texts(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without wording, which may change from version to version."""
    users = {user: {**each, "reason": ""} for user, each in result["users"].items()}
    return {**result, "reason": "", "users": users}


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
        assert ran.value.args == (present_name(expected),), count
        with engine.journal.transaction() as connection:
            connection.execute("update runs set status = 'failed' where id = ?", (run,))
            connection.execute("delete from locks")
        tried += 1
    assert tried >= 2


@pytest.mark.parametrize("scenario", BEFORE_RENAMES)
def test_a_history_with_former_names_goes_on(engine: Engine, scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each beginning goes on with the step that came next, under its present name, though reasons were reworded."""
    forbid(monkeypatch)
    for history in BEFORE_RENAMES[scenario]:
        events = history["events"]
        for count in range(1, len(events)):
            kind, step, _, _ = events[count - 1]
            expected = step if kind == "started" else begun_after(events, count)
            if expected is None or kind in ("waiting", "retrying", "stopped"):
                continue
            run = put(engine, history, events[:count])
            with pytest.raises(Ran) as ran:
                engine.advance(run)
            assert ran.value.args == (present_name(expected),), count
            with engine.journal.transaction() as connection:
                connection.execute("update runs set status = 'failed' where id = ?", (run,))
                connection.execute("delete from locks")


def test_a_history_of_other_code_is_undone(engine: Engine, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step that ended: under an unknown name, the run is undone up to there, and nothing else runs."""
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


# Steps renamed and removed, undos renamed, arguments changed ------------------------------------------------------------


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace all steps by no-ops, and return the names of those that run."""
    names: list[str] = []
    for name, step in STEPS.items():
        monkeypatch.setattr(step, "function", lambda *arguments, name=name, **more: names.append(name))
    return names


@pytest.fixture
def host_engine(tmp_path: Path) -> Engine:
    """Return the consumer's engine, with a freeze file in a temporary folder."""
    config = tmp_path / "config.toml"
    config.write_text(f'[paths]\nfreeze_file = "{tmp_path}/freeze"\nstate_dir = "{tmp_path}"\n')
    journal = Journal(tmp_path / "journal.db", create=True, extra_schema=tables.SCHEMA)
    return make_engine(load(config, {}), journal, open_queue(f"sqlite://{tmp_path}/queue.db", b"k" * 32))


def with_identity(events: list[list[Any]]) -> list[list[Any]]:
    """Return the history as this version journals it: starts name their undo."""
    return [
        [kind, step, attempt, {**data, **undo_reference(step_of(step))} if kind == "started" else data]
        for kind, step, attempt, data in events
    ]


def without_identity(events: list[list[Any]]) -> list[list[Any]]:
    """Return the history as early versions journaled it: starts name no undo."""
    return [
        [kind, step, attempt, {name: value for name, value in data.items() if name not in ("undo", "takes")}]
        for kind, step, attempt, data in events
    ]


def renamed(events: list[list[Any]], former: str, name: str) -> list[list[Any]]:
    """Return the history with another name for a step."""
    return [[kind, name if step == former else step, attempt, data] for kind, step, attempt, data in events]


def open_at(events: list[list[Any]]) -> list[tuple[int, str]]:
    """Return, for each start and end of an undoable step, the number of events up to there and its name."""
    found = []
    for count, (kind, step, _, _) in enumerate(events, 1):
        known = step_of(step)
        if kind in ("started", "completed") and known is not None and known.undo is not None:
            found.append((count, str(step)))
    return found


def test_a_renamed_or_removed_step_is_undone_by_the_undo_it_was_journaled_with(
    host_engine: Engine, history: History, ran: list[str]
) -> None:
    for count, name in open_at(history["events"]):
        ran.clear()
        events = with_identity(history["events"][:count])
        run = put(host_engine, history, renamed(events, name, "of_yore"))
        host_engine.advance(run)
        ended = host_engine.journal.run(run)
        assert ended.outcome == "error", (count, name)
        assert ran == expected_undos(history["events"][:count]), (count, name)
        assert "its changes were undone" in ended.result["reason"]
        assert not freeze.is_frozen(settings_of(host_engine))


def test_a_renamed_step_of_a_history_without_identity_is_not_said_to_be_undone(
    host_engine: Engine, history: History, ran: list[str]
) -> None:
    """Its undo is unknown: the other steps are undone, and the host is frozen until an operator has looked."""
    for count, name in open_at(history["events"]):
        ran.clear()
        events = without_identity(history["events"][:count])
        run = put(host_engine, history, renamed(events, name, "of_yore"))
        host_engine.advance(run)
        undo = step_of(name).undo
        assert undo is not None
        others = [each for each in expected_undos(history["events"][:count]) if each != undo.name]
        assert ran == others, (count, name)
        assert_lost(host_engine, run, "of_yore")


def test_an_undo_that_was_renamed_or_removed_freezes_the_host(
    host_engine: Engine, history: History, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for count, name in open_at(history["events"]):
        ran.clear()
        events = with_identity(history["events"][:count])
        undo = step_of(name).undo
        assert undo is not None
        with monkeypatch.context() as patch:
            patch.delitem(STEPS, undo.name)
            run = put(host_engine, history, [*events, ["completed", "of_other_code", 1, {"result": None}]])
            host_engine.advance(run)
        assert undo.name not in ran
        assert_lost(host_engine, run, undo.name)


def test_a_result_of_other_arguments_is_not_taken(host_engine: Engine, history: History, ran: list[str]) -> None:
    for count, (kind, step, _, _) in enumerate(history["events"], 1):
        if kind != "completed" or {*step_of(step).wording} >= {*step_of(step).parameters} > set():
            continue
        ran.clear()
        events = [list(each) for each in history["events"][:count]]
        events[-1][3] = {**events[-1][3], "call": digest(["of another call"], {})}
        if step_of(step).wording:  # then the start tells which call it was
            events[-2][3] = {**events[-2][3], "args": ["of another call"] * len(step_of(step).parameters)}
        run = put(host_engine, history, events)
        host_engine.advance(run)
        ended = host_engine.journal.run(run)
        assert (ended.outcome, ran) == ("error", expected_undos(events)), step
        assert "other arguments" in ended.result["reason"]
        with host_engine.journal.transaction() as connection:
            connection.execute("delete from locks")


def test_each_former_step_is_known_or_listed() -> None:
    """A removed step is listed with the undo that it had, and that undo still exists."""
    for step, undo in LEGACY_UNDOS.items():
        assert undo is None or present_name(undo) in STEPS, (step, undo)


def settings_of(engine: Engine) -> Any:
    """Return the settings of `host_engine`."""
    return load(engine.journal.path.with_name("config.toml"), {})


def assert_lost(engine: Engine, run: str, name: str) -> None:
    """Assert that the run could not be undone and the host is frozen for that reason, then unfreeze it."""
    ended = engine.journal.run(run)
    assert ended.outcome == "error"
    assert "ROLLBACK FAILED" in ended.result["reason"]
    assert name in ended.result["reason"]
    found = freeze.frozen(settings_of(engine), engine.journal)
    assert found is not None
    assert name in found["reason"]
    assert found["by"] == run
    freeze.unfreeze(settings_of(engine), engine.journal)


def expected_undos(events: list[list[Any]]) -> list[str]:
    """Return the undo of each step that started and is neither settled nor undone, last first."""
    open_steps: list[tuple[int, str, str]] = []
    for number, (kind, step, _, data) in enumerate(events, 1):
        known = step_of(step)
        if kind == "started" and known is not None and known.undo is not None:
            if (entry := (step, json.dumps(data))) not in [each[1:] for each in open_steps]:
                open_steps.append((number, *entry))
        elif kind == "settled":
            open_steps = [each for each in open_steps if each[0] <= data["since"]]
        elif kind in ("undone", "undo_failed"):
            open_steps = [each for each in open_steps if each[0] != data["of"]]
    names = [step_of(step).undo for _, step, _ in reversed(open_steps)]
    return [undo.name for undo in names if undo is not None]
