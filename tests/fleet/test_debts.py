"""What a host owes the fleet over several of its runs: which of their versions still holds the slot."""

import threading

import pytest
from conftest import RedisServer
from redis import Redis
from turns import NEW, OLD, MakeHost, accept, asked, begin, end, holders, publish

from t3flow.engine.runs import new_run
from t3flow.fleet import own
from t3flow.fleet.keeper import Keeper
from t3flow.fleet.own import WAITING
from t3flow.fleet.records import CLAIM, Claim
from t3flow.fleet.turn import ask
from t3flow.fleet.waiting import note_waiting
from t3flow.host.host import Host
from t3flow.host.pruning import ACCEPTED
from t3flow.host.records import bakes, facts, rejections
from t3flow.host.records.facts import BAKE

LATER = "3.0.0"


def bake(host: Host, version: str | None) -> None:
    """Begin the bake of a version, or end it well."""
    facts.write(host.journal, BAKE, version and {"run": "bake-1", "version": version, "verdict": None})


def test_a_version_that_ends_well_after_a_later_turn_is_owed_no_more(make_host: MakeHost) -> None:
    """A bump in mid-bake of the last one restarts no user: the slot is free once the bake has ended well."""
    host, fleet = make_host("a")
    first = begin(host)
    assert asked(host, first) == ""
    accept(host, NEW)
    bake(host, NEW)
    end(host, first, ada="restarted")
    second = begin(host)
    assert asked(host, second, LATER) == ""
    end(host, second, ada="deferred")
    publish(host, fleet)
    assert holders(host, fleet) == ["a"], "in mid-bake"
    bake(host, None)
    publish(host, fleet)
    assert holders(host, fleet) == [""]


def test_a_bump_that_waits_takes_no_debt_of_another_away(make_host: MakeHost) -> None:
    """Two bumps of one host: the second has its turn, the first asks meanwhile and restarts no user. What the second breaks stays owed."""
    host, fleet = make_host("a")
    waits, goes_on = begin(host), begin(host)
    assert asked(host, goes_on, LATER) == ""
    assert asked(host, waits, NEW) == ""
    end(host, waits, "gate_inconclusive")
    publish(host, fleet)
    assert holders(host, fleet) == ["a"], "the other bump is under way"
    rejections.reject(host.journal, LATER, "it failed", [])
    end(host, goes_on, "rolled_back", ada="rolled_back")
    publish(host, fleet)
    assert holders(host, fleet) == ["a"]


def test_a_drain_owes_each_version_that_it_tried(make_host: MakeHost) -> None:
    """The drain of a user goes on as one run, from one version to the next."""
    host, fleet = make_host("a")
    drain = begin(host)
    assert asked(host, drain, NEW) == ""
    rejections.reject(host.journal, NEW, "it failed", [])
    assert asked(host, drain, LATER) == ""
    end(host, drain, "cancelled")
    publish(host, fleet)
    assert holders(host, fleet) == ["a"]


def test_a_slot_is_not_given_back_while_a_run_takes_it(make_host: MakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run asks in the moment in which the slot of the last turn is about to be freed."""
    host, fleet = make_host("a")
    store = fleet.store
    assert store is not None
    first = begin(host)
    assert asked(host, first) == ""
    end(host, first, "cancelled")
    second = begin(host)
    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(ask(host, NEW, second, is_bump=True).is_granted))
    free = store.free

    def slow(number: int, content: bytes) -> bool:
        asking.start()
        asking.join(1)
        return free(number, content)

    monkeypatch.setattr(store, "free", slow)
    Keeper(host, fleet, threading.Event())._give_back()
    asking.join(30)
    assert (answers, holders(host, fleet)) == ([True], ["a"])


def test_a_version_whose_bake_was_cut_short_counts_as_not_verified(make_host: MakeHost) -> None:
    """Several may be so; one that is baked to its end counts again."""
    host, _ = make_host("a")
    for version in (NEW, LATER):
        accept(host, version)
    facts.write(host.journal, ACCEPTED, [OLD, NEW, LATER])
    for version in (NEW, LATER):
        bakes.note_end(host.journal, version, is_cut_short=True)
    assert own.verified(host) == [OLD]
    bakes.note_end(host.journal, NEW, is_cut_short=False)
    assert own.verified(host) == [OLD, NEW]


def test_a_claim_of_a_turn_that_is_over_is_freed(make_host: MakeHost, redis_server: RedisServer) -> None:
    """A claim that reaches Redis after its run has ended, or that another host puts back late. One of a run that is not known stays."""
    host, fleet = make_host("a")
    publish(host, fleet)
    run = begin(host)
    end(host, run, "cancelled")
    redis = Redis.from_url(redis_server.url)
    for claimed, holder in ((run, ""), ("bump-of-a-lost-journal", "a")):
        content = fleet.keys().sign(CLAIM, Claim("a", claimed, NEW, 1.0).body())
        redis.set("t3flow:default:slot:0", content)
        publish(host, fleet)
        assert (claimed, holders(host, fleet)) == (claimed, [holder])


def test_a_clone_of_a_host_does_not_share_its_slot(make_host: MakeHost) -> None:
    """Another machine has the key and the name of the host, but not its runs: a copy of its disk was started, or it was installed anew."""
    (host, fleet), (clone, _) = make_host("a"), make_host("a", folder="clone")
    assert asked(host, begin(host)) == ""
    answer = asked(clone, begin(clone))
    assert "none of this host's" in answer
    assert answer.endswith("t3flow fleet release a")
    assert asked(host, begin(host)) == ""
    assert holders(host, fleet) == ["a"]


@pytest.mark.parametrize(
    ("outcome", "dry_run", "waits"),
    [
        ("fleet_wait", False, True),
        ("registry_unreachable", False, True),
        ("dry_run_passed", True, True),
        ("updated", False, False),
        ("up_to_date", False, False),
        ("cancelled", False, False),
    ],
)
def test_a_host_waits_until_a_bump_needs_no_turn(make_host: MakeHost, outcome: str, dry_run: bool, waits: bool) -> None:
    """A run that says nothing about the turn, as a dry run, does not end the time for which this host has had none."""
    host, fleet = make_host("a")
    first = begin(host)
    note_waiting(host, first, NEW, "the slot is held by b")
    end(host, first, "fleet_wait")
    run = new_run(host.journal, "bump", {"dry_run": dry_run})
    assert run is not None
    end(host, run, outcome)
    Keeper(host, fleet, threading.Event())._end_wait()
    assert (facts.read(host.journal, WAITING) is not None) == waits
