"""A host that the test plays: it has a key and a place in Redis, and says whatever the test wants."""

from typing import Any

from fleets import Fleet

from t3flow.fleet.records import CLAIM, RECORD, Claim, Record
from t3flow.fleet.signatures import Keys, read_keys


class Puppet:
    """A host without users. It writes past the rules of Redis' accounts, as an attacker who has the whole of Redis does."""

    def __init__(self, fleet: Fleet, name: str, *, group: str = "default", wave: int = 0) -> None:
        self.fleet, self.name, self.group, self.wave = fleet, name, group, wave
        (fleet.top / name).mkdir()
        fleet.trust(name, group)
        self.redis = fleet.redis.admin
        self.seq = 0

    @property
    def keys(self) -> Keys:
        """Return its own key and all public ones."""
        top = self.fleet.top
        return read_keys(self.group, self.name, top / self.name / "fleet.key", top / f"{self.group}.peers")

    @property
    def place(self) -> str:
        """Return the key of its record in Redis."""
        return f"t3flow:{self.group}:host:{self.name}"

    def now(self) -> float:
        """Return Redis' clock."""
        seconds, micros = self.redis.time()
        return float(seconds) + float(micros) / 1e6

    def record(self, **changed: Any) -> bytes:
        """Return a record that it has signed, newer than all before unless `seq` says otherwise."""
        self.seq += 1
        plain = Record(
            self.name,
            self.seq,
            self.now(),
            self.wave,
            "0.0.24",
            "0.0.24",
            "",
            ("0.0.24",),
            ("0.0.24",),
            {},
            "",
            "",
            0.0,
        )
        return self.keys.sign(RECORD, plain._replace(**changed).body())

    def claim(self, version: str) -> bytes:
        """Return a claim of a slot that it has signed."""
        return self.keys.sign(CLAIM, Claim(self.name, "bump-of-a-puppet", version, self.now()).body())

    def publish(self, record: bytes, place: str = "") -> None:
        """Write a record to its place, or to another's, and tell the others."""
        self.redis.set(place or self.place, record)
        self.redis.publish(f"t3flow:{self.group}:changes", record)

    def nudge(self) -> None:
        """Have all hosts look again."""
        self.redis.publish(f"t3flow:{self.group}:changes", "freed")

    def take(self, claim: bytes, slot: int = 0) -> None:
        """Put this into a slot."""
        self.redis.set(f"t3flow:{self.group}:slot:{slot}", claim)

    def free(self, slot: int = 0) -> None:
        """Free a slot, and tell the others."""
        self.redis.delete(f"t3flow:{self.group}:slot:{slot}")
        self.redis.publish(f"t3flow:{self.group}:changes", "freed")
