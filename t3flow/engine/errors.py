"""What can end a step or a run, and what a step may raise to say "again later"."""

from t3flow import T3flowError


class NotYet(Exception):
    """Raised by a step that polls: ask again at `at` (seconds since the epoch). `waiting_for` says why."""

    def __init__(self, at: float, waiting_for: str) -> None:
        super().__init__(waiting_for)
        self.at = at
        self.waiting_for = waiting_for


class Interrupted(T3flowError):
    """A signal (freeze, cancel, ...) was delivered to the run at this point."""

    def __init__(self, signal: str) -> None:
        super().__init__(f"interrupted by {signal}")
        self.signal = signal


class StepFailed(T3flowError):
    """A step failed for good. `kind` is the class name of the step's own error, `reason` its text."""

    def __init__(self, step: str, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.step = step
        self.kind = kind
        self.reason = reason


class UndoFailed(StepFailed):
    """A compensation failed for good: what it should have put back is as the reason says."""


class HistoryMismatch(BaseException):
    """The journaled history does not fit the workflow: another version of the code wrote it. No workflow is to catch it."""


class Stalled(BaseException):
    """The journal cannot be written, so that nothing that was done since would be known: the run is left as it is on record."""


class Suspended(BaseException):
    """Unwinds a workflow that waits. Not an Exception, so that no workflow can catch it by accident."""

    def __init__(self, wake_at: float | None, step: str | None = None, waiting_for: str = "") -> None:
        super().__init__(step or "")
        self.wake_at = wake_at
        self.step = step
        self.waiting_for = waiting_for
