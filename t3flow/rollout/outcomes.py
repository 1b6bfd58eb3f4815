"""How runs end, and what all of them share: the host to themselves, and the outcome that the interface shows."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from t3flow import tasks
from t3flow.deferrals import deferral
from t3flow.deferrals.causes import waits_for
from t3flow.engine.errors import StepFailed
from t3flow.engine.flow import CRASHED, current_flow
from t3flow.engine.runs import HOST_LEASE, Outcome
from t3flow.host.users import Person, Result, result_of
from t3flow.tasks import Plan

LEFT_OUT = "left out as asked"
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
    return ended(OUTCOME_OF_ERROR.get(failure.kind, "error"), failure.reason, None, results)


def why_held() -> str:
    """Why tracking is frozen, or "". Asked before the freeze could interrupt the run as a signal."""
    with current_flow().shielded():
        return tasks.held()


@contextmanager
def exclusive() -> Iterator[None]:
    """Alone on the host, and all or nothing: an error on the way out is undone before the next run may begin."""
    with ExitStack() as stack:
        stack.enter_context(current_flow().lease(HOST_LEASE))
        stack.enter_context(current_flow().saga())
        yield


def ended(name: str, reason: str, plan: Plan | None = None, results: dict[str, Result] | None = None) -> Outcome:
    """An outcome with the data that the interface shows."""
    status = "succeeded" if name in SUCCEEDED else "cancelled" if name in ("cancelled", "frozen") else "failed"
    shown = {
        user: {
            "result": found["result"],
            "version": found["version"],
            "downtime_s": found["downtime_s"],
            "reason": waits_for(found["reason"]) if found["reason"] == found["waiting_for"] else found["reason"],
        }
        for user, found in sorted((results or {}).items())
    }
    data: dict[str, Any] = {
        "from": plan["default"] if plan else None,
        "target": plan["target"] if plan else None,
        "users": shown,
        "notices": plan["notices"] if plan else [],
    }
    return Outcome(name, reason, status, data)


def waiting(person: Person, waiting_for: str, detail: str = "") -> Result:
    """The result of a user who is deferred without having been asked."""
    return {**result_of("deferred", person["version"], detail or waiting_for), "waiting_for": waiting_for}


def unmanaged(people: list[Person]) -> dict[str, Result]:
    """The results of those whom t3flow cannot manage: they keep what they have."""
    marked: dict[str, Result] = {}
    for person in people:
        if why := person.get("why"):
            marked[person["user"]] = {**result_of("skipped", person["version"], why), "waiting_for": UNMANAGED}
    return marked


def causes_of(version: str, results: dict[str, Result]) -> dict[str, deferral.Cause]:
    """Why which users are deferred to a version: those who wait, and those who were skipped, whatever the reason. Not those who cannot be managed."""
    causes: dict[str, deferral.Cause] = {}
    for user, found in results.items():
        cause, detail = found["waiting_for"], found["reason"]
        if found["result"] == "skipped" and cause != UNMANAGED:
            if detail == LEFT_OUT:
                detail = f"left out of {version} as asked: t3flow enqueue drain {user}"
            causes[user] = {"waiting_for": cause or "unreadable_state", "detail": detail, "is_behind": True}
        elif found["result"] == "deferred":
            detail = "" if detail == cause else detail
            causes[user] = {"waiting_for": cause, "detail": detail, "is_behind": False}
    return causes


def left_alone(results: dict[str, Result]) -> dict[str, Result]:
    """The results of a bump that defers nobody: who was busy stays as they are."""
    return {
        user: {**found, "result": "untouched"} if found["result"] == "deferred" else found
        for user, found in results.items()
    }


def inconclusive(reason: str, plan: Plan, results: dict[str, Result]) -> Outcome:
    """Something failed and no build is to blame: nothing is remembered or frozen, the next run tries again, and people are told."""
    with current_flow().shielded():
        tasks.alert(f"GATE INCONCLUSIVE: {reason}")
    return ended("gate_inconclusive", reason, plan, results)
