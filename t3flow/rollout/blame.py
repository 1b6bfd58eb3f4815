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

from t3flow import tasks
from t3flow.deferrals import deferral
from t3flow.deferrals.left_behind import FAILS_ALONE, HELD
from t3flow.engine.errors import StepFailed, UndoFailed
from t3flow.engine.flow import CRASHED, current_flow
from t3flow.host.users import Result
from t3flow.rollout import pairing_checks

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
FAILED = {"rolled_back", "failed"}
"""Results of a user that end a run."""
MOST_IN_A_ROW = 2
"""So many users one after another who were stopped and could not be moved have met what the next would meet as well, whatever it is."""
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


def give_up(version: str, user: str, found: Result) -> str:
    """A restart failed and the run goes no further: tracking is frozen, and the version remembered if it is to blame. Returns the reason.

    A failure that is the user's alone, as others prove, does neither.
    """
    if concerns_user_alone(version, user, found):
        found["ask_again"] = deferral.note_wait(user, found["waiting_for"], found["reason"], 0.0)
        return found["reason"]
    if found["at_fault"] == TARGET:
        reason = f"{version} failed at {user}: {found['reason']}"
        tasks.reject(version, reason, [])
    else:
        reason = f"{user} was not moved to {version}, which nothing shows to be to blame: {found['reason']}"
    tasks.freeze_tracking(reason)
    return reason


def concerns_user_alone(version: str, user: str, found: Result) -> bool:
    """Whether a restart that failed and was undone is that user's trouble: others run the version, which is accepted, and pair.

    Then the result becomes `skipped`, and only a person or a later bump tries it again.
    """
    if found["result"] != "rolled_back" or found["at_fault"] != TARGET:
        return False
    with current_flow().shielded():
        others = pairing_checks.other_users_pairing(version, user)
        if len(others) < pairing_checks.ENOUGH:
            return False
        reason = f"{version} {FAILS_ALONE} {user} alone, {' and '.join(others)} run it: {found['reason']}"
        pairing_checks.note_fails_alone(user, version, reason)
        tasks.alert(f"{user} was taken back: {reason}; to try again: t3flow enqueue drain {user}")
    found["result"], found["reason"], found["waiting_for"] = "skipped", reason, HELD
    return True


def escalate_shared_fault(results: dict[str, Result]) -> bool:
    """Whether the last restarts show a fault that is no one user's: MOST_IN_A_ROW failed in a row, or the manager starts no server any more.

    Then they become results of FAILED, which end the run. Before that, a restart that failed for no fault of the version is that user's deferral;
    a user's own fault always is.
    """
    row: list[Result] = []
    for found in results.values():
        if found["result"] == "restarted":
            row = []
        elif (
            found.get("at_fault", "") not in ("", USER)
            and found["result"] not in FAILED
            and found["waiting_for"] != HELD
        ):
            row.append(found)
    if len(row) < MOST_IN_A_ROW and all(found["at_fault"] != MANAGER for found in row):
        return False
    for found in row:
        found["result"] = "failed" if found["at_fault"] == MANAGER else "rolled_back"
    return True
