"""The exceptions that end, suspend, or interrupt a step or a run.

Those that workflow code must not catch by accident derive from BaseException.
"""

from t3flow import T3flowError


class NotYet(Exception):
    """Raised by a step that polls: run it again at `at` (epoch seconds). `waiting_for` is the cause."""

    def __init__(self, at: float, waiting_for: str) -> None:
        super().__init__(waiting_for)
        self.at = at
        self.waiting_for = waiting_for


class Interrupted(T3flowError):
    """A signal (freeze, cancel, yield) was delivered to the run at this point."""

    def __init__(self, signal: str) -> None:
        super().__init__(f"interrupted by {signal}")
        self.signal = signal


class StepFailed(T3flowError):
    """A step failed, and its retries are used up. `kind` is the class name of the step's own error, `reason` its text."""

    def __init__(self, step: str, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.step = step
        self.kind = kind
        self.reason = reason


class UndoFailed(StepFailed):
    """A compensation failed, and its retries are used up: the change that it should have undone may still be in place."""


class HistoryMismatch(BaseException):
    """The journaled history does not fit the workflow: another version of the code wrote it. Not an Exception: no workflow may catch it."""


class Stalled(BaseException):
    """The journal cannot be written, so the run must stop at its last recorded event. Not an Exception: no workflow may catch it."""


class Suspended(BaseException):
    """Leaves a workflow that waits until `wake_at` (epoch seconds), or for the lease if that is None. Not an Exception: no workflow may catch it."""

    def __init__(self, wake_at: float | None, step: str | None = None, waiting_for: str = "") -> None:
        super().__init__(step or "")
        self.wake_at = wake_at
        self.step = step
        self.waiting_for = waiting_for
