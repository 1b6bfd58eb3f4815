"""All scenarios of a rig by name, and how to play one with kills."""

from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

from bumps import BUMPS, play_bump
from rig import Attempt, Rig, read
from takeover import TAKEOVERS, old_host
from tracer import Point
from verbs import ROLLBACKS, play_restore, play_rollback

from t3flow.engine.journal import Run

Play = Callable[[Rig, Attempt], Generator[tuple[str, dict[str, Any]], Run, None]]
"""Prepares the host, yields the run that may be killed (workflow, arguments), receives its end, checks the result, and restores the host."""

PLAYS: dict[str, Play] = {
    **dict.fromkeys(BUMPS, play_bump),
    **dict.fromkeys(ROLLBACKS, play_rollback),
    **dict.fromkeys(("restore", "restore_kept"), play_restore),
    **TAKEOVERS,
}
CALLS = {
    "rollback": 220,
    "rollback_program": 130,
    "rollback_fails": 270,
    "restore": 135,
    "restore_kept": 180,
    "adopt": 650,
    "adopt_cancelled": 750,
    "adopt_undo": 165,
}
"""Approximate number of state-changing calls in an undisturbed run, except writes of pages."""
WORDS = ("FREEZE_AFTER", "CANCEL_AFTER", "CANCEL_AT")
"""Variables for the consumer of the run that may be killed: see marked.py."""


def host_for(name: str) -> str:
    """Return the kind of host that a scenario needs."""
    return "old" if name in TAKEOVERS else "ours"


def rig_for(name: str, idle: list[str]) -> Rig:
    """Create a rig for this scenario and all others of its kind."""
    return Rig([*idle, "linus"], set_up=old_host) if host_for(name) == "old" else Rig(idle)


def attempt(
    rig: Rig,
    name: str,
    kills: list[Point | int],
    whom: str = "all",
    *,
    staged: bool = True,
    record: bool = False,
    cancel_at: int = 0,
) -> Attempt:
    """Play a scenario with a kill at each of the points (or at the call of this number), and check the result."""
    found = Attempt(name)
    rig.kills, rig.whom, rig.record, rig.staged = [], whom, False, staged
    rig.box.environment.update(dict.fromkeys((f"T3CRASH_{word}" for word in WORDS), ""))
    rig.box.environment["T3CRASH_FREEZE_FILE"] = str(rig.settings.paths.freeze_file)
    play = PLAYS[name](rig, found)
    try:
        workflow, args = next(play)
        if cancel_at:
            rig.box.environment["T3CRASH_CANCEL_AT"] = str(cancel_at)
        run = rig.begin(workflow, args)
        rig.kills, rig.record, rig.births = list(kills), record, []
        rig.consumer()
        rig.wait(lambda: rig.over(run), f"run {run} has ended")
        ended = rig.journal.run(run)
        found.outcome = str(ended.outcome)
        calls = None if workflow == "bump" else read(rig.log).count(b"\n")  # the cleanup has other points
        with suppress(StopIteration):
            play.send(ended)
        rig.at_rest(found)
        found.points = found.points[:calls]
        rig.count(found)
    except Exception as error:
        found.wrong.append(f"{type(error).__name__}: {error}")
    found.killed = len(rig.births) - 1
    found.reached = found.killed == len(kills)
    return found
