"""What keeps the fleet from going on without a person."""

import time
from typing import Any

import pytest
from records_of import record

from t3flow.fleet import trouble
from t3flow.fleet.known import Known, Slot
from t3flow.fleet.records import Claim
from t3flow.settings.schema import Fleet

HOUR = 3600.0
NOW = 100 * HOUR
FLEET = Fleet(url="redis://x")


def known(*slots: Slot, **more: Any) -> Known:
    """Return a fleet of two hosts that answered just now: not what a parameter may hold, as it ages until the test runs."""
    records = {"a": record("a", at=NOW - HOUR), "b": record("b", at=NOW)}
    plain = Known(now=NOW, at=time.time(), hosts=("a", "b"), records=records, slots=slots)
    return plain._replace(**more)


def held(hours: float) -> Slot:
    """Return a slot that a holds since so many hours."""
    return Slot(Claim("a", "bump-1", "2.0.0", NOW - hours * HOUR), "", b"x")


FREE = Slot(None, "", None)


@pytest.mark.parametrize(
    ("slots", "records", "says"),
    [
        ([FREE], {}, ""),
        ([held(11)], {}, ""),
        ([held(13)], {}, "has held it for 13 h"),
        ([held(0.1)], {"a": record(frozen="x failed")}, "is silent: it was seen 100 h ago"),
        ([held(0.1)], {"a": record(at=NOW, frozen="x failed")}, "is frozen: x failed"),
        ([held(0.1)], {"a": record(at=NOW, rejected={"2.0.0": "bad"})}, "has rejected it: bad"),
        ([held(0.1)], {"a": record(at=NOW, rejected={"1.0.1": "bad"})}, ""),
        ([Slot(None, "rubbish", b"x")], {}, "unreadable claim"),
    ],
)
def test_a_slot_that_is_not_freed_by_itself(slots: list[Slot], records: dict[str, Any], says: str) -> None:
    lines = trouble.stuck(known(*slots, **({"records": records} if records else {})), FLEET, "b", None)
    assert bool(lines) == bool(says)
    if says:
        assert says in lines[0]
        assert "; " in lines[0]
        assert "t3flow fleet release" in lines[0].rpartition("; ")[2]


@pytest.mark.parametrize(("hours", "is_stuck"), [(47, False), (49, True)])
def test_a_host_without_a_turn_for_two_nights(hours: float, is_stuck: bool) -> None:
    waiting = {"since": time.time() - hours * HOUR, "reason": "the slot is held by a: t3flow fleet status"}
    lines = trouble.stuck(known(FREE), FLEET, "b", waiting)
    assert bool(lines) == is_stuck
    if lines:
        assert lines[0].endswith("the slot is held by a; see t3flow fleet status")


def test_silence_is_by_the_fleets_clock_and_since_it_answered() -> None:
    """A record of 25 hours and an answer of two hours ago: silent, at 26. This host itself never is."""
    aged = known(FREE, records={"a": record("a", at=NOW - 25 * HOUR)})
    assert trouble.silent_hosts(aged, FLEET, "b") == {}
    later = aged._replace(at=time.time() - 2 * HOUR)
    assert trouble.silent_hosts(later, FLEET, "b") == {"a": "it was seen 27 h ago"}
    assert trouble.silent_hosts(later, FLEET, "a") == {"b": "it has published no record"}
    assert trouble.silent_hosts(later._replace(problem="no answer"), FLEET, "b") == {}
