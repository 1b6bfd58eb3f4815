"""The fleet's Redis is gone, or comes back without its data: nothing unverified is started anywhere, and everything else goes on."""

from collections.abc import Callable

import pytest
from conftest import FIRST, LATER, NEXT
from fleets import Fleet

pytestmark = pytest.mark.processes
BROKEN = {"fault": "pairing_500", "when": {"not_scratch": True}}


@pytest.mark.timeout(600)
def test_without_redis_no_host_starts_what_others_have_not_verified(make_fleet: Callable[..., Fleet]) -> None:
    """Verifying, draining to a version that is verified, and rolling back go on; the bumps go on when Redis is back with what it had acknowledged."""
    fleet = make_fleet()
    fleet.add("a")
    fleet.add("b", wave=1, users=2)
    fleet.start("ab")
    fleet.publish(NEXT, {"schema_level": 32})
    turn = fleet["b"].call("control", "b1", "turn/start", agent="claude")["turn"]
    fleet.bumps("ab", NEXT)
    assert fleet["b"].versions() == {"b1": FIRST, "b2": NEXT}

    fleet.until(
        lambda: not fleet.redis.admin.keys("*:slot:*"), "the slot is given back: a later rollback would keep it"
    )

    fleet.redis.kill()
    fleet.publish(LATER, {"schema_level": 32})
    runs = fleet.begin_bumps("a", LATER)
    fleet.until(lambda: "does not answer" in fleet["a"].waits_because(runs["a"]), "the bump waits and says for what")
    assert all(fleet[name].call("t3flow", "verify")["code"] == 0 for name in "ab")
    assert "does not answer" in fleet["a"].t3flow("status")
    fleet["b"].call("control", "b1", "turn/end", turn=turn)
    fleet.until(lambda: fleet["b"].versions()["b1"] == NEXT, "the deferred user is drained to the verified version")
    back = fleet["b"].document("enqueue", "rollback", "--user", "b2", "--to", FIRST, "--wait")
    assert back["users"]["b2"]["result"] == "rolled_back", back
    assert fleet["b"].versions() == {"b1": NEXT, "b2": FIRST}
    assert (fleet["a"].stops(runs["a"]), fleet["a"].versions()) == (0, {"a1": NEXT})

    fleet.redis.start()
    fleet.until(lambda: fleet["a"].versions() == {"a1": LATER}, "the bump goes on by itself")


@pytest.mark.timeout(600)
def test_a_redis_that_forgets_gives_no_slot_away(make_fleet: Callable[..., Fleet]) -> None:
    """A host was hurt by a bad build and holds the slot; Redis is killed and comes back empty. The claim and the rejection are there again."""
    fleet = make_fleet(persistent=False)
    fleet.add("ab")
    fleet.start("ab")
    fleet.publish(NEXT, {"schema_level": 32, "rules": [BROKEN]})
    runs = fleet.begin_bumps("a", NEXT)
    fleet.until(lambda: fleet["a"].journal.run(runs["a"]).outcome == "rolled_back", "a is hurt")
    fleet.until(lambda: NEXT in fleet["b"].document("status")["rejected"], "b knows")

    fleet.redis.kill()
    fleet.redis.start()
    assert fleet.redis.admin.keys("*") == []
    fleet.publish(LATER, {"schema_level": 32})
    runs = fleet.begin_bumps("b", LATER)
    fleet.until(lambda: "held by a" in fleet["b"].waits_because(runs["b"]), "b waits for the holder of the slot")
    fleet.until(lambda: fleet.redis.admin.keys("*:slot:*"), "the claim is there again")
    assert fleet["b"].stops(runs["b"]) == 0
    again = fleet["b"].document("enqueue", "bump", "--target", NEXT, "--wait")
    assert again["outcome"] == "refused_rejected", again
    fleet.until(lambda: len(fleet.redis.admin.keys("*:host:*")) == 2, "both hosts are there again")
    assert "Freed slot 0" in fleet["b"].t3flow("fleet", "release", "a")
    fleet.until(lambda: fleet.on(LATER) == "b", "an operator frees the slot, and it goes on")
