"""The fleet's Redis is gone: nothing unverified is started anywhere, and everything else goes on."""

from collections.abc import Callable

import pytest
from conftest import FIRST, LATER, NEXT
from fleets import Fleet

pytestmark = pytest.mark.processes


def test_without_redis_no_host_starts_what_others_have_not_verified(make_fleet: Callable[..., Fleet]) -> None:
    """Verifying, draining to a version that the fleet has verified, and rolling back go on; the bump goes on when Redis is back."""
    fleet = make_fleet()
    fleet.add("a")
    fleet.add("b", wave=1, users=2)
    fleet.start("ab")
    fleet.publish(NEXT, {"schema_level": 32})
    turn = fleet["b"].call("control", "b1", "turn/start", agent="claude")["turn"]
    fleet.bumps("ab", NEXT)
    assert fleet["b"].versions() == {"b1": FIRST, "b2": NEXT}

    fleet.redis.kill()
    fleet.publish(LATER, {"schema_level": 32})
    runs = fleet.begin_bumps("ab", LATER)
    fleet.until(lambda: all(fleet[name].waits_because(run) for name, run in runs.items()), "both hosts wait")
    assert "does not answer" in fleet["a"].waits_because(runs["a"])
    for name in "ab":
        assert (
            "every user can pair" in fleet[name].t3flow("verify") or fleet[name].call("t3flow", "verify")["code"] == 0
        )
    fleet["b"].call("control", "b1", "turn/end", turn=turn)
    fleet.until(
        lambda: fleet["b"].versions()["b1"] == NEXT, "the deferred user is moved to the version that is verified"
    )
    back = fleet["b"].document("enqueue", "rollback", "--user", "b2", "--to", FIRST, "--wait")
    assert back["outcome"] == "rolled_back", back
    assert fleet["b"].versions() == {"b1": NEXT, "b2": FIRST}
    assert [fleet[name].stops(run) for name, run in runs.items()] == [0, 0]
    assert LATER not in {*fleet["a"].versions().values(), *fleet["b"].versions().values()}

    fleet.redis.start()
    fleet.until(lambda: fleet["a"].versions() == {"a1": LATER}, "the bump goes on by itself")
