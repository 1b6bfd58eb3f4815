"""What a step is, and how code inside a step finds the run that it works for."""

import inspect
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast

from t3flow.engine.errors import Interrupted
from t3flow.engine.journal import Run

P = ParamSpec("P")
R = TypeVar("R")


class Executor(Protocol):
    """What a step needs of the run that calls it. `flow.Flow` is the one implementation."""

    run: Run
    attempt: int

    def run_step(self, step: "Step[..., Any]", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the step's journaled result, or run it and journal its result. Raises StepFailed."""


current_executor: ContextVar[Executor] = ContextVar("current_executor")
current_interrupt: ContextVar["Interrupt | None"] = ContextVar("current_interrupt", default=None)

STEPS: dict[str, "Step[..., Any]"] = {}
FORMER_NAMES: dict[str, str] = {}
"""Each former name of a step → its present name. The journal of a run in flight over an upgrade has the former one."""
LEGACY_UNDOS: dict[str, str | None] = {}
"""Steps of the t3flow whose histories name no undo → the undo that each had then, None for none. A run in flight may have begun one of them."""


@dataclass
class Step(Generic[P, R]):
    """A unit of work whose result is journaled. Called inside a workflow it runs once and its result is kept.

    `function` takes and returns JSON values. It may run again after a crash: its docstring says what makes that harmless.
    `retry_on` are the errors worth another attempt, `retries` how many, `retry_delay_seconds` the wait before the first (it doubles).
    `interruptible`: a signal may end it half-way. `undo` takes the same arguments and takes back what the step did, or part of it.
    `syncs_first`: what the journal has of the run is on disk before the step begins. False for a step that only reads, or whose own doing does not
    matter to those before it, should a power cut make them run again.
    `former_parameters`: a former name of a parameter → its present name, for the undo of a run that began under the former one.
    """

    name: str
    function: Callable[P, R]
    retries: int = 0
    retry_delay_seconds: float = 0.0
    retry_on: tuple[type[Exception], ...] = ()
    interruptible: bool = False
    undo: "Step[..., Any] | None" = None
    syncs_first: bool = True
    former_parameters: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, bool] = field(default_factory=dict)
    """The function's parameters in their order → whether each is optional."""

    def __post_init__(self) -> None:
        signature = inspect.signature(self.function)
        self.parameters = {
            name: each.default is not each.empty or each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
            for name, each in signature.parameters.items()
        }

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the step in the current workflow, or returns what the journal has. Raises StepFailed."""
        return cast(R, current_executor.get().run_step(self, args, kwargs))

    def unjournaled(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function as a part of the step that is running: nothing is journaled, retried or undone on its own."""
        return self.function(*args, **kwargs)


def step(
    *,
    retries: int = 0,
    retry_delay_seconds: float = 0.0,
    retry_on: tuple[type[Exception], ...] = (),
    interruptible: bool = False,
    undo: "Step[..., Any] | None" = None,
    syncs_first: bool = True,
    former_names: tuple[str, ...] = (),
    former_parameters: dict[str, str] | None = None,
) -> Callable[[Callable[P, R]], Step[P, R]]:
    """Make a step of a function and register it under the function's name, with the options of `Step`.

    `former_names`: a run that began when the step had one of these names replays and is undone as if it had the present name. Raises ValueError
    where a name, present or former, is taken.
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
    """Return the name that a journaled step has in this version; the name itself where it was not renamed."""
    return FORMER_NAMES.get(name, name)


@dataclass
class Interrupt:
    """Tells a running step that a signal waits for it. Set by the watcher, read by the step's long waits."""

    signal: str | None = None
    _event: threading.Event = field(default_factory=threading.Event)

    def set(self, signal: str) -> None:
        """Asks the step to end."""
        self.signal = signal
        self._event.set()

    def check(self) -> None:
        """Raises Interrupted if a signal waits."""
        if self.signal is not None:
            raise Interrupted(self.signal)

    def wait(self, timeout_seconds: float) -> None:
        """Sleeps, but not past a signal, which it raises as Interrupted."""
        self._event.wait(timeout_seconds)
        self.check()


def check_interrupt() -> None:
    """For the long waits inside an interruptible step. Raises Interrupted; does nothing elsewhere."""
    interrupt = current_interrupt.get()
    if interrupt is not None:
        interrupt.check()


def pause(seconds: float) -> None:
    """Sleeps inside a step; a signal ends the sleep of an interruptible one with Interrupted."""
    (current_interrupt.get() or Interrupt()).wait(seconds)


def current_run() -> str:
    """The id of the run that the running step works for."""
    return current_executor.get().run.id


def current_attempt() -> int:
    """Which attempt of the running step this is, from 1; above 1 an earlier one may have got half-way."""
    return current_executor.get().attempt
