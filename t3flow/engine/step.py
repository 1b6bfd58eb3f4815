"""Steps: the journaled units of work that a workflow calls, and what code inside a step may ask about its run.

A step names its own undo, retries, and former names, so that the procedure in a workflow reads as plain calls.
"""

import inspect
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast

from t3flow.engine.errors import Interrupted
from t3flow.engine.journal import Run

P = ParamSpec("P")
R = TypeVar("R")


class Executor(Protocol):
    """The run that calls a step, as the step sees it. `flow.Flow` implements it, so that this module need not import flow."""

    run: Run
    attempt: int

    def run_step(self, step: "Step[..., Any]", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the step's journaled result, or run the step and journal its result. Raises StepFailed."""


current_executor: ContextVar[Executor] = ContextVar("current_executor")
current_interrupt: ContextVar["Interrupt | None"] = ContextVar("current_interrupt", default=None)

STEPS: dict[str, "Step[..., Any]"] = {}
FORMER_NAMES: dict[str, str] = {}
"""Former name of a step → present name. The journal has former names for a run that is in flight during an upgrade."""
LEGACY_UNDOS: dict[str, str | None] = {}
"""Steps of versions that journaled no undo → the undo that each had (None for none). The program that owns the steps fills it."""


@dataclass
class Step(Generic[P, R]):
    """A unit of work whose result is journaled. A call inside a workflow runs it once; a replay returns the journaled result.

    `function` takes and returns JSON values. It runs at least once: after a crash it may run again, and its docstring says why that is harmless.
    `retry_on` lists the errors that are retried, at most `retries` times, first after `retry_delay_seconds`, which doubles with each retry.
    `interruptible`: a signal may end the function early. `undo` takes the same arguments and compensates the step, even if it ran only in part.
    `syncs_first`: earlier events of the run are on disk before the step starts. False for a step that only reads, or whose effects do not matter
    to earlier steps that a power cut makes run again.
    `wording` names parameters that are text for people: a call that differs only in them is the same call to a replay, so that a release may reword
    them while a run is in flight.
    `former_parameters` (former name → present name) lets an undo that renamed its parameters run for a start under the former names.
    """

    name: str
    function: Callable[P, R]
    retries: int = 0
    retry_delay_seconds: float = 0.0
    retry_on: tuple[type[Exception], ...] = ()
    interruptible: bool = False
    undo: "Step[..., Any] | None" = None
    syncs_first: bool = True
    wording: tuple[str, ...] = ()
    former_parameters: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, bool] = field(default_factory=dict)
    """Parameter of the function, in order → whether it is optional."""

    def __post_init__(self) -> None:
        signature = inspect.signature(self.function)
        self.parameters = {
            name: each.default is not each.empty or each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
            for name, each in signature.parameters.items()
        }

    def without_wording(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of a call without its text for people."""
        named = zip(itertools.chain(self.parameters, itertools.repeat("")), args, strict=False)
        return (
            [None if name in self.wording else value for name, value in named],
            {name: value for name, value in kwargs.items() if name not in self.wording},
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the journaled result, or run the step in the current workflow. Raises StepFailed."""
        return cast(R, current_executor.get().run_step(self, args, kwargs))

    def unjournaled(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function as part of another step: this call is not journaled, retried, or undone by itself."""
        return self.function(*args, **kwargs)


def step(
    *,
    retries: int = 0,
    retry_delay_seconds: float = 0.0,
    retry_on: tuple[type[Exception], ...] = (),
    interruptible: bool = False,
    undo: "Step[..., Any] | None" = None,
    syncs_first: bool = True,
    wording: tuple[str, ...] = (),
    former_names: tuple[str, ...] = (),
    former_parameters: dict[str, str] | None = None,
) -> Callable[[Callable[P, R]], Step[P, R]]:
    """Turn a function into a step, registered under the function's name. Takes the options of `Step`.

    `former_names`: a run that began under one of these names is replayed and undone as under the present one. Raises ValueError if a name, present
    or former, is taken.
    """

    def decorate(function: Callable[P, R]) -> Step[P, R]:
        made = Step(
            function.__name__,
            function,
            retries,
            retry_delay_seconds,
            retry_on,
            interruptible,
            undo,
            syncs_first,
            wording,
            former_parameters or {},
        )
        made.__doc__ = function.__doc__
        for name in (made.name, *former_names):
            if name in STEPS or name in FORMER_NAMES:
                raise ValueError(f"two steps are named {name}")
        STEPS[made.name] = made
        FORMER_NAMES.update(dict.fromkeys(former_names, made.name))
        return made

    return decorate


def present_name(name: str) -> str:
    """Return the present name of a step that the journal names."""
    return FORMER_NAMES.get(name, name)


@dataclass
class Interrupt:
    """Tells a running step that a signal is pending. Set by the engine's watcher, checked in the step's long waits."""

    signal: str | None = None
    _event: threading.Event = field(default_factory=threading.Event)

    def set(self, signal: str) -> None:
        """Ask the step to end."""
        self.signal = signal
        self._event.set()

    def check(self) -> None:
        """Raise Interrupted if a signal is pending."""
        if self.signal is not None:
            raise Interrupted(self.signal)

    def wait(self, timeout_seconds: float) -> None:
        """Sleep for the timeout, or until a signal. Raises Interrupted for a signal."""
        self._event.wait(timeout_seconds)
        self.check()


def check_interrupt() -> None:
    """Raise Interrupted if a signal is pending for the running interruptible step. Call it in long waits; a no-op elsewhere."""
    interrupt = current_interrupt.get()
    if interrupt is not None:
        interrupt.check()


def pause(seconds: float) -> None:
    """Sleep inside a step. Raises Interrupted for a signal if the step is interruptible."""
    (current_interrupt.get() or Interrupt()).wait(seconds)


def current_run() -> str:
    """Return the id of the run that the current step belongs to."""
    return current_executor.get().run.id


def current_attempt() -> int:
    """Return the number of the current attempt at the step, from 1. Above 1, an earlier attempt may have done part of the work."""
    return current_executor.get().attempt
