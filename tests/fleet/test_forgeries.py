"""Records and claims that are forged, stale or played again, and accounts of Redis that are used by another host: none of them starts anything."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from conftest import FIRST, NEXT
from fleet_host import Host
from fleets import Fleet
from puppet import Puppet
from redis import Redis
from redis.exceptions import NoPermissionError
from redis_of_fleet import HUB, PORT, has_read_only_patterns

from t3flow.fleet.known import FLEET
from t3flow.host.records import facts

pytestmark = pytest.mark.processes
SEEN_IT = {"accepted": (FIRST, NEXT), "verified": (FIRST, NEXT)}
STALE_HOURS = 0.5


def dropped(host: Host) -> dict[str, Any]:
    """Return what the host says that it dropped: place → why and how often."""
    return dict((facts.read(host.journal, FLEET) or {}).get("dropped", {}))


def refuses(fleet: Fleet, host: Host, place: str, why: str, forge: Callable[[], None]) -> None:
    """See that the host drops what this forges, for this reason."""
    before = dropped(host).get(place, {}).get("count", 0)
    forge()
    fleet.until(lambda: dropped(host).get(place, {}).get("count", 0) > before, f"it drops what is forged: {why}")
    assert why in dropped(host)[place]["reason"]


@pytest.mark.timeout(600)
def test_what_is_forged_or_stale_starts_nothing(make_fleet: Callable[..., Fleet]) -> None:
    """The host of the second wave waits for the first. The attacker has all of Redis, and the key of a third host, but not that of the first."""
    fleet = make_fleet()
    fleet.add("b", wave=1, more=f"silent_hours = {STALE_HOURS}")
    first, evil, stranger = Puppet(fleet, "p"), Puppet(fleet, "e"), Puppet(fleet, "s", group="other")
    host = fleet["b"]
    fleet.start("b")
    first.publish(old := first.record(**SEEN_IT))  # taken back by the next one
    first.publish(first.record())
    evil.publish(evil.record(**SEEN_IT))
    fleet.publish(NEXT, {"schema_level": 32})
    [run] = fleet.begin_bumps("b", NEXT).values()
    fleet.until(lambda: "host p of wave 0 has not accepted" in host.waits_because(run), "it waits for the first wave")

    by_evil = evil.record(**SEEN_IT, wave=0)
    named_first = json.dumps({**json.loads(by_evil), "host": "p"}).encode()
    refuses(fleet, host, "p", "signature is not that of p", lambda: first.publish(named_first))
    refuses(fleet, host, "p", "names the host e", lambda: fleet.redis.raw.set(first.place, by_evil) and evil.nudge())
    refuses(fleet, host, "p", "older than one seen before", lambda: first.publish(old))
    refuses(
        fleet, host, "p", "not a signed record", lambda: fleet.redis.raw.set(first.place, b"\x00{") and evil.nudge()
    )
    refuses(fleet, host, "p", "too large", lambda: fleet.redis.raw.set(first.place, b"x" * 10**6) and evil.nudge())
    of_other_group = json.dumps({**json.loads(stranger.record(**SEEN_IT)), "host": "p"}).encode()
    refuses(fleet, host, "p", "signature is not that of p", lambda: first.publish(of_other_group))
    assert host.stops(run) == 0

    first.publish(first.record(**SEEN_IT, at=first.now() - 3600 * STALE_HOURS - 60))
    fleet.until(lambda: "is silent" in host.waits_because(run), "a stale record counts as none")
    shown = host.call("t3flow", "fleet", "status")
    assert (shown["code"], "SILENT" in shown["out"]) == (1, True), shown
    named_own = json.dumps({**json.loads(evil.claim(NEXT)), "host": "b"}).encode()
    first.take(named_own)
    first.publish(first.record(**SEEN_IT))
    fleet.until(
        lambda: "unreadable claim" in host.waits_because(run), "a claim that does not verify is no turn of its own"
    )
    assert (host.stops(run), fleet.on(FIRST)) == (0, "b")
    assert host.call("t3flow", "fleet", "release", "--slot", "0")["code"] == 0
    fleet.until(lambda: fleet.on(NEXT) == "b", "the true record starts it")


def test_accounts_of_redis_and_keys_keep_hosts_apart(make_fleet: Callable[..., Fleet]) -> None:
    """One host's account cannot write as another; a host with another's account is told so; a host with another's name is refused by its key."""
    if not has_read_only_patterns():
        pytest.skip("redis-server is older than 7: an account may write what it may read")
    fleet = make_fleet()
    fleet.add("ab")
    victim = Puppet(fleet, "p")
    victim.publish(victim.record())
    account = Redis.from_url(fleet.redis.urls["a"].replace(f"{HUB}:{PORT}", "x"), protocol=2)
    account = Redis(unix_socket_path=str(fleet.redis.socket), **credentials(account))
    record = account.get(victim.place)
    assert record is not None, "reading is allowed"
    for forbidden in (
        lambda: account.set(victim.place, record),
        lambda: account.delete(victim.place),
        lambda: account.eval("return redis.call('del', KEYS[1])", 1, victim.place),
        lambda: account.rename("t3flow:default:host:a", victim.place),
        lambda: account.set("t3flow:other:host:a", b""),
        lambda: account.get("t3flow:other:host:a"),
        lambda: account.publish("t3flow:other:changes", b""),
        account.flushall,
        account.config_get,
        account.acl_list,
        lambda: account.keys("*"),
    ):
        with pytest.raises(NoPermissionError):
            forbidden()

    fleet["b"].edit(fleet.redis.urls["b"], fleet.redis.urls["a"])
    fleet.start("ab")
    fleet.until(lambda: "FLEET UNREACHABLE" in fleet["b"].log(), "b cannot publish with the account of a")
    assert "refuses this host" in fleet["b"].log()
    fleet.publish(NEXT, {"schema_level": 32})
    [run] = fleet.begin_bumps("b", NEXT).values()
    fleet.until(lambda: "the record of this host" in fleet["b"].waits_because(run), "b waits, as none would see it")
    assert (fleet["b"].stops(run), fleet.redis.admin.keys("t3flow:default:slot:*")) == (0, [])
    assert fleet["b"].log().count("FLEET UNREACHABLE") == 1, "it is said once"


def credentials(account: "Redis[bytes]") -> dict[str, Any]:
    """Return user and password of a connection's URL."""
    given = account.connection_pool.connection_kwargs
    return {"username": given["username"], "password": given["password"]}
