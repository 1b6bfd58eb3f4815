"""How runs end, and what they share: exclusive use of the host, and the outcome that the interface shows."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from t3flow import tasks
from t3flow.deferrals.causes import waits_for
from t3flow.engine.errors import Interrupted, StepFailed
from t3flow.engine.flow import CRASHED, current_flow
from t3flow.engine.runs import HOST_LEASE, Outcome
from t3flow.host.users import Result, User, result_of

UNMANAGED = "unmanaged"
"""Marks, in `waiting_for`, the result of a user whom t3flow cannot manage."""
STILL_FROZEN = "tracking is frozen: t3flow unfreeze"
SUCCEEDED = {
    "updated",
    "up_to_date",
    "refused_downgrade",
    "refused_channel",
    "refused_rejected",
    "too_young",
    "dry_run_passed",
    "done",
}
OUTCOME_OF_ERROR = {"RegistryUnreachable": "registry_unreachable", "IncompleteRelease": "incomplete_release"}
OUTCOME_OF_SIGNAL = {"cancel": "cancelled", "freeze": "frozen"}
CAUSE_OF_SIGNAL = {"cancel": "the run was cancelled", "freeze": "tracking was frozen"}


def ended(
    name: str,
    reason: str,
    results: dict[str, Result] | None = None,
    *,
    default: str | None = None,
    version: str | None = None,
    notices: Sequence[str] = (),
) -> Outcome:
    """Return an outcome with the data that the interface shows. `default` and `version`: where a bump goes from and to."""
    status = "succeeded" if name in SUCCEEDED else "cancelled" if name in ("cancelled", "frozen") else "failed"
    shown = {
        user: {
            "result": result["result"],
            "version": result["version"],
            "downtime_s": result["downtime_s"],
            "reason": waits_for(result["reason"]) if result["reason"] == result["waiting_for"] else result["reason"],
        }
        for user, result in sorted((results or {}).items())
    }
    data = {"from": default, "target": version, "users": shown, "notices": list(notices)}
    return Outcome(name, reason, status, data)


def failed(failure: StepFailed, results: dict[str, Result] | None = None) -> Outcome:
    """Return the outcome of a run that a step failed. A step that repeatedly killed the consumer freezes tracking: the next run would meet it too."""
    if failure.kind == CRASHED:
        with current_flow().shielded():
            tasks.freeze_tracking(failure.reason)
    return ended(OUTCOME_OF_ERROR.get(failure.kind, "error"), failure.reason, results)


def interrupted(signal: Interrupted, consequence: str, results: dict[str, Result] | None = None) -> Outcome:
    """Return the outcome of a run that a signal ended: why, and what that means for the host."""
    return ended(OUTCOME_OF_SIGNAL[signal.signal], f"{CAUSE_OF_SIGNAL[signal.signal]}: {consequence}", results)


def reason_to_refuse() -> str:
    """Return why tracking is frozen, or "". Shielded, so that the freeze does not interrupt the run as a signal before it can say so."""
    with current_flow().shielded():
        return tasks.frozen_reason()


@contextmanager
def exclusive() -> Iterator[None]:
    """Hold the host's lease for one all-or-nothing change: an error that leaves the block is undone before the next run begins."""
    with ExitStack() as stack:
        stack.enter_context(current_flow().lease(HOST_LEASE))
        stack.enter_context(current_flow().saga())
        yield


def unmanaged(users: list[User]) -> dict[str, Result]:
    """Return the results of the users whom t3flow cannot manage: they keep what they have."""
    results: dict[str, Result] = {}
    for user in users:
        if reason := user.get("why"):
            results[user["user"]] = {**result_of("skipped", user["version"], reason), "waiting_for": UNMANAGED}
    return results
