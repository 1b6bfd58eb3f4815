"""Retry a run that the registry stopped, within the hour, as a delayed task of the same run.

Between two attempts the run holds nothing: what it staged was undone, the host's lock is free, and only its journal is left. A freeze, a cancel,
another run or a crash finds it asleep, and the next attempt begins again from the tag.
"""

import time
from datetime import datetime
from typing import TypedDict

from t3flow.engine.errors import NotYet, StepFailed
from t3flow.engine.step import step
from t3flow.host.host import current_host
from t3flow.settings import schedule

TRANSIENT = {"RegistryUnreachable", "IncompleteRelease"}
"""Kinds of failure of the registry after which a run is retried later."""
MOST_WAIT_FACTOR = 4
"""The waits double up to this many times the first."""
TOTAL_WAIT_FACTOR = 12
"""A run without a latest hour is retried for this many times the first wait: an hour by default."""


class Retry(TypedDict):
    """When a run is retried (epoch seconds; 0: no more), until when retries go on, and why, in one line for people."""

    at: float
    until: float
    problem: str


class RegistryWait:
    """The retries of one run: how many there were, and until when they go on. A replay builds the same from the journal."""

    def __init__(self, due: float | None) -> None:
        self.due = due
        self.retries = 0
        self.until = 0.0

    def sleep_after(self, failure: StepFailed) -> None:
        """Sleep until the next attempt is due. Raises the failure if it is not the registry's, is permanent, or the time is up."""
        if failure.kind not in TRANSIENT:
            raise failure
        retry = plan_retry(failure.reason, self.retries, self.until, self.due)
        if not retry["at"]:
            raise failure
        await_registry(retry["at"], retry["problem"])
        self.retries, self.until = self.retries + 1, retry["until"]


@step(wording=("reason",))
def plan_retry(reason: str, tries: int, until: float, due: float | None) -> Retry:
    """Return when a run that the registry has stopped `tries` + 1 times is retried. Only reads the clock: a repeat gives a later time."""
    settings = current_host().settings
    first, now = float(settings.schedule.retry_s), time.time()
    if not first:
        return {"at": 0, "until": 0, "problem": ""}
    latest = schedule.deadline(settings, due) if due is not None else None
    until = until or latest or now + TOTAL_WAIT_FACTOR * first
    at = now + first * min(2**tries, MOST_WAIT_FACTOR)
    if at > until:
        return {"at": 0, "until": until, "problem": ""}
    clock = f"{datetime.fromtimestamp(at, schedule.zone(settings)):%H:%M:%S}"
    return {"at": at, "until": until, "problem": f"{reason}; next attempt at {clock}"}


@step(wording=("problem",))
def await_registry(at: float, problem: str) -> None:
    """Sleep until `at` as a delayed task. A repeat sleeps for the rest; a clock that was set back does not prolong it."""
    longest = float(current_host().settings.schedule.retry_s) * MOST_WAIT_FACTOR
    if 0 < at - time.time() <= longest:
        raise NotYet(at, problem)
