"""The records and slots of a fleet in Redis. Every call is bounded in time and size, and every failure is a FleetError.

Each host has one key for its record, which its account of Redis alone may write. Each slot is a key that exists while a host holds it; `SET NX` takes
it, so that one of two hosts wins, and a script deletes it only while its content is the one that was read.
"""

import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, RedisError, ResponseError
from redis.retry import Retry

from t3flow.fleet import bounded
from t3flow.fleet.errors import FleetError, FleetUnreachable
from t3flow.fleet.records import FREED
from t3flow.t3.secrets import hide

T = TypeVar("T")
CALL_SECONDS = 3.0
CONNECT_SECONDS = 3.0
CLOCK_SECONDS = 600.0
"""For how long Redis's clock is counted on from the last answer, which saves a command with each look."""
MOST_HOSTS = 1000
LONGEST_REASON = 200
DELETE_IF_SAME = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
KEEPALIVE = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}
"""A peer that is gone without a word is noticed within a minute, without a command."""


class Contents(NamedTuple):
    """What Redis has: its clock (epoch seconds), the record of each host, and the content of each slot."""

    now: float
    records: dict[str, bytes]
    slots: list[bytes | None]


class RedisStore:
    """The records and slots of one group. Safe to use from several threads."""

    def __init__(self, url: str, group: str, slots: int) -> None:
        self.prefix = f"t3flow:{group}:"
        self.channel = f"{self.prefix}changes"
        self._slots = [f"{self.prefix}slot:{number}" for number in range(slots)]
        self._url = url
        self._clock: tuple[float, float] | None = None  # uptime and Redis's clock when it was asked last

    @cached_property
    def _redis(self) -> Any:
        """Return the client, which connects on first use. Raises FleetError if the URL has options that cannot be used."""
        options: dict[str, Any] = {
            "socket_timeout": CALL_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "decode_responses": False,
            "encoding": "utf-8",
        }
        if not self._url.startswith("unix:"):
            options |= {"socket_keepalive": True, "socket_keepalive_options": KEEPALIVE}
        try:
            named: dict[str, Any] = parse_url(self._url)  # type: ignore[no-untyped-call]
            pool = ConnectionPool(**{**named, **options})
            bounded.bound(pool)
            pool.connection_class(**pool.connection_kwargs)
        except (ValueError, TypeError, AttributeError) as error:
            text = hide(" ".join(str(error).split()))[:LONGEST_REASON]
            raise FleetError(f"fleet.url has options that cannot be used ({text}): correct them") from error
        return Redis(connection_pool=pool)

    def record_key(self, host: str) -> str:
        """Return the key of a host's record."""
        return f"{self.prefix}host:{host}"

    def now(self) -> float:
        """Return Redis's clock: asked from time to time, and counted on in between by the time that this machine has been up."""
        up = time.clock_gettime(time.CLOCK_BOOTTIME)
        if self._clock is None or up - self._clock[0] >= CLOCK_SECONDS:
            moment = self._call(lambda: _seconds(self._redis.time()))
            self._clock = (up, moment)
        asked, moment = self._clock
        return moment + up - asked

    def read(self, hosts: Iterable[str]) -> Contents:
        """Return the records of these hosts, and all slots."""
        names = list(hosts)
        keys = [self.record_key(name) for name in names] + self._slots

        def call() -> Contents:
            found = self._redis.mget(keys)
            records = {name: data for name, data in zip(names, found, strict=False) if data is not None}
            return Contents(self.now(), records, list(found[len(names) :]))

        return self._call(call)

    def hosts_with_a_record(self) -> list[str]:
        """Return the names of all hosts with a record, known or not."""
        start = self.record_key("")
        pattern = "".join(f"[{letter}]" if letter in "*?[]^\\" else letter for letter in start) + "*"

        def call() -> list[str]:
            found = []
            for key in self._redis.scan_iter(pattern, count=1000):
                found.append(key.decode(errors="replace").removeprefix(start))
                if len(found) >= MOST_HOSTS:
                    break
            return sorted(found)

        return self._call(call)

    def publish(self, host: str, record: bytes) -> None:
        """Write this host's record and tell the others."""

        def call() -> None:
            with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.set(self.record_key(host), record).publish(self.channel, record).execute()

        self._call(call)

    def take(self, slot: int, claim: bytes) -> bool:
        """Take a slot unless a host holds it. Return whether it was taken."""
        return self._call(lambda: bool(self._redis.set(self._slots[slot], claim, nx=True)))

    def free(self, slot: int, content: bytes) -> bool:
        """Free a slot that still has this content, and tell the others. Return whether it had. Idempotent."""

        def call() -> bool:
            was_freed = bool(self._redis.eval(DELETE_IF_SAME, 1, self._slots[slot], content))
            if was_freed:
                self._redis.publish(self.channel, FREED)
            return was_freed

        return self._call(call)

    def call_on_others(self) -> None:
        """Have all hosts look again."""
        self._call(lambda: self._redis.publish(self.channel, FREED))

    def may_write_another(self, host: str) -> bool:
        """Return whether this account of Redis may write the record of another host. Tries it with a name that no host can have."""
        key = f"{self.record_key(host)}:probe"

        def call() -> bool:
            with suppress(NoPermissionError):
                return bool(self._redis.set(key, b"", px=1000))
            return False

        return self._call(call)

    def subscribe(self) -> "Inbox":
        """Return what other hosts publish from now on. Asks for Redis's clock anew: it may be another Redis than before."""
        self._clock = None
        return self._call(lambda: Inbox(self._redis.pubsub(ignore_subscribe_messages=True), self.channel))

    def close(self) -> None:
        """Close all connections."""
        with suppress(RedisError, OSError):
            self._redis.close()

    @staticmethod
    def _call(function: Callable[[], T]) -> T:
        try:
            with bounded.call():
                return function()
        except (RedisError, OSError, ValueError) as error:
            raise failure(error) from error


class Inbox:
    """The messages of a group. Raises FleetError when the connection is lost."""

    def __init__(self, messages: Any, channel: str) -> None:
        self._messages = messages
        self._messages.subscribe(channel)

    def next(self, timeout_seconds: float) -> bytes | None:
        """Return the next message, or None after the timeout."""
        try:
            with bounded.call():
                found = self._messages.get_message(timeout=timeout_seconds)
        except (RedisError, OSError, ValueError) as error:
            raise failure(error) from error
        return found["data"] if found and found["type"] == "message" else None

    def close(self) -> None:
        """Close the connection."""
        with suppress(RedisError, OSError):
            self._messages.close()


def failure(error: Exception) -> FleetError:
    """Return an error of Redis's client as one line without secrets: FleetUnreachable if there was no answer, FleetError if it was a refusal."""
    text = hide(" ".join(str(error).split()).rpartition(" caused error: ")[2])[:LONGEST_REASON] or type(error).__name__
    if isinstance(error, ResponseError | AuthenticationError) and not isinstance(error, BusyLoadingError):
        return FleetError(f"the fleet's Redis refuses this host: {text}; check fleet.url and the rules of its account")
    return FleetUnreachable(f"the fleet's Redis does not answer: {text}; see t3flow doctor")


def _seconds(moment: tuple[int, int]) -> float:
    return moment[0] + moment[1] / 1e6
