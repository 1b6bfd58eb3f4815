"""Waiting for the registry: a run that it has stopped tries again within the hour, as a delayed task of the same run.

Between two attempts the run has nothing: what it staged was undone, the host's lock is free, and the only thing that is left of it is its
journal. So a freeze, a cancel, another run or a kill finds it asleep, and the next attempt begins from the tag.
"""

import time
from collections.abc import Callable
from datetime import datetime
from typing import TypedDict

from t3flow.engine.errors import NotYet, StepFailed
from t3flow.engine.runs import Outcome
from t3flow.engine.step import step
from t3flow.host.host import this_host
from t3flow.rollout.outcomes import ended, exclusive, why_held
from t3flow.settings import schedule

LATER = {"RegistryUnreachable", "IncompleteRelease"}
"""What a step's failure must be for its run to be tried again later: the registry's, and of a kind that passes."""
LONGEST = 4
"""The waits double up to so many times the first."""
WITHIN = 12
"""For so many times the first wait a run without a latest hour is tried again: an hour of the default."""


class Again(TypedDict):
    """When a run is tried again (epoch seconds; 0: not any more), until when it may be, and why, in one line for people."""

    at: float
    until: float
    problem: str


def patiently(attempt: Callable[[], Outcome], dry_run: bool, due: float | None) -> Outcome:
    """A run's work, alone on the host; done again later while the registry is what stops it, unless it is a dry run.

    Raises StepFailed, Interrupted.
    """
    tries, until = 0, 0.0
    while True:
        if not dry_run and (reason := why_held()):
            return ended("frozen", reason)
        try:
            with exclusive():
                return attempt()
        except StepFailed as failure:
            if dry_run or failure.kind not in LATER:
                raise
            again = plan_retry(failure.reason, tries, until, due)
            if not again["at"]:
                raise
            await_registry(again["at"], again["problem"])
            tries, until = tries + 1, again["until"]


@step()
def plan_retry(reason: str, tries: int, until: float, due: float | None) -> Again:
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
