"""Steps with undos, and workflows of them, whose earlier versions had other names and arguments."""

import time
from typing import Any

from t3flow.engine.errors import NotYet, UndoFailed
from t3flow.engine.flow import current_flow
from t3flow.engine.runs import Abort, Outcome
from t3flow.engine.step import current_attempt, step

EFFECTS: list[str] = []


@step()
def unmount(name: str, where: str = "/") -> None:
    """Undo a mount."""
    EFFECTS.append(f"-{name}")


@step(undo=unmount)
def mount(name: str, where: str = "/") -> str:
    """Have an effect."""
    EFFECTS.append(f"+{name}")
    return name


@step()
def look_at_it(what: str) -> str:
    """Have no undo."""
    EFFECTS.append(f"?{what}")
    return what


@step(former_names=("rub_out",), former_parameters={"what": "name"})
def erase(name: str) -> None:
    """Undo a drawing."""
    EFFECTS.append(f"-{name}")


@step(undo=erase, former_names=("scribble", "paint"))
def draw(name: str) -> str:
    """Have an effect, under a name that was another one before."""
    EFFECTS.append(f"+{name}")
    return name


@step(former_names=("sleep_on_it",))
def wait_for_it(checks: int) -> int:
    """Poll, without an undo."""
    if current_attempt() <= checks:
        raise NotYet(time.time(), "time")
    EFFECTS.append("~")
    return checks


def drawing(end: str = "") -> Outcome:
    """Draw twice, wait in between, and fail if told to."""
    with current_flow().saga():
        draw("a")
        wait_for_it(2)
        draw("b")
        if end == "abort":
            raise Abort(Outcome("aborted", "as asked", "failed"))
    return Outcome("done")


def two(*names: str, end: str = "") -> Outcome:
    """Mount, and fail if told to."""
    try:
        with current_flow().saga():
            for name in names or ("a", "b"):
                mount(name)
            look_at_it("all")
            if end == "abort":
                raise Abort(Outcome("aborted", "as asked", "failed"))
    except UndoFailed as failure:
        return Outcome("caught", failure.reason, "failed")
    return Outcome("done")


def one_that_ends() -> Outcome:
    """Run no step at all."""
    return Outcome("done")


@step(wording=("reason",))
def note(name: str, reason: str) -> str:
    """Take text for people."""
    EFFECTS.append(f"!{name}")
    return reason


def noting(name: str, reason: str) -> Outcome:
    """Note a reason, given in two ways."""
    return Outcome("done", note(name, reason) + note(name, reason=reason))


WORKFLOWS = {"noting": noting, "two": two, "drawing": drawing, "one_that_ends": one_that_ends}


def started(step_name: str, *args: Any, **identity: Any) -> tuple[str, str, dict[str, Any]]:
    """Return a start. `identity` is what it says of its undo; early versions of t3flow said nothing."""
    return "started", step_name, {"args": list(args), "kwargs": {}, **identity}


def completed(step_name: str, result: Any = None, **more: Any) -> tuple[str, str, dict[str, Any]]:
    return "completed", step_name, {"result": result, **more}
