"""What this host knows of the fleet: the last valid record of each host, who holds the slots, what was dropped, and since when nothing answers.

One fact of the journal holds it, so that it survives restarts and is there for readers that may not, or cannot, ask the fleet. A record that is
forged or older than a known one never replaces what is known; it is counted. No times of two hosts' clocks are compared: a record's age is the
fleet's clock, as last read, minus the record's time by that same clock.
"""

import hashlib
import threading
import time
from typing import Any, NamedTuple, TypedDict

from t3flow.engine.journal import Journal
from t3flow.engine.log import logger
from t3flow.fleet.errors import BadRecord
from t3flow.fleet.records import CLAIM, RECORD, Claim, Record, claim_of, record_of, shortened
from t3flow.fleet.signatures import Keys, claimed_host
from t3flow.host.records import facts, rejections

FLEET = "fleet"
"""Fact: what is known of the fleet."""
LOCK = threading.RLock()
"""Held by the thread of the consumer that asks the fleet and acts on the answer, so that a slot is not given back while a run takes it."""


class Dropped(TypedDict):
    """Texts of one place that were dropped: why the last one was, how many there were, and when (epoch seconds of this host).

    `is_current`: what is there now was dropped.
    """

    reason: str
    count: int
    at: float
    digest: str
    is_current: bool


class Slot(NamedTuple):
    """One slot: free, held, or with a content that does not verify (`problem`), which counts as held. `content`: as it is in Redis."""

    claim: Claim | None
    problem: str
    content: bytes | None

    @property
    def is_free(self) -> bool:
        """Whether no host holds the slot."""
        return self.content is None


class Known(NamedTuple):
    """What is known. `now`: the fleet's clock when it answered last, at `at` (epoch seconds of this host; 0: never).

    `hosts`: all hosts with a key; `records` has those that published one. `is_published`: this host's own record was there when all were read last.
    Without it Redis has lost its data, so that free slots prove nothing: `slots` keeps what was known. `problem`: why the fleet did not answer when
    last asked, since `unreachable_since` (epoch seconds), `unreachable_for` so many seconds of this host's running time. `group`: to which all this
    belongs; of another group nothing is known.
    """

    now: float = 0.0
    at: float = 0.0
    hosts: tuple[str, ...] = ()
    records: dict[str, Record] = {}  # noqa: RUF012 - never changed
    slots: tuple[Slot, ...] = ()
    dropped: dict[str, Dropped] = {}  # noqa: RUF012
    problem: str = ""
    unreachable_since: float | None = None
    unreachable_for: float = 0.0
    is_published: bool = False
    group: str = ""

    def age(self, name: str) -> float | None:
        """Return how old the record of a host was when the fleet answered last, in seconds; None without a record."""
        record = self.records.get(name)
        return None if record is None else max(0.0, self.now - record.at)

    def is_silent(self, name: str, silent_seconds: float) -> bool:
        """Return whether a host has no record, or a stale one."""
        age = self.age(name)
        return age is None or age > silent_seconds


def read(journal: Journal) -> Known:
    """Return what is known."""
    return _from_fact(facts.read(journal, FLEET))


def note(journal: Journal, known: Known) -> Known:
    """Record what is known, and the rejections of other hosts; return it. Not synced: the next look finds the same.

    Another process may have recorded a newer record of a host since this one asked: the newer one stays.
    """
    noted = known

    def change(fact: Any) -> dict[str, Any]:
        nonlocal noted
        present = _from_fact(fact)
        newer = {}
        if present.group == known.group:
            newer = {name: record for name, record in present.records.items() if _is_newer(known, name, record)}
        noted = known._replace(records={**known.records, **newer})
        return as_fact(noted)

    facts.change(journal, FLEET, change, synced=False)
    for name, record in noted.records.items():
        if name in noted.hosts:
            rejections.note_of_host(journal, name, record.rejected)
    rejections.forget_other_hosts(journal, noted.hosts)
    return noted


def _is_newer(known: Known, name: str, record: Record) -> bool:
    """Return whether a record is newer than the one that is known of a host with a key."""
    former = known.records.get(name)
    return name in known.hosts and (former is None or record.seq > former.seq)


def note_unreachable(journal: Journal, problem: str, seconds: float | None) -> Known:
    """Record that the fleet did not answer, for `seconds` longer than recorded before. None: it is not silent, but gave no answer that counts."""

    def change(fact: Any) -> dict[str, Any]:
        known = _from_fact(fact)
        known = known._replace(
            problem=shortened(problem),
            unreachable_since=known.unreachable_since or time.time(),
            unreachable_for=0.0 if seconds is None else known.unreachable_for + seconds,
        )
        return as_fact(known)

    return _from_fact(facts.change(journal, FLEET, change, synced=False))


def merge(
    before: Known, keys: Keys, now: float, records: dict[str, bytes], slots: list[bytes | None] | None = None
) -> Known:
    """Return what is known after these texts were read from the fleet. `slots` None: they were not read.

    `before`: what was known before they were read, as a record that is older than that is a replay. A record replaces the known one only if its
    host has signed it, under that host's name, with a higher sequence number.
    """
    if before.group not in ("", keys.group):
        before = Known()
    known = {name: record for name, record in before.records.items() if name in keys.public}
    was_published = keys.host in known
    places = {*keys.public, *(f"slot {number}" for number in range(len(before.slots if slots is None else slots)))}
    dropped = {place: each for place, each in before.dropped.items() if place in places}
    if slots is not None:
        for place in dropped.keys() - records.keys():
            _clear(dropped, place)
    for place, data in records.items():
        try:
            host, body = keys.verify(RECORD, data, place)
            record = record_of(host, body)
            former = known.get(place)
            if former is not None and record.seq < former.seq:
                raise BadRecord(f"it is older than one seen before (number {record.seq} after {former.seq})")
            known[place] = record
            _clear(dropped, place)
        except BadRecord as error:
            _drop(dropped, place, data, str(error))
    is_published = (
        before.is_published if slots is None else keys.host in records and not _is_dropped(dropped, keys.host)
    )
    seen = before.slots if slots is None else tuple(_slot(keys, content) for content in slots)
    if was_published and not is_published and len(seen) == len(before.slots):
        claimed = [_slot(keys, former.content if former.claim else None) for former in before.slots]
        seen = tuple(
            former if slot.is_free and former.claim else slot for slot, former in zip(seen, claimed, strict=True)
        )
    for number, slot in enumerate(seen if slots is not None else ()):
        if slot.problem and slot.content is not None:
            _drop(dropped, f"slot {number}", slot.content, slot.problem)
        else:
            _clear(dropped, f"slot {number}")
    hosts = tuple(sorted(keys.public))
    return Known(now, time.time(), hosts, known, seen, dropped, is_published=is_published, group=keys.group)


def merge_message(before: Known, keys: Keys, data: bytes) -> Known | None:
    """Return what is known after a host published a record; None if the message is none, this host's own, or of a host without a key.

    The fleet's clock stays as it was read last: a record's time is what its host says.
    """
    place = claimed_host(data)
    if place == keys.host or place not in keys.public:
        return None
    return merge(before, keys, before.now, {place: data})._replace(at=before.at)


def _slot(keys: Keys, content: bytes | None) -> Slot:
    if content is None:
        return Slot(None, "", None)
    try:
        return Slot(claim_of(*keys.verify(CLAIM, content)), "", content)
    except BadRecord as error:
        return Slot(None, str(error), content)


def _drop(dropped: dict[str, Dropped], place: str, data: bytes, reason: str) -> None:
    """Count a text that is dropped, once for as long as it stays the same."""
    digest = hashlib.blake2b(data + reason.encode(), digest_size=8).hexdigest()
    former = dropped.get(place)
    if former is None or former["digest"] != digest:
        count = 1 + (former["count"] if former else 0)
        dropped[place] = {
            "reason": shortened(reason),
            "count": count,
            "at": time.time(),
            "digest": digest,
            "is_current": True,
        }
        logger.error("FLEET RECORD DROPPED: {}: {}; see t3flow fleet status", place, shortened(reason))


def _is_dropped(dropped: dict[str, Dropped], place: str) -> bool:
    """Return whether what is at a place now was dropped."""
    return place in dropped and dropped[place]["is_current"]


def _clear(dropped: dict[str, Dropped], place: str) -> None:
    """Note that what is at a place now is valid."""
    if place in dropped:
        dropped[place] = {**dropped[place], "is_current": False, "digest": ""}


# The fact -------------------------------------------------------------------------------------------------------------


def as_fact(known: Known) -> dict[str, Any]:
    """Return what is known as the fact has it. A content that does not verify may be of any size, and is left out."""
    slots = [
        {
            "claim": [*slot.claim] if slot.claim else None,
            "problem": slot.problem,
            "content": None if slot.content is None else slot.content.decode("latin-1") if slot.claim else "",
        }
        for slot in known.slots
    ]
    records = {name: record.body() for name, record in known.records.items()}
    return {**known._asdict(), "records": records, "slots": slots}


def _from_fact(found: Any) -> Known:
    """Return what is known from the fact. One of another release that does not fit counts as nothing known."""
    try:
        return _parsed(found) if found else Known()
    except (BadRecord, KeyError, TypeError, ValueError, AttributeError):
        return Known()


def _parsed(found: dict[str, Any]) -> Known:
    slots = tuple(
        Slot(
            Claim(*each["claim"]) if each["claim"] else None,
            each["problem"],
            each["content"].encode("latin-1") if each["content"] is not None else None,
        )
        for each in found["slots"]
    )
    records = {name: record_of(name, body) for name, body in found["records"].items()}
    return Known(**{**found, "hosts": tuple(found["hosts"]), "records": records, "slots": slots})
