"""What hosts of a fleet did in a night, read from their journals, and what must hold of it."""

from itertools import pairwise
from typing import NamedTuple

from fleet_host import Host
from fleets import Fleet

BEFORE_RESTART, AFTER_RESTART = "stop_if_idle", "accept"


class Night(NamedTuple):
    """When a host began its first stop of a night, accepted the version, and finished its bake. Epoch seconds by one clock."""

    host: str
    stopped: float
    accepted: float
    baked: float


def night(host: Host, run: str, version: str) -> Night:
    """Return what a host did in the run that moved it to this version."""
    stopped = host.times(run, BEFORE_RESTART, "started")[0]
    accepted = host.times(run, AFTER_RESTART)[-1]
    [baked] = host.baked(version)
    return Night(host.name, *(at - host.skew_seconds for at in (stopped, accepted, baked)))


def nights(fleet: Fleet, runs: dict[str, str], version: str) -> dict[str, Night]:
    """Return the nights of these hosts and runs."""
    return {name: night(fleet[name], run, version) for name, run in runs.items()}


def assert_in_waves(found: dict[str, Night], waves: list[list[str]]) -> None:
    """No host of a wave stopped anything before all hosts of the wave before had accepted the version and finished their bake."""
    for earlier, later in pairwise(waves):
        done = max(max(found[name].accepted, found[name].baked) for name in earlier)
        first = min(found[name].stopped for name in later)
        assert done <= first, f"{later} began {done - first:.2f} s too early: {found}"


def assert_at_most(slots: int, found: dict[str, Night]) -> None:
    """At no time did more hosts than `slots` restart users."""
    moments = [(each.stopped, 1) for each in found.values()] + [(each.accepted, -1) for each in found.values()]
    at_once = highest = 0
    for _, change in sorted(moments):
        at_once += change
        highest = max(highest, at_once)
    assert highest <= slots, f"{highest} hosts restarted users at once: {found}"


def gap_seconds(found: dict[str, Night], earlier: list[str], later: list[str]) -> float:
    """Return the seconds from the end of the last bake of a wave to the first stop of the next."""
    done = max(max(found[name].accepted, found[name].baked) for name in earlier)
    return min(found[name].stopped for name in later) - done
