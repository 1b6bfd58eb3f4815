"""What a host knows of the fleet: the last valid record of each host stands, and what is forged or replayed is counted once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hosts import make_keys
from records_of import record

from t3flow.fleet import known, signatures
from t3flow.fleet.known import Known, merge, merge_message
from t3flow.fleet.records import Claim, Record
from t3flow.fleet.signatures import Keys
from t3flow.host.host import Host
from t3flow.host.records import rejections


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Keys]:
    """Return the keys of three hosts, each as the host has them."""
    make_keys(tmp_path, "a", "b", "c")
    return {host: signatures.read_keys("default", host, tmp_path / f"{host}.key", tmp_path / "peers") for host in "abc"}


def signed(keys: dict[str, Keys], found: Record) -> bytes:
    """Return a record as its host publishes it."""
    return keys[found.host].sign("record", found.body())


def test_a_newer_record_replaces_the_known_one(keys: dict[str, Keys]) -> None:
    first = merge(Known(), keys["b"], 2000.0, {"a": signed(keys, record(seq=1))}, [])
    second = merge(first, keys["b"], 3000.0, {"a": signed(keys, record(seq=2, default="2.0.0"))}, [])
    assert (second.records["a"].default, second.age("a"), second.dropped) == ("2.0.0", 2000.0, {})
    assert (second.age("c"), second.is_silent("c", 1e9)) == (None, True)
    assert (second.is_silent("a", 1999), second.is_silent("a", 2001)) == (True, False)


def test_what_is_not_its_hosts_newest_is_dropped_and_counted_once(keys: dict[str, Keys]) -> None:
    """Another host's record in its place, a changed one, an older one: the known one stands."""
    good = merge(Known(), keys["b"], 2000.0, {"a": signed(keys, record(seq=5))}, [])
    document = json.loads(signed(keys, record(seq=9)))
    wrong = [
        signed(keys, record("c", seq=9)),
        json.dumps({**document, "body": document["body"].replace("1.0.0", "6.6.6")}).encode(),
        signed(keys, record(seq=4)),
        b"rubbish",
    ]
    found = good
    for number, data in enumerate(wrong, 1):
        for _ in range(3):
            found = merge(found, keys["b"], 2000.0, {"a": data}, [])
        assert (found.dropped["a"]["count"], found.dropped["a"]["is_current"]) == (number, True)
        assert found.records == good.records
    mended = merge(found, keys["b"], 2000.0, {"a": signed(keys, record(seq=6))}, [])
    assert (mended.dropped["a"]["count"], mended.dropped["a"]["is_current"]) == (4, False)
    again = merge(mended, keys["b"], 2000.0, {"a": wrong[-1]}, [])
    assert again.dropped["a"]["count"] == 5, "it came back"


def test_a_claim_that_does_not_verify_counts_as_held(keys: dict[str, Keys]) -> None:
    claim = keys["a"].sign("claim", Claim("a", "bump-1", "2.0.0", 5.0).body())
    found = merge(Known(), keys["b"], 2000.0, {}, [None, claim, b"rubbish"])
    assert [slot.is_free for slot in found.slots] == [True, False, False]
    assert found.slots[1].claim == Claim("a", "bump-1", "2.0.0", 5.0)
    assert found.dropped["slot 2"]["reason"] == "it is not a signed record"


def test_a_message_is_a_record_or_nothing(keys: dict[str, Keys]) -> None:
    """What a host publishes itself says nothing new to it. The fleet's clock stays: a record's time is its host's word."""
    before = Known(now=2000.0)
    after = merge_message(before, keys["b"], signed(keys, record(at=9e9)))
    assert after is not None
    assert (after.now, after.records["a"].at) == (2000.0, 9e9)
    assert merge_message(before, keys["b"], b"freed") is None
    assert merge_message(before, keys["a"], signed(keys, record())) is None


def test_a_host_whose_key_was_removed_is_forgotten(keys: dict[str, Keys]) -> None:
    found = merge(Known(), keys["b"], 2000.0, {"a": signed(keys, record())}, [])
    without = keys["b"]._replace(public={name: key for name, key in keys["b"].public.items() if name != "a"})
    after = merge(found, without, 2000.0, {}, [])
    assert (after.records, after.hosts) == ({}, ("b", "c"))


def test_what_is_known_survives_a_restart_and_rejections_are_recorded(
    keys: dict[str, Keys], bare: Callable[..., Host]
) -> None:
    journal = bare().journal
    claim = keys["a"].sign("claim", Claim("a", "bump-1", "2.0.0", 5.0).body())
    first = record(rejected={"2.0.0": "it failed"})
    found = merge(Known(), keys["b"], 2000.0, {"a": signed(keys, first), "b": b"x"}, [claim, None])
    known.note(journal, found)
    assert known.read(journal) == found
    assert rejections.rejected(journal) == {"2.0.0": "rejected by the host a: it failed"}
    assert rejections.rejected_here(journal) == {}
    known.note(journal, merge(found, keys["b"], 2000.0, {"a": signed(keys, record(seq=2))}, []))
    assert rejections.rejected(journal) == {}, "a no longer rejects it"


def test_an_operator_overrules_a_rejection_that_stays_overruled(
    keys: dict[str, Keys], bare: Callable[..., Host]
) -> None:
    """A version that passed here is no longer rejected here, although the other host still says so."""
    journal = bare().journal
    for seq in (1, 2):
        data = signed(keys, record(seq=seq, rejected={"2.0.0": f"it failed {seq}"}))
        known.note(journal, merge(known.read(journal), keys["b"], 2000.0, {"a": data}, []))
        rejections.unreject(journal, "2.0.0")
    assert rejections.rejected(journal) == {}
    rejections.reject(journal, "2.0.0", "it failed here", [])
    assert rejections.rejected(journal) == {"2.0.0": "it failed here"}


def test_rejections_of_a_host_that_left_are_forgotten(keys: dict[str, Keys], bare: Callable[..., Host]) -> None:
    journal = bare().journal
    rejections.note_of_host(journal, "a", {"2.0.0": "x"})
    rejections.note_of_host(journal, "b", {"3.0.0": "y"})
    rejections.forget_other_hosts(journal, ["b"])
    assert list(rejections.rejected(journal)) == ["3.0.0"]


def test_unreachable_time_adds_up_and_ends_with_an_answer(keys: dict[str, Keys], bare: Callable[..., Host]) -> None:
    journal = bare().journal
    known.note_unreachable(journal, "no answer", 0.0)
    found = known.note_unreachable(journal, "no answer", 30.0)
    assert (found.unreachable_for, found.problem) == (30.0, "no answer")
    assert found.unreachable_since is not None
    known.note(journal, merge(found, keys["b"], 2000.0, {}, []))
    assert (known.read(journal).problem, known.read(journal).unreachable_for) == ("", 0.0)


def test_a_fact_of_another_release_counts_as_nothing_known(bare: Callable[..., Host]) -> None:
    from t3flow.host.records import facts

    journal = bare().journal
    for value in ({"x": 1}, {"records": {"a": {}}, "slots": [], "hosts": []}, [1]):
        facts.write(journal, known.FLEET, value)
        assert known.read(journal) == Known()
