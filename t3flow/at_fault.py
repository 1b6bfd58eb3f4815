"""Decide who is at fault when a restart fails. A version is blamed only for what its own server did.

Two facts decide: which version's server was started last, and which failure of which step ended the restart. The version that a user was to be
moved to is at fault if, and only if,

1. it was assigned, and the start of its server is in the journal (before that, nothing of it has run), and
2. the failure is one that a running server causes: it does not listen, does not answer, or does not pair, and
3. the undo then shows the former version pairing again with the same dispatch, manager and disk.

Everything else is the fault of what surrounds it, and rejects nothing: an error of the manager, the port, the disk, the network, the user's own
configuration, a person who stops the unit, or of t3flow. A failure of a kind that is not listed here is never a version's.
"""

from dataclasses import dataclass

from t3flow.engine.errors import StepFailed, UndoFailed
from t3flow.engine.flow import CRASHED

TARGET = "target"
"""The version that the user was to be moved to."""
DISPATCH = "dispatch"
"""Users who were not restarted cannot pair either."""
UNKNOWN = "unknown"
"""The server answers in a way that t3flow does not know."""
USER = "user"
"""The user's own configuration or port, or a person who stopped the unit."""
HOST = "host"
"""The manager of units, the disk, the network, or t3flow itself; also where the former version fails in the same way."""
MANAGER = "manager"
"""The manager of units, which starts the former version's server no more either: this user's is down."""
CONSUMER = "consumer"
"""A step during which the consumer died again and again."""

FAULT_OF_KIND = {
    "NotPaired": TARGET,
    "NotReady": TARGET,
    "DispatchAtFault": DISPATCH,
    "UnknownServer": UNKNOWN,
    "BrokenBefore": USER,
    "PortTaken": USER,
    "Misconfigured": USER,
    "StoppedByHand": USER,
}
"""Kind of failure of a server that was started and looked at → who is at fault. Any other kind is HOST."""
NOT_PAIRED = ("NotPaired", "NotReady")
ENDS_THE_RUN = (DISPATCH, UNKNOWN)
"""Faults that the next user would meet as well: the run ends, and nothing is frozen or rejected."""


@dataclass
class Course:
    """How far a restart came: the version whose server was started last ("": none since the stop), and the failure that ended it."""

    started: str = ""
    failure: StepFailed | None = None


def who_is_at_fault(course: Course, target: str, undo: UndoFailed | None, undo_of_stop: str) -> str:
    """Return who is at fault for a restart that failed. `undo`: the failure of its undo; `undo_of_stop`: the step that starts the former server."""
    failure = course.failure
    if failure is None:
        return HOST
    if failure.kind == CRASHED:
        return CONSUMER
    fault = FAULT_OF_KIND.get(failure.kind, HOST)
    if fault in (TARGET, UNKNOWN) and course.started != target:
        return HOST
    if fault == TARGET and undo is not None and undo.step == undo_of_stop and undo.kind in NOT_PAIRED:
        return HOST  # the former version does not pair either: nothing shows that the new one is to blame
    return fault
