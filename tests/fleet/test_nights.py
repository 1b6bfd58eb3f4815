"""Nights of a whole fleet: six hosts with a consumer each, one Redis, and real bumps."""

from collections.abc import Callable

import pytest
from conftest import FIRST, LATER, NEXT
from fleets import Fleet
from nights import assert_at_most, assert_in_waves, nights

pytestmark = pytest.mark.processes
LATEST = "0.0.25-nightly.20260611.503"
NOT_SCRATCH = {"not_scratch": True}
BROKEN = {"fault": "pairing_500", "when": NOT_SCRATCH}
COMMANDS_OF_A_NIGHT = 1000


def test_nights_of_six_hosts(make_fleet: Callable[..., Fleet]) -> None:
    """A good night goes wave by wave, a host at a time, and costs Redis little. Another group does not wait. A host that joins late catches up.

    In a bad night one host is hurt, and no other restarts its users, until an operator frees the slot and a better build comes.
    """
    fleet = make_fleet()
    fleet.add("ab", wave=0)
    fleet.add("cd", wave=1)
    fleet.add("e", wave=2)
    fleet.add("x", wave=1, group="other")
    fleet.start("abcdex")

    before = fleet.redis.commands()
    fleet.publish(NEXT, {"schema_level": 32})
    runs = fleet.bumps("edcbax", NEXT)
    found = nights(fleet, runs, NEXT)
    assert_in_waves({name: found[name] for name in "abcde"}, [["a", "b"], ["c", "d"], ["e"]])
    assert_at_most(1, {name: found[name] for name in "abcde"})
    assert found["x"].stopped < min(found[name].stopped for name in "cde"), "another group does not wait"
    assert fleet.on(NEXT) == "abcdex"
    spent = sum(fleet.redis.commands().values()) - sum(before.values())
    assert spent < COMMANDS_OF_A_NIGHT
