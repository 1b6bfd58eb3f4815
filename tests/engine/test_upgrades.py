"""Runs in flight during an upgrade that changed steps, undos, or arguments: they resume, are undone, or report what could not be undone."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from reversible import EFFECTS, WORKFLOWS, completed, started
from support import begin, kinds, open_engine, settle

from t3flow import workflows
from t3flow.engine.engine import Engine
from t3flow.engine.history import History, digest
from t3flow.engine.journal import Event, append_event
from t3flow.engine.runs import new_run
from t3flow.engine.step import LEGACY_UNDOS, STEPS, present_name, step

LOST: list[str] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    EFFECTS.clear()
    LOST.clear()


def engine_in(top: Path) -> Engine:
    return open_engine(top, WORKFLOWS, on_not_undone=lambda run, reason: LOST.append(reason))


FORMER = {"draw": "scribble", "erase": "rub_out", "wait_for_it": "sleep_on_it"}
RUB_OUT = {"undo": "rub_out", "takes": ["what"]}
UNMOUNT = {"undo": "unmount", "takes": ["name", "where"]}


def play(engine: Engine, workflow: str, events: list[tuple[str, str, dict[str, Any]]], **args: Any) -> Any:
    """Run a workflow with this history to its end."""
    run_id = begin(engine, workflow, **args)
    with engine.journal.transaction() as connection:
        for kind, name, data in events:
            append_event(connection, run_id, kind, name, 1, data)
    return settle(engine, run_id)


# Steps with former names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names_undos", [True, False], ids=["undos named", "no undo named"])
@pytest.mark.parametrize("end", ["", "abort"], ids=["to the end", "undone"])
def test_a_history_under_former_names_goes_on_wherever_it_was_cut(
    tmp_path: Path, end: str, names_undos: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after any event in the earlier program, the run continues in the later one as it would have in the earlier."""
    if not names_undos:
        monkeypatch.setitem(LEGACY_UNDOS, "scribble", "rub_out")
        monkeypatch.setitem(LEGACY_UNDOS, "sleep_on_it", None)
    engine = engine_in(tmp_path)
    whole = settle(engine, begin(engine, "drawing", end=end))
    effects, EFFECTS[:] = [*EFFECTS], []
    history = [(each.kind, each.step, each.attempt, each.data) for each in engine.journal.events(whole.id)]
    assert effects == ["+a", "~", "+b", *(["-b", "-a"] if end else [])]
    for count in range(1, len(history)):
        run_id = begin(engine, "drawing", end=end)
        with engine.journal.transaction() as connection:
            for kind, name, attempt, data in history[1:count]:
                append_event(
                    connection, run_id, kind, FORMER.get(name or "", name), attempt, formerly(data, names_undos)
                )
        EFFECTS.clear()
        assert settle(engine, run_id).outcome == whole.outcome, count
        done = sum(kind in ("completed", "undone") for kind, *_ in history[:count])
        assert EFFECTS == effects[done:], count
        assert kinds(engine, run_id)[-1] == "ended"
    assert LOST == []


def formerly(data: dict[str, Any], names_undos: bool) -> dict[str, Any]:
    """Return the data of an event as the earlier program journals it."""
    if "undo" not in data:
        return data
    if not names_undos:
        return {name: value for name, value in data.items() if name not in ("undo", "takes")}
    return {**data, **(RUB_OUT if data["undo"] else {})}


def test_attempts_under_a_former_name_count(tmp_path: Path) -> None:
    """Deaths of the consumer in a step under its former name count, and the step is undone once."""
    engine = engine_in(tmp_path)
    run = play(engine, "drawing", [started("paint", "a", **RUB_OUT)] * 3)
    assert "died 3 times" in run.result["reason"]
    assert EFFECTS == ["-a"]


def test_a_step_under_a_former_name_waits_in_one_event(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    waiting = "waiting", "sleep_on_it", {"checks": 1, "waiting_for": "time", "at": 0.0}
    run = play(engine, "drawing", [started("paint", "a", **RUB_OUT), completed("scribble", "a"), waiting])
    assert (run.outcome, EFFECTS) == ("done", ["~", "+b"])
    assert [event.step for event in engine.journal.events(run.id) if event.kind == "waiting"] == ["sleep_on_it"]


def test_a_message_under_a_former_name_is_taken(tmp_path: Path) -> None:
    """The queue may hold messages of the earlier program."""
    engine = engine_in(tmp_path)
    run_id = new_run(engine.journal, "drawing", {})
    assert run_id is not None
    engine.queue.send(run_id, step="scribble")
    assert settle(engine, run_id).outcome == "done"
    assert engine.queue.dropped == 0


def test_a_former_name_is_given_to_no_other_step() -> None:
    for name, former in (("scribble", ()), ("fresh", ("paint",)), ("fresh", ("mount",))):

        def function() -> None:
            """Do nothing."""

        function.__name__ = name
        with pytest.raises(ValueError, match="two steps are named"):
            step(former_names=former)(function)
    assert "fresh" not in STEPS


# Steps that are gone ------------------------------------------------------------------------------------------------------


def test_a_start_journals_which_undo_it_has(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    run = settle(engine, begin(engine, "two"))
    starts = [event.data for event in engine.journal.events(run.id) if event.kind == "started"]
    assert [(data["undo"], data.get("takes")) for data in starts] == [
        ("unmount", ["name", "where"]),
        ("unmount", ["name", "where"]),
        (None, None),
    ]


def test_a_renamed_step_is_undone_by_its_journaled_undo(tmp_path: Path) -> None:
    """A start whose step is unknown must not be skipped while the run reports that it was undone."""
    engine = engine_in(tmp_path)
    run = play(engine, "two", [started("attach", "a", **UNMOUNT), completed("attach", "a")])
    assert (run.outcome, EFFECTS, LOST) == ("error", ["-a"], [])
    assert run.result["reason"].endswith("its changes were undone")


def test_a_renamed_step_that_was_under_way_is_undone_too(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    run = play(engine, "two", [started("attach", "a", **UNMOUNT)])
    assert (run.outcome, EFFECTS) == ("error", ["-a"])


def test_a_step_that_was_removed_at_the_end_is_undone(tmp_path: Path) -> None:
    """The present workflow ends before its history: the run may not end as if nothing had started."""
    engine = engine_in(tmp_path)
    for events in ([started("attach", "a", **UNMOUNT)], [started("attach", "a", **UNMOUNT), completed("attach", "a")]):
        EFFECTS.clear()
        run = play(engine, "one_that_ends", events)
        assert (run.outcome, EFFECTS) == ("error", ["-a"])


def test_a_workflow_that_takes_other_arguments_is_undone(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    run = play(engine, "one_that_ends", [started("mount", "a", **UNMOUNT), completed("mount", "a")], user="ada")
    assert (run.outcome, EFFECTS) == ("error", ["-a"])
    assert "takes other arguments" in run.result["reason"]


@pytest.mark.parametrize(
    "identity",
    [
        {"undo": "detach", "takes": ["name", "where"]},
        {"undo": "unmount", "takes": ["where", "name"]},
        {"undo": "unmount", "takes": ["name", "where", "force"]},
        {"undo": "unmount", "takes": ["user"]},
        {},
    ],
    ids=["renamed or removed", "other order", "one fewer", "other meaning", "not named at all"],
)
def test_an_undo_that_is_not_known_is_loud(tmp_path: Path, identity: dict[str, Any]) -> None:
    """The other steps are undone; the run ends as an error that names the step and the remedy, and `on_not_undone` is called."""
    engine = engine_in(tmp_path)
    events = [started("mount", "a", **UNMOUNT), completed("mount", "a"), started("attach", "b", **identity)]
    run = play(engine, "two", [*events, completed("attach", "b")])
    assert (run.status, run.outcome, EFFECTS) == ("failed", "error", ["-a"])
    assert "ROLLBACK FAILED" in run.result["reason"]
    assert 'attach("b")' in run.result["reason"]
    assert "t3flow unfreeze" in run.result["reason"]
    assert "were undone" not in run.result["reason"]
    assert LOST[0] == run.result["reason"]
    assert [kind.split()[0] for kind in kinds(engine, run.id)][-4:] == ["undo_failed", "started", "undone", "ended"]


def test_an_undo_that_only_gained_an_option_is_run(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    run = play(engine, "two", [started("attach", "a", undo="unmount", takes=["name"]), completed("attach")])
    assert (run.outcome, EFFECTS, LOST) == ("error", ["-a"], [])


def test_a_dropped_undo_is_still_that_of_what_was_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step has no undo any more, but the journal names the one that it had."""
    monkeypatch.setattr(STEPS["mount"], "undo", None)
    engine = engine_in(tmp_path)
    run = play(engine, "two", [started("mount", "a", **UNMOUNT), completed("mount", "a"), completed("of_yore")])
    assert (run.outcome, EFFECTS) == ("error", ["-a"])


def test_an_unknown_undo_in_a_run_that_goes_on_is_told_too(tmp_path: Path) -> None:
    """The run resumes because its steps fit, and fails later, when its saga needs an unknown undo."""
    engine = engine_in(tmp_path)
    events = [started("mount", "a", undo="detach", takes=["name"]), completed("mount", "a")]
    run = play(engine, "two", events, end="abort")
    assert (run.outcome, EFFECTS) == ("caught", ["+b", "?all", "-b"])
    assert len(LOST) == 1
    assert "detach" in LOST[0]


def test_a_death_after_a_failed_undo_does_not_make_it_forgotten(tmp_path: Path) -> None:
    """Killed between the failed undo and its end, the run still reports that the undo failed."""
    engine = engine_in(tmp_path)
    events = [started("attach", "a", undo="detach", takes=["name"]), completed("attach")]
    failed = {"of": 2, "kind": "UnknownUndo", "reason": "no undo detach"}
    run = play(engine, "two", [*events, ("undo_failed", "detach", failed)])
    assert run.outcome == "error"
    assert "no undo detach" in run.result["reason"]
    assert LOST


def test_former_steps_tell_what_a_history_without_names_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removed step without an undo, according to the list, is no false alarm; one with an undo is undone by that name."""
    monkeypatch.setitem(LEGACY_UNDOS, "peek", None)
    monkeypatch.setitem(LEGACY_UNDOS, "attach", "unmount")
    engine = engine_in(tmp_path)
    events = [started("attach", "a"), completed("attach"), started("peek", "b"), completed("peek")]
    run = play(engine, "two", events)
    assert (run.outcome, EFFECTS, LOST) == ("error", ["-a"], [])


def test_attempts_of_two_versions_are_one_start(tmp_path: Path) -> None:
    """The first attempt's start names no undo and the second one does: the call is undone once."""
    engine = engine_in(tmp_path)
    run = play(
        engine, "two", [started("mount", "a"), started("mount", "a", **UNMOUNT), completed("mount", "a")], end="abort"
    )
    assert run.outcome == "aborted"
    assert EFFECTS == ["+b", "?all", "-b", "-a"]


@pytest.mark.parametrize("given", ["args", "kwargs"])
def test_a_result_belongs_to_a_call_with_the_same_arguments(tmp_path: Path, given: str) -> None:
    """The step has the same name but other arguments, so the journaled result does not count."""
    engine = engine_in(tmp_path)
    call = digest(["a2"], {}) if given == "args" else digest([], {"name": "a"})
    run = play(engine, "two", [started("mount", "a", **UNMOUNT), completed("mount", "a", call=call)])
    assert (run.outcome, EFFECTS) == ("error", ["-a"])
    assert "other arguments" in run.result["reason"]


def test_a_failure_belongs_to_its_arguments_too(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    failed = {"kind": "X", "reason": "no", "call": digest(["other"], {})}
    run = play(engine, "two", [started("mount", "a", **UNMOUNT), ("failed", "mount", failed)])
    assert (run.outcome, EFFECTS) == ("error", ["-a"])


@pytest.mark.parametrize("is_counted", [True, False], ids=["before wording was left out", "since"])
def test_a_reason_may_be_reworded_while_a_run_is_in_flight(tmp_path: Path, is_counted: bool) -> None:
    """The result of the call stays; a call with another value beside the text is another call."""
    engine = engine_in(tmp_path)
    call = digest(["a", "no pairing"], {}) if is_counted else digest(["a", None], {})
    events = [started("note", "a", "no pairing", undo=None), completed("note", "old", call=call)]
    run = play(engine, "noting", events, name="a", reason="cannot pair")
    assert (run.outcome, run.result["reason"], EFFECTS) == ("done", "oldcannot pair", ["!a"])
    run = play(engine, "noting", events, name="b", reason="cannot pair")
    assert (run.outcome, EFFECTS) == ("error", ["!a"])


def test_what_was_begun_again_after_an_undo_is_undone_again(tmp_path: Path) -> None:
    """The same call is under way in a second saga when the code changes: the first undo does not count for it."""
    engine = engine_in(tmp_path)
    first = [
        started("mount", "a", **UNMOUNT),
        completed("mount", "a"),
        ("undone", "unmount", {"of": 2, "result": None}),
    ]
    run = play(engine, "two", [*first, started("mount", "a", **UNMOUNT), completed("attach")])
    assert (run.outcome, EFFECTS) == ("error", ["-a"])


def test_a_digest_does_not_depend_on_how_json_came() -> None:
    value = {"b": [1, 2.5, None], "a": {"y": True, "x": "ü"}}
    assert digest([value], {}) == digest(*json.loads(json.dumps([[value], {}])))
    assert digest((value,), {}) == digest([value], {})
    assert digest([1], {}) != digest([2], {})


def test_the_open_steps_are_those_of_a_search_of_the_whole_history() -> None:
    """Compare with plain bookkeeping on random histories with settled parts and undos."""
    for seed in range(200):
        dice = random.Random(seed)
        journal_events: list[Event] = []
        open_starts: list[int] = []
        for seq in range(1, 60):
            kind = dice.choice(["started", "started", "completed", "settled", "undone"])
            data: dict[str, Any] = {"result": None}
            if kind == "started":
                data = {"args": [seq], "kwargs": {}, **UNMOUNT}
                open_starts.append(seq)
            elif kind == "settled":
                data = {"since": dice.randrange(seq)}
                open_starts = [each for each in open_starts if each <= data["since"]]
            elif kind == "undone":
                if not open_starts:
                    kind = "completed"
                else:
                    data = {"of": open_starts.pop()}
            journal_events.append(Event(seq, 0.0, kind, "mount", 1, data))
        history = History("r", journal_events)
        while history.next() is not None:
            pass
        expected = [each for each in open_starts if each <= history.position]
        assert [event.seq for event in history.unsettled_since(0)] == expected[::-1]


def test_a_former_undo_is_a_step_of_ours() -> None:
    """The undos of early versions must still exist: a removed one would end in UndoFailed, and that must be intended."""
    assert workflows.WORKFLOWS
    gone = {undo for undo in LEGACY_UNDOS.values() if undo is not None and present_name(undo) not in STEPS}
    assert gone == set()
