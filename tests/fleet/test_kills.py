"""The consumer is killed around the moment at which its host takes its turn: it goes on, and never has two slots."""

from collections.abc import Callable

import pytest
from conftest import NEXT
from fleets import Fleet
from puppet import Puppet

pytestmark = pytest.mark.processes
TAKING = r"SET\r\n\$\d+\r\nt3flow:default:slot:"


@pytest.mark.timeout(600)
def test_killed_while_it_waits_and_as_it_takes_its_turn(make_fleet: Callable[..., Fleet]) -> None:
    """Killed as it waits for another host; before Redis gets its command for the slot; after Redis has done it."""
    fleet = make_fleet()
    fleet.add("a", slots=2)
    fleet.through_gateway("a")
    other = Puppet(fleet, "p")
    host = fleet["a"]
    fleet.start("a")

    def slots_of_a() -> int:
        keys = fleet.redis.admin.keys("t3flow:default:slot:*")
        return sum(other.keys.verify("claim", value)[0] == "a" for value in map(fleet.redis.raw.get, keys) if value)

    for slot in (0, 1):
        other.take(other.claim(NEXT), slot)
    fleet.publish(NEXT, {"schema_level": 32})
    [run] = fleet.begin_bumps("a", NEXT).values()
    fleet.until(lambda: host.waits_because(run), "it waits for the slots")
    host.call("kill", "consumer")
    assert slots_of_a() == 0
    host.call("kill_at", TAKING, after=False)
    host.call("start_consumer")
    fleet.until(lambda: host.waits_because(run), "it waits again")
    assert host.stops(run) == 0

    other.free(0)
    fleet.until(lambda: host.call("has_fallen"), "it is killed before it has the slot")
    assert (slots_of_a(), host.stops(run)) == (0, 0)
    host.call("kill_at", TAKING, after=True)
    host.call("start_consumer")
    fleet.until(lambda: host.call("has_fallen"), "it is killed with the slot")
    assert (slots_of_a(), host.stops(run)) == (1, 0)
    other.free(1)  # the second one is to be had, too
    counts = set()
    host.call("start_consumer")
    fleet.until(lambda: counts.add(slots_of_a()) or host.baked(NEXT), "the run that was killed three times is done")
    assert fleet.on(NEXT) == "a"
    assert host.stops(run) == 1
    fleet.until(lambda: not slots_of_a(), "the slot is given back")
    assert counts <= {0, 1}
