"""A host dies while it holds the slot, as a power cut does in the midst of its restarts."""

from collections.abc import Callable

import pytest
from conftest import FIRST, NEXT
from fleets import Fleet

pytestmark = pytest.mark.processes


@pytest.mark.timeout(600)
def test_a_host_that_dies_with_the_slot(make_fleet: Callable[..., Fleet]) -> None:
    """The others wait and say for whom, until an operator frees the slot. The dead one comes back and ends what it began."""
    fleet = make_fleet()
    fleet.add("a", users=2)
    fleet.add("b")
    fleet.start("ab")
    dead, other = fleet["a"], fleet["b"]
    fleet.publish(NEXT, {"schema_level": 32})
    [died] = fleet.begin_bumps("a", NEXT).values()
    fleet.until(lambda: NEXT in dead.versions().values(), "its first user is on the version")
    dead.call("kill", "consumer")
    fleet.network.cut("a")
    assert sorted(dead.versions().values()) == [FIRST, NEXT], "it died between its users"

    [run] = fleet.begin_bumps("b", NEXT).values()
    fleet.until(lambda: "held by a" in other.waits_because(run), "the other one waits")
    [slot] = other.document("fleet", "status")["slots"]
    assert (slot["host"], slot["version"]) == ("a", NEXT)
    assert other.stops(run) == 0
    released = other.call("t3flow", "fleet", "release", "a")
    assert released["code"] == 0, released
    assert "a holds no slot" in other.t3flow("fleet", "release", "a"), "nothing is left to free"
    fleet.until(lambda: other.baked(NEXT), "the other one goes on")
    assert sorted(dead.versions().values()) == [FIRST, NEXT]

    fleet.network.mend("a")
    dead.call("start_consumer")
    fleet.until(lambda: dead.baked(NEXT), "it comes back and ends what it began")
    assert fleet.on(NEXT) == "ab"
    assert dead.stops(died) == 2, "no user was restarted twice"
    fleet.until(lambda: not fleet.redis.admin.keys("t3flow:default:slot:*"), "no slot is held")
