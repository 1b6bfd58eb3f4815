"""Waiting for the registry: a run that it has stopped tries again within the hour, as a delayed task of the same run.

Between two attempts the run has nothing: what it staged was undone, the host's lock is free, and the only thing that is left of it is its
journal. So a freeze, a cancel, another run or a kill finds it asleep, and the next attempt begins from the tag.
"""

import time
from datetime import datetime
from typing import TypedDict

from t3flow.engine.errors import NotYet, StepFailed
from t3flow.engine.step import step
from t3flow.host.host import this_host
from t3flow.settings import schedule

TRANSIENT = {"RegistryUnreachable", "IncompleteRelease"}
"""Kinds of failure of the registry after which a run is retried later."""
LONGEST = 4
"""The waits double up to so many times the first."""
WITHIN = 12
"""For so many times the first wait a run without a latest hour is tried again: an hour of the default."""


class Retry(TypedDict):
    """When a run is tried again (epoch seconds; 0: not any more), until when it may be, and why, in one line for people."""

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


@step()
def plan_retry(reason: str, tries: int, until: float, due: float | None) -> Retry:
    """When a run that the registry has stopped `tries` + 1 times is tried again. Only reads the clock: a repeat gives a later time."""
    settings = this_host().settings
    first, now = float(settings.schedule.retry_s), time.time()
    if not first:
        return {"at": 0, "until": 0, "problem": ""}
    latest = schedule.deadline(settings, due) if due is not None else None
    until = until or latest or now + WITHIN * first
    at = now + first * min(2**tries, LONGEST)
    if at > until:
        return {"at": 0, "until": until, "problem": ""}
    clock = f"{datetime.fromtimestamp(at, schedule.zone(settings)):%H:%M:%S}"
    return {"at": at, "until": until, "problem": f"{reason}; tried again at {clock}"}


@step()
def await_registry(at: float, problem: str) -> None:
    """Sleeps until then as a delayed task. Repeating it sleeps for what is left; a clock that was set back does not make it longer."""
    longest = float(this_host().settings.schedule.retry_s) * LONGEST
    if 0 < at - time.time() <= longest:
        raise NotYet(at, problem)
