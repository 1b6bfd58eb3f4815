"""The catalogue of sentences: each step has one, and none of them shows a person what only the code should see."""

import inspect
import json
import re
import time
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from t3flow import workflows  # which registers every step
from t3flow.engine import step
from t3flow.engine.journal import Event, Run
from t3flow.engine.step import LEGACY_UNDOS
from t3flow.state import sentences
from t3flow.state.runs import Narrator

HISTORIES = [
    history
    for recorded in json.loads((Path(__file__).parents[1] / "histories/recorded.json").read_text()).values()
    for history in recorded
]
STEPS = {name: each for name, each in step.STEPS.items() if each.function.__module__.startswith("t3flow.")}
TELLING = {"version": "0.0.24", "target": "0.0.25-nightly.1", "user": "ada", "users": ["ada"]}
EPOCH = 1_780_000_000.0
NEVER_EMPTY = {"line", "problem", "why", "default", "previous", "reason", "waiting_for", "wrote"}
"""Arguments that always say something."""
ALWAYS_TELL = {"server_state", "await_server", "watch_pairings", "preview_drain", "stop_if_idle", "decide", "resolve"}
"""Steps whose results do, wherever they are texts."""


def values(kind: Any, name: str = "", *, full: bool = True) -> Any:
    """Return a value of a type as a journal holds it: a telling one, or the emptiest."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.NotRequired, typing.Required):
        return values(inside[0], name, full=full)
    if origin in (types.UnionType, typing.Union):
        return values(inside[0], name, full=full) if full else None
    if origin is typing.Literal:
        return inside[0] if full else inside[-1]
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        return {key: values(each, key, full=full) for key, each in hints.items()}
    if origin in (list, tuple) or (inspect.isclass(origin) and issubclass(origin, typing.Sequence)):
        return [values(inside[0], "user", full=True)] if full else []
    if origin is dict:
        return {values(inside[0], "user"): values(inside[1], full=True)} if full else {}
    simple = {str: TELLING.get(name, "a reason"), int: 3, float: EPOCH, bool: True, type(None): None}
    empty = {str: TELLING.get(name, ""), int: 0, float: 0.0, bool: False, type(None): None}
    if kind is Any:
        return "a reason" if full else ""
    return (simple if full else empty)[kind]


def calls(name: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """Arguments and a result for a step: full and empty, in each combination."""
    hints = typing.get_type_hints(STEPS[name].function)
    given = hints.pop("return")
    for full_args in (True, False):
        for full_result in (True, False):
            result = values(given, full=full_result)
            if name in ALWAYS_TELL:
                result = {**result, **texts_of(given)} if isinstance(result, dict) else result or "a reason"
            yield {key: values(kind, key, full=full_args or key in NEVER_EMPTY) for key, kind in hints.items()}, result


def texts_of(kind: Any) -> dict[str, str]:
    """Return the texts of a typed dictionary, telling ones."""
    return {key: values(str, key) for key, each in typing.get_type_hints(kind).items() if each is str}


def is_for_people(text: str) -> None:
    """Check that it is a sentence: no step name, no None, no Python type, no epoch."""
    assert text[:1].isupper() or text[:1].isdigit() or re.match(r"(ada|grace|linus|a reason)\b", text), text
    assert not text.endswith((".", ":", " ")), text
    words = set(re.findall(r"\w+", text))
    assert not {name for name in words & STEPS.keys() if "_" in name}, text
    assert "None" not in words, text
    assert not re.search(r"<class|\{|\}|\[\]|\['|\bTrue\b|\bFalse\b|Error\(|\bdict\b|\blist\b", text), text
    assert not re.search(r"\b1[6-9]\d{8}\b", text), text


def test_every_step_has_its_sentences_and_no_other_thing_has() -> None:
    assert STEPS.keys() <= sentences.SENTENCES.keys(), "t3flow/state/sentences.py needs the words of a new step"
    known = STEPS.keys() | LEGACY_UNDOS.keys()
    assert sentences.SENTENCES.keys() <= known, "the sentence of a step that is gone"
    assert [name for name in LEGACY_UNDOS if sentences.find(name) is None] == []
    renamed = {former: name for former, name in step.FORMER_NAMES.items() if name in STEPS}
    assert renamed.items() <= sentences.FORMER.items(), "FORMER needs the former name of a step: journals have it"
    assert set(sentences.FORMER.values()) <= sentences.SENTENCES.keys()


@pytest.mark.parametrize("name", sorted(STEPS))
def test_the_sentences_of_a_step(name: str) -> None:
    """They take the step's own arguments, whatever is in them and in the result."""
    assert workflows.WORKFLOWS
    takes = sentences.SENTENCES[name].takes.split()
    assert takes == list(STEPS[name].parameters), "the sentence has other arguments than the step"
    for given, result in calls(name):
        args = list(given.values())
        for told in (sentences.doing(name, args), sentences.done(name, args, {}, result)):
            assert told not in (sentences.UNKNOWN_DOING, sentences.UNKNOWN_DONE)
            is_for_people(told)
    assert re.search(r"\b\w+ing\b", sentences.doing(name, args)), "what is under way is told in the present"


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history["workflow"])
def test_recorded_runs_are_told(history: dict[str, Any]) -> None:
    """Real histories: each event that matters is a sentence, and a run that has ended does nothing."""
    run = Run("bump-1", history["workflow"], history["args"], "running", None, {}, 0, 0, 0, 0, None, None, None)
    narrator = Narrator(run)
    told = []
    for number, (kind, name, attempt, data) in enumerate(history["events"], 1):
        line = narrator.line(Event(number, EPOCH + number, kind, name, attempt, data))
        if line is not None:
            told.append(line.text)
            is_for_people(line.text)
        assert kind not in ("completed", "failed", "undone", "undo_failed", "retrying") or line is not None, (
            kind,
            step,
        )
    assert not any(sentences.UNKNOWN_DONE in text or sentences.UNKNOWN_DOING in text for text in told)


def test_what_another_t3flow_wrote_is_told_more_plainly() -> None:
    """Steps and results that are not known raise nothing."""
    assert sentences.doing("sing", ["ada"]) == sentences.UNKNOWN_DOING
    assert sentences.done("sing", ["ada"], {}, "la") == sentences.UNKNOWN_DONE
    assert sentences.done("choose_seeds", [[], [], "0.0.24"], {}, {"other": 1}) == sentences.UNKNOWN_DONE
    assert sentences.doing("back_up") == sentences.UNKNOWN_DOING


def test_the_words_that_were_agreed() -> None:
    """As people know them from the issue."""
    assert sentences.doing("back_up", ["ada", "0.0.24", "0.0.25", False]) == "Backing up ada"
    backed_up = {"problem": "", "missing": False}
    assert sentences.done("back_up", ["ada", "0.0.24", "0.0.25", False], {}, backed_up) == "Backed up ada"
    assert sentences.done("assign_explicitly", ["0.0.24"], {}, ["ada", "bob", "eve"]) == (
        "Assigned 0.0.24 explicitly to 3 users"
    )
    seeds = {"batches": [[{"user": "ada"}, {"user": "grace"}], [{"user": "linus"}]], "width": 2}
    assert sentences.done("choose_seeds", [[], [], "0.0.24"], {}, seeds) == "Gate: 3 databases, 2 in parallel"
    good = {"verdict": "pass", "failed": "", "not_isolated": ""}
    bad = {"verdict": "fail", "failed": "migration 33 fails", "not_isolated": ""}
    verdicts = [{**good, "seed": "ada"}, {**good, "seed": "grace"}, {**bad, "seed": "linus"}]
    told = sentences.done("run_trials", ["/slot", "0.0.25", [], 2, time.time()], {}, verdicts)
    assert told == "Gate: 2 of 3 databases pass, linus fails: migration 33 fails"
    assert isinstance(told, sentences.Problem)
