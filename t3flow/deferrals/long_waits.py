"""Deferrals that wait very long for the same cause. Nothing ends such a wait by itself, so an alert is logged."""

import shlex
import time
from typing import Any, TypedDict

from t3flow.deferrals import blockers
from t3flow.engine.journal import Journal
from t3flow.engine.log import logger
from t3flow.host.records import facts

MARK = "DEFERRAL OLD"
"""The words that the alert T3DeferralOld looks for in the log."""
OLD_SECONDS = 3 * 86400.0
OLD_CHECKS = 100
LOG_AGAIN_SECONDS = 86400.0
EXPECTED = ("window", "frozen", "revoked", "held", "later", "host_busy", "server_stopped")
"""Causes that a setting or an operator has chosen, or that end with another run."""
CAUSES = facts.DEFERRAL_CAUSES


class Cause(TypedDict):
    """Since when (epoch seconds) and for how many checks a user has waited for a cause, and when that was last logged (0: never)."""

    waiting_for: str
    since: float
    checks: int
    said: float


def note(journal: Journal, user: str, waiting_for: str, detail: str) -> None:
    """Count one more check that found a user not ready; if there are many for the same cause, log it, once a day.

    A closed window leaves the cause as it is. A repeat counts one more check.
    """
    if waiting_for in EXPECTED:
        return
    now = time.time()

    def change(facts: Any) -> dict[str, Any]:
        known: Cause | None = (facts or {}).get(user)
        if known is None or known["waiting_for"] != waiting_for:
            known = {"waiting_for": waiting_for, "since": now, "checks": 0, "said": 0.0}
        known["checks"] += 1
        if is_old(known, now) and now - known["said"] > LOG_AGAIN_SECONDS:
            known["said"] = now
        return {**(facts or {}), user: known}

    cause: Cause = facts.change(journal, CAUSES, change)[user]
    if cause["said"] == now:
        days = (now - cause["since"]) / 86400
        name = shlex.quote(user)
        is_process = waiting_for == "running_process"
        remedy = (
            f"ask the user, or: t3flow enqueue drain {name} --ignore-processes {name}"
            if is_process
            else "see t3flow status"
        )
        logger.warning(
            "{}: {} has waited for {} for {} checks in {:.1f} days: {}; {}",
            *(MARK, user, waiting_for, cause["checks"], days, detail, remedy),
        )


def forget(journal: Journal, user: str) -> None:
    """Drop what is known of a wait that ended. Idempotent."""
    blockers.forget(journal, user)
    if user in (facts.read(journal, CAUSES) or {}):
        facts.change(
            journal, CAUSES, lambda facts: {name: each for name, each in (facts or {}).items() if name != user} or None
        )


def old(journal: Journal) -> dict[str, Cause]:
    """Return the deferred users who have waited very long for one cause."""
    now = time.time()
    return {user: cause for user, cause in (facts.read(journal, CAUSES) or {}).items() if is_old(cause, now)}


def is_old(cause: Cause, now: float) -> bool:
    """Return whether a wait is long enough to be logged."""
    return cause["checks"] >= OLD_CHECKS or now - cause["since"] > OLD_SECONDS
