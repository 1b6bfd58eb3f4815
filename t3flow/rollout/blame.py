"""Decide who is at fault when a restart fails. A version is at fault only for what its own server did.

Two facts decide: the version of the server that was started last, and the failure that ended the restart. The version to move to is at fault if
and only if

1. it was assigned, and the start of its server is in the journal (before that, none of its code has run),
2. the failure is one that a running server causes: it does not listen, does not answer, or does not pair, and
3. the undo then shows the previous version pairing again with the same dispatch, service manager and disk.

Every other failure is the fault of the surroundings and rejects nothing: the service manager, the port, the disk, the network, the user's own
configuration, an operator who stops the unit, or t3flow. A kind of failure that is not listed here is never a version's fault.
"""

import shlex
from dataclasses import dataclass
from types import TracebackType

from t3flow import tasks
from t3flow.deferrals import deferral
from t3flow.deferrals.left_behind import FAILS_ALONE, HELD
from t3flow.engine.errors import StepFailed, UndoFailed
from t3flow.engine.flow import CRASHED, current_flow
from t3flow.host.users import Result
from t3flow.rollout import pairing_checks

VERSION = "target"
"""The version to move to."""
DISPATCH = "dispatch"
"""Users who were not restarted cannot pair either."""
UNKNOWN = "unknown"
"""The server answers in a way that t3flow does not know."""
USER = "user"
"""The user's own configuration or port, or an operator who stopped the unit."""
HOST = "host"
"""The service manager, the disk, the network, or t3flow itself; also where the previous version fails in the same way."""
MANAGER = "manager"
"""The service manager, which does not start the previous version either: this user's server is down."""
CONSUMER = "consumer"
"""A step during which the consumer died repeatedly."""

FAULT_OF_KIND = {
    "NotPaired": VERSION,
    "NotReady": VERSION,
    "DispatchAtFault": DISPATCH,
    "UnknownServer": UNKNOWN,
    "BrokenBefore": USER,
    "PortTaken": USER,
    "Misconfigured": USER,
    "StoppedByHand": USER,
}
"""Kind of failure of a server that was started → who is at fault. Any other kind is HOST."""
FAILED = {"rolled_back", "failed"}
"""Results of a user that end a run."""
MOST_IN_A_ROW = 2
"""This many consecutive users who were stopped and could not be moved have met a fault that the next user would meet as well."""
NOT_PAIRED = ("NotPaired", "NotReady")
ENDS_THE_RUN = (DISPATCH, UNKNOWN)
"""Faults that the next user would meet as well: the run ends, and nothing is frozen or rejected."""


@dataclass
class Course:
    """How far a restart came: the version whose server was started last ("": none since the stop), and the failure that ended the block."""

    started: str = ""
    failure: StepFailed | None = None

    def __enter__(self) -> "Course":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, StepFailed):
            self.failure = error


def fault_of(course: Course, version: str, undo: UndoFailed | None, undo_of_stop: str) -> str:
    """Return who is at fault for a restart that failed. `undo`: how its undo failed; `undo_of_stop`: the step that starts the previous server."""
    failure = course.failure
    if failure is None:
        return HOST
    if failure.kind == CRASHED:
        return CONSUMER
    fault = FAULT_OF_KIND.get(failure.kind, HOST)
    if fault in (VERSION, UNKNOWN) and course.started != version:
        return HOST
    if fault == VERSION and undo is not None and undo.step == undo_of_stop and undo.kind in NOT_PAIRED:
        return HOST  # the previous version does not pair either, so that nothing shows the new one to be at fault
    return fault


def give_up(version: str, user: str, result: Result) -> str:
    """End a run after a restart that failed: freeze tracking, and reject the version if it is at fault. Return the reason.

    A failure that other users show to be this user's alone does neither.
    """
    if concerns_user_alone(version, user, result):
        result["ask_again"] = deferral.note_wait(user, result["waiting_for"], result["reason"], 0.0)
        return result["reason"]
    if result["at_fault"] == VERSION:
        reason = f"{version} failed for {user}: {result['reason']}"
        tasks.reject(version, reason, [])
    else:
        reason = f"{user} was not moved to {version}, which is not known to be at fault: {result['reason']}"
    tasks.freeze_tracking(reason)
    return reason


def concerns_user_alone(version: str, user: str, result: Result) -> bool:
    """Return whether a restart that was undone failed for this user alone: other users run the version, which is accepted, and pair.

    Then the result becomes `skipped`, and only an operator or a later bump retries it.
    """
    if result["result"] != "rolled_back" or result["at_fault"] != VERSION:
        return False
    with current_flow().shielded():
        others = pairing_checks.other_users_pairing(version, user)
        if len(others) < pairing_checks.ENOUGH:
            return False
        reason = f"{version} {FAILS_ALONE} {user} alone, {' and '.join(others)} run it: {result['reason']}"
        pairing_checks.note_fails_alone(user, version, reason)
        tasks.alert(f"{user} was rolled back: {reason}; to retry: t3flow enqueue drain {shlex.quote(user)}")
    result["result"], result["reason"], result["waiting_for"] = "skipped", reason, HELD
    return True


def escalate_shared_fault(results: dict[str, Result]) -> bool:
    """Turn the last results into failures that end the run if no single user's fault explains them; return whether it did.

    That is so if MOST_IN_A_ROW restarts in a row failed, or if the service manager starts no server any more. Before that, a restart that failed
    for no fault of the version is that user's deferral. A fault of the user's own never counts.
    """
    failures: list[Result] = []
    for result in results.values():
        if result["result"] == "restarted":
            failures = []
        elif (
            result.get("at_fault", "") not in ("", USER)
            and result["result"] not in FAILED
            and result["waiting_for"] != HELD
        ):
            failures.append(result)
    if len(failures) < MOST_IN_A_ROW and all(result["at_fault"] != MANAGER for result in failures):
        return False
    for result in failures:
        result["result"] = "failed" if result["at_fault"] == MANAGER else "rolled_back"
    return True
