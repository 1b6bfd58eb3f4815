"""How runs end, and what all of them share: the host to themselves, and the outcome that the interface shows."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from t3flow import tasks
from t3flow.engine.errors import StepFailed
from t3flow.engine.flow import CRASHED, current_flow
from t3flow.engine.runs import HOST_LOCK, Outcome
from t3flow.host.users import Result, User, result_of

UNMANAGED = "unmanaged"
"""What marks, in `waiting_for`, the result of a user whom t3flow cannot manage."""
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


def failed(failure: StepFailed, results: dict[str, Result] | None = None) -> Outcome:
    """The end of a run that a step has failed. A step that killed the consumer again and again freezes tracking: it would do so in the next run."""
    if failure.kind == CRASHED:
        with current_flow().shielded():
            tasks.freeze_tracking(failure.reason)
    return ended(OUTCOME_OF_ERROR.get(failure.kind, "error"), failure.reason, results)


def frozen_reason() -> str:
    """Why tracking is frozen, or "". Asked before the freeze could interrupt the run as a signal."""
    with current_flow().shielded():
        return tasks.frozen_reason()


@contextmanager
def exclusive() -> Iterator[None]:
    """Alone on the host, and all or nothing: an error on the way out is undone before the next run may begin."""
    with ExitStack() as stack:
        stack.enter_context(current_flow().lock(HOST_LOCK))
        stack.enter_context(current_flow().saga())
        yield


def ended(
    name: str,
    reason: str,
    results: dict[str, Result] | None = None,
    *,
    default: str | None = None,
    version: str | None = None,
    notices: Sequence[str] = (),
) -> Outcome:
    """Return an outcome with the data that the interface shows. `default`: the version that a bump moves from, `version`: the one that it moves to."""
    status = "succeeded" if name in SUCCEEDED else "cancelled" if name in ("cancelled", "frozen") else "failed"
    shown = {
        user: {key: result[key] for key in ("result", "version", "downtime_s", "reason")}
        for user, result in sorted((results or {}).items())
    }
    data = {"from": default, "target": version, "users": shown, "notices": list(notices)}
    return Outcome(name, reason, status, data)


def unmanaged(users: list[User]) -> dict[str, Result]:
    """The results of those whom t3flow cannot manage: they keep what they have."""
    marked: dict[str, Result] = {}
    for user in users:
        if why := user.get("why"):
            marked[user["user"]] = {**result_of("skipped", user["version"], why), "waiting_for": UNMANAGED}
    return marked
