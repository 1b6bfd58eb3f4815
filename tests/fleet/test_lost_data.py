"""What hosts know of a fleet whose Redis forgets, fails over, or has texts of any kind and size, and while several of their processes ask it."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import RedisServer
from records_of import record
from redis import Redis
from turns import NEW, MakeHost, asked, begin, publish

from t3flow.fleet import known, looking
from t3flow.fleet.keeper import Keeper
from t3flow.fleet.records import RECORD
from t3flow.fleet.signatures import MAX_BYTES
from t3flow.fleet.turn import ask
from t3flow.host.records import facts, rejections

OWN, OTHER = "t3flow:default:host:a", "t3flow:default:host:b"


def test_claims_of_another_group_are_not_put_back(
    make_host: MakeHost, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host moves to another group, which does not know it yet: nothing was lost there."""
    monkeypatch.setattr("t3flow.fleet.keeper.GRACE_SECONDS", 0.01)
    host, fleet = make_host("a")
    assert asked(host, begin(host)) == ""
    assert known.read(host.journal).slots[0].claim
    moved, other = make_host("b", group="other")
    facts.write(
        moved.journal,
        known.FLEET,
        known.as_fact(known.merge(known.read(host.journal), fleet.keys()._replace(host="b"), 2000.0, {})),
    )
    found = known.read(moved.journal)
    own = record("b", seq=1)
    facts.write(
        moved.journal,
        known.FLEET,
        known.as_fact(found._replace(records={**found.records, "b": own}, is_published=True)),
    )
    facts.write(moved.journal, "fleet_seq", 1)
    publish(moved, other)
    assert Redis.from_url(redis_server.url).get("t3flow:other:slot:0") is None
    assert "a" not in known.read(moved.journal).records, "what a host said in the other group counts here no more"


class Grace(threading.Event):
    """The time that a host gives the others: until a slot is held, or for a while if none is."""

    def __init__(self, redis: "Redis[bytes]") -> None:
        super().__init__()
        self._redis = redis

    def wait(self, timeout: float | None = None) -> bool:
        """Return after the slot is held."""
        wait_until(lambda: self._redis.exists("t3flow:default:slot:0"), 10)
        return False


def wait_until(is_true: Callable[[], object], seconds: float) -> None:
    """Return once this is true, or after so many seconds."""
    deadline = time.monotonic() + seconds
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_what_redis_forgets_while_all_are_connected_is_put_back(make_host: MakeHost, redis_server: RedisServer) -> None:
    """A FLUSHALL ends no connection: the host that finds it out has the others put their claims back before it goes on."""
    (a, a_fleet), (b, b_fleet) = make_host("a"), make_host("b")
    publish(b, b_fleet)
    redis, stopping = Redis.from_url(redis_server.url), threading.Event()
    thread = threading.Thread(target=Keeper(a, a_fleet, stopping).repeat)
    thread.start()
    try:
        run = begin(a)
        wait_until(lambda: ask(a, NEW, run, is_bump=True).is_granted, 30)
        assert redis.exists("t3flow:default:slot:0")
        redis.flushall()
        Keeper(b, b_fleet, Grace(redis))._look_and_publish()
        assert "held by a" in ask(b, NEW, begin(b), is_bump=True).reason
    finally:
        stopping.set()
        thread.join(40)


def test_a_redis_that_fell_back_has_lost_its_data(
    make_host: MakeHost, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that lagged behind takes over: it has an earlier record of this host, and not the claim of another."""
    monkeypatch.setattr("t3flow.fleet.keeper.GRACE_SECONDS", 0.01)
    (a, a_fleet), (b, _) = make_host("a"), make_host("b")
    redis = Redis.from_url(redis_server.url)
    publish(a, a_fleet)
    before = redis.get(OWN)
    assert before
    assert asked(b, begin(b)) == ""
    publish(a, a_fleet)
    looking.look(a.journal, a_fleet)
    redis.set(OWN, before)
    redis.delete("t3flow:default:slot:0")
    assert "the record of this host" in ask(a, NEW, begin(a), is_bump=True).reason
    publish(a, a_fleet)
    assert "held by b" in ask(a, NEW, begin(a), is_bump=True).reason


def test_two_that_ask_at_once_take_no_record_for_a_replay(make_host: MakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """`t3flow fleet status` asks; before it records the answer, the consumer learns more, which stays."""
    (a, a_fleet), (b, b_fleet) = make_host("a"), make_host("b")
    publish(b, b_fleet)
    store = a_fleet.store
    assert store is not None
    read = store.read

    def overtaken(names: Any) -> Any:
        found = read(names)
        rejections.reject(b.journal, NEW, "it failed", [])
        publish(b, b_fleet)
        message = b_fleet.store and b_fleet.store._redis.get(OTHER)
        after = known.merge_message(known.read(a.journal), a_fleet.keys(), message)
        assert after is not None
        known.note(a.journal, after)
        return found

    monkeypatch.setattr(store, "read", overtaken)
    after = looking.look(a.journal, a_fleet)
    assert (after.dropped, known.read(a.journal).dropped) == ({}, {})
    assert rejections.rejected(a.journal) == {NEW: "rejected by the host b: it failed"}
    assert list(after.records["b"].rejected) == [NEW]


def test_what_is_gone_is_dropped_no_more(make_host: MakeHost, redis_server: RedisServer) -> None:
    """Records of hosts without a key are ignored, however many names they give. Rubbish that is gone is no problem any more."""
    host, fleet = make_host("a")
    publish(host, fleet)
    keys = fleet.keys()
    for number in range(5):
        stranger = keys._replace(host=f"stranger{number}").sign(RECORD, record().body())
        assert known.merge_message(known.read(host.journal), keys, stranger) is None
    redis = Redis.from_url(redis_server.url)
    redis.set(OTHER, b"rubbish")
    assert looking.look(host.journal, fleet).dropped["b"]["is_current"]
    redis.delete(OTHER)
    assert not looking.look(host.journal, fleet).dropped["b"]["is_current"]
    (host.settings.fleet.peers / "b.pub").unlink()
    assert looking.look(host.journal, fleet).dropped == {}


def test_a_claim_of_any_size_is_not_recorded(make_host: MakeHost, redis_server: RedisServer) -> None:
    """It counts as held, and an operator can free the slot."""
    host, fleet = make_host("a")
    Redis.from_url(redis_server.url).set("t3flow:default:slot:0", b"x" * 5_000_000)
    assert asked(host, begin(host)).startswith("the slot is held by an unreadable claim (it is too large)")
    [[size]] = host.journal.query("select length(value) from facts where key = ?", known.FLEET)
    assert size < MAX_BYTES
    assert not known.read(host.journal).slots[0].is_free
    content = looking.look(host.journal, fleet).slots[0].content
    assert fleet.store is not None
    assert content is not None
    assert fleet.store.free(0, content)


def test_the_longest_record_is_not_too_large(make_host: MakeHost) -> None:
    """Reasons may have any letters, as parts of them come from servers of users."""
    host, fleet = make_host("a")
    for number in range(25):
        rejections.reject(host.journal, f"2.0.{number}", '\U0001f600"' * 400, [])
    publish(host, fleet)
    found = looking.look(host.journal, fleet)
    assert found.dropped == {}
    assert len(found.records["a"].rejected) == 20


def test_numbers_that_no_float_can_hold_are_dropped(make_host: MakeHost, redis_server: RedisServer) -> None:
    """A host with a key of its own stops no other host's runs."""
    host, fleet = make_host("a")
    _, other = make_host("b")
    redis = Redis.from_url(redis_server.url)
    for number in (10**400, -1, float("nan"), float("inf"), 1e300, True, "1"):
        redis.set(OTHER, other.keys().sign(RECORD, {**record("b").body(), "at": number}))
        assert asked(host, begin(host)) == "", number
        assert "at is not a number" in looking.look(host.journal, fleet).dropped["b"]["reason"]
