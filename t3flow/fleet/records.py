"""What a host tells the others: a record of its state, and a claim of a slot. Times are of the fleet's clock, which is Redis's.

What arrives from other hosts is hostile input: it is checked field by field, and cut to bounds.
"""

from typing import Any, NamedTuple

from t3flow.fleet.errors import BadRecord

RECORD, CLAIM = "record", "claim"
"""The kinds of signed texts."""
FREED = b"freed"
"""What is published when all hosts are to look again: a slot was freed, or Redis has lost its data."""
MOST_VERSIONS = 20
LONGEST_VERSION, LONGEST_TEXT = 100, 300
LARGEST = 1e15
"""The largest time: also an integer that no float can hold is compared with it."""


class Record(NamedTuple):
    """The state of one host.

    `seq` rises with each record of a host; `at`: when it was written. `accepted`: versions that the host made its default; `verified`: those of them
    whose bake has ended well. `rejected`: version → reason. `target`: the version that a bump of the host is at or waits with ("": none); `waiting`:
    why it waits, and `waiting_since`: since when (0: it does not).
    """

    host: str
    seq: int
    at: float
    wave: int
    default: str
    last_good: str
    frozen: str
    accepted: tuple[str, ...]
    verified: tuple[str, ...]
    rejected: dict[str, str]
    target: str
    waiting: str
    waiting_since: float

    def body(self) -> dict[str, Any]:
        """Return the record as its signed text has it."""
        found = {**self._asdict(), "accepted": list(self.accepted), "verified": list(self.verified)}
        del found["host"]
        return found


class Claim(NamedTuple):
    """A slot that a host holds: for which run and version, since when."""

    host: str
    run: str
    version: str
    since: float

    def body(self) -> dict[str, Any]:
        """Return the claim as its signed text has it."""
        return {"run": self.run, "version": self.version, "since": self.since}


def record_of(host: str, body: dict[str, Any]) -> Record:
    """Return the record in a body that a host has signed. Raises BadRecord."""
    rejected = body.get("rejected")
    if not isinstance(rejected, dict):
        raise BadRecord("rejected is not an object")
    return Record(
        host=host,
        seq=_integer(body, "seq", 2**63),
        at=_number(body, "at"),
        wave=_integer(body, "wave", 99),
        default=_text(body, "default", LONGEST_VERSION),
        last_good=_text(body, "last_good", LONGEST_VERSION),
        frozen=_text(body, "frozen", LONGEST_TEXT),
        accepted=_versions(body, "accepted"),
        verified=_versions(body, "verified"),
        rejected={
            _checked(version, "rejected", LONGEST_VERSION): _checked(reason, "rejected", LONGEST_TEXT)
            for version, reason in list(rejected.items())[:MOST_VERSIONS]
        },
        target=_text(body, "target", LONGEST_VERSION),
        waiting=_text(body, "waiting", LONGEST_TEXT),
        waiting_since=_number(body, "waiting_since"),
    )


def claim_of(host: str, body: dict[str, Any]) -> Claim:
    """Return the claim in a body that a host has signed. Raises BadRecord."""
    return Claim(
        host, _text(body, "run", LONGEST_TEXT), _text(body, "version", LONGEST_VERSION), _number(body, "since")
    )


def shortened(text: str) -> str:
    """Return a text as a record may have it: printable and within bounds."""
    text = " ".join(text.split())
    text = "".join(letter for letter in text if letter.isprintable())
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


def _checked(value: Any, key: str, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise BadRecord(f"{key} is not a text within bounds")
    return value


def _text(body: dict[str, Any], key: str, longest: int) -> str:
    return _checked(body.get(key), key, longest)


def _versions(body: dict[str, Any], key: str) -> tuple[str, ...]:
    found = body.get(key)
    if not isinstance(found, list) or len(found) > MOST_VERSIONS:
        raise BadRecord(f"{key} is not a list within bounds")
    return tuple(_checked(version, key, LONGEST_VERSION) for version in found)


def _number(body: dict[str, Any], key: str) -> float:
    found = body.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= LARGEST:
        raise BadRecord(f"{key} is not a number within bounds")
    return float(found)


def _integer(body: dict[str, Any], key: str, largest: int) -> int:
    found = body.get(key)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= largest:
        raise BadRecord(f"{key} is not an integer within bounds")
    return found
