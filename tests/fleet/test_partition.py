"""The network fails in the midst of a wave, on hosts whose clocks are an hour apart."""

import time
from collections.abc import Callable

import pytest
import shifted_clock
from conftest import NEXT
from fleets import Fleet
from waves import assert_at_most, assert_in_waves, nights

pytestmark = pytest.mark.processes
HOUR = 3600


@pytest.mark.skipif(not shifted_clock.has_compiler(), reason="there is no C compiler for clocks of their own")
@pytest.mark.timeout(600)
def test_a_partition_in_mid_wave_and_clocks_an_hour_apart(make_fleet: Callable[..., Fleet]) -> None:
    """A host that has its turn finishes it alone, and none goes on until the fleet has heard of that; one that waits goes on waiting."""
    fleet = make_fleet()
    fleet.add("a", users=2)
    fleet.add("b", wave=1, skew_seconds=HOUR)
    fleet.add("c", wave=2, skew_seconds=-HOUR)
    fleet.start("abc")
    fleet.publish(NEXT, {"schema_level": 32})
    runs = fleet.begin_bumps("abc", NEXT)
    assert 0.9 * HOUR < fleet["b"].journal.run(runs["b"]).created - time.time() < 1.1 * HOUR, "its clock is ahead"
    assert 0.9 * HOUR < time.time() - fleet["c"].journal.run(runs["c"]).created < 1.1 * HOUR, "its clock is behind"
    fleet.until(lambda: fleet["a"].stops(runs["a"]), "the first wave restarts users")
    fleet.network.cut("a")
    fleet.network.cut("c")
    fleet.until(lambda: fleet["a"].baked(NEXT), "it finishes its turn alone")
    assert fleet.on(NEXT) == "a"
    fleet.until(lambda: "host a of wave 0" in fleet["b"].waits_because(runs["b"]), "the next wave has not heard of it")
    assert fleet["a"].call("t3flow", "verify")["code"] == 0
    assert [fleet[name].stops(runs[name]) for name in "bc"] == [0, 0]

    fleet.network.mend("a")
    fleet.until(lambda: fleet["b"].baked(NEXT), "the next wave goes on when it has heard of it")
    assert fleet["c"].stops(runs["c"]) == 0, "the host that is cut off waits"
    fleet.network.mend("c")
    fleet.until(lambda: fleet["c"].baked(NEXT), "it goes on")
    found = nights(fleet, runs, NEXT)
    assert_in_waves(found, [["a"], ["b"], ["c"]])
    assert_at_most(1, found)
