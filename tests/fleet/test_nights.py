"""Nights of a whole fleet: six hosts with a consumer each, one Redis, and real bumps."""

from collections.abc import Callable

import pytest
from conftest import LATER, NEXT
from fleets import Fleet
from waves import assert_at_most, assert_in_waves, nights

pytestmark = pytest.mark.processes
LATEST = "0.0.25-nightly.20260611.503"
NOT_SCRATCH = {"not_scratch": True}
BROKEN = {"fault": "pairing_500", "when": NOT_SCRATCH}
COMMANDS_OF_A_NIGHT = 1000


@pytest.mark.timeout(900)
def test_nights_of_six_hosts(make_fleet: Callable[..., Fleet]) -> None:
    """A good night goes wave by wave, a host at a time, and costs Redis little; another group does not wait. A host that joins late catches up.

    In a bad night one host is hurt, and no other restarts its users until an operator has freed the slot and a better build has come.
    """
    fleet = make_fleet()
    fleet.add("ab", wave=0)
    fleet.add("cd", wave=1)
    fleet.add("e", wave=2)
    fleet.add("x", wave=1, group="other")
    fleet.start("abcdex")
    a_good_night(fleet)
    a_host_joins_late(fleet)
    hurt = a_bad_night(fleet)
    it_goes_on(fleet, hurt)


def a_good_night(fleet: Fleet) -> None:
    """Have hosts ask in the wrong order; they go in the right one."""
    before = fleet.redis.commands()
    fleet.publish(NEXT, {"schema_level": 32})
    found = nights(fleet, fleet.bumps("edcbax", NEXT), NEXT)
    group = {name: found[name] for name in "abcde"}
    assert_in_waves(group, [["a", "b"], ["c", "d"], ["e"]])
    assert_at_most(1, group)
    assert found["x"].stopped < min(found[name].stopped for name in "cde"), "another group does not wait"
    assert fleet.on(NEXT) == "abcdex"
    spent = sum(fleet.redis.commands().values()) - sum(before.values())
    assert spent < COMMANDS_OF_A_NIGHT


def a_host_joins_late(fleet: Fleet) -> None:
    """Add a host to the first wave, on the old version: it takes the present one at once."""
    fleet.add("f", wave=0)
    fleet.start("f")
    fleet.bumps("f", NEXT)
    assert fleet.on(NEXT) == "abcdefx"


def a_bad_night(fleet: Fleet) -> str:
    """Return the only host that is hurt. The build passes the gate and fails on users; all hosts are about to start it."""
    fleet.publish(LATER, {"schema_level": 32, "rules": [BROKEN]})
    runs = fleet.begin_bumps("abcdef", LATER)
    fleet.until(lambda: all(fleet.outcomes(runs).values()), "all bumps have ended")
    [hurt] = [name for name, run in runs.items() if fleet[name].stops(run)]
    assert hurt in "abf", "one of the first wave"
    assert fleet.outcomes(runs) == {name: "rolled_back" if name == hurt else "refused_rejected" for name in "abcdef"}
    assert [name for name in "abcdef" if fleet[name].is_frozen()] == [hurt]
    assert fleet.on(NEXT) == "abcdefx"
    assert fleet[hurt].call("t3flow", "verify")["code"] == 0, "its users are well again"
    return hurt


def it_goes_on(fleet: Fleet, hurt: str) -> None:
    """See that the slot stays held through a freeze and a better build, until an operator frees it."""
    others = "abf".replace(hurt, "")
    fleet.publish(LATEST, {"schema_level": 32})
    runs = fleet.begin_bumps(others, LATEST)
    fleet.until(lambda: all(f"held by {hurt}" in fleet[name].waits_because(run) for name, run in runs.items()), "wait")
    assert fleet[others[0]].document("fleet", "status")["slots"][0]["host"] == hurt
    assert [fleet[name].stops(run) for name, run in runs.items()] == [0, 0]
    fleet[others[0]].t3flow("fleet", "release", hurt)
    fleet[hurt].t3flow("unfreeze")
    runs |= fleet.bumps(hurt, LATEST)
    fleet.until(lambda: all(fleet[name].baked(LATEST) for name in others), "the others have baked it")
    assert_at_most(1, nights(fleet, runs, LATEST))
    assert fleet.on(LATEST) == "abf"
