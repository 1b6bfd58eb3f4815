"""Huey's storages: SQLite and Redis, each with a priority queue, due times in UTC, a timeout on every call, and a circuit breaker.

A queue that hangs must not block the consumer, because the journal can do without it.
"""

import calendar
import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from huey.constants import EmptyData
from huey.storage import PriorityRedisStorage, SqliteStorage
from loguru import logger
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from t3flow.engine.queue_faults import MessageLost, QueueEvicts
from t3flow.engine.redis_pools import CALL_SECONDS as CALL_SECONDS
from t3flow.engine.redis_pools import check_new_connection, open_pool, refusals_told

WAIT_SECONDS = 1
"""How long a worker waits for a message."""
LOOK_SECONDS = 0.2
"""How often one of the workers looks for a message in SQLite, which announces none."""
CONSUMERS = "huey.t3flow.consumers"
"""Redis key: the consumers on this Redis (JSON: queue, host, boot, pid, since), scored by their last heartbeat on Redis's clock."""
ALIVE_SECONDS = 30.0
EXPIRY_SECONDS = 86400
PROBE = b"probe"
PAST = datetime(2000, 1, 1)


class QueueUnavailable(ConnectionError):
    """The queue did not answer, and no call is made until a probe succeeds."""


class Pulse(NamedTuple):
    """What a probe found: the other consumers of the same queue, and whether the queue has lost what it had."""

    others: list[dict[str, Any]]
    is_emptied: bool = False


class CircuitBreaker:
    """A storage behind a circuit breaker: after a failed call, `unavailable` is set and calls fail at once until `probe` succeeds.

    A queue that hangs thus costs each thread one timeout, however many messages there are to send.
    """

    def __init__(self, storage: Any, on_failure: Callable[[Exception], None]) -> None:
        self.unavailable = threading.Event()
        self._storage = storage
        self._on_failure = on_failure

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        return self._limited(found) if callable(found) else found

    def _limited(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.unavailable.is_set():
                raise QueueUnavailable("the queue does not answer")
            try:
                return function(*args, **kwargs)
            except (OSError, RedisError, sqlite3.Error) as error:
                is_first = not self.unavailable.is_set()
                self.unavailable.set()
                if is_first:
                    self._on_failure(error)
                raise

        return call

    def probe(self) -> Pulse:
        """Check that the queue takes and gives a message. Raises what the queue's client raises."""
        pulse: Pulse = self._storage.heartbeat()
        self.unavailable.clear()
        return pulse

    def check_risks(self) -> None:
        """Check what will go wrong although messages pass now. Raises what the queue's client raises, and leaves the storage in use."""
        self._storage.check_risks()


class SqliteHints(SqliteStorage):
    """Huey's SQLite storage, with due times in UTC. Not synced: the journal can rebuild it.

    A file that was deleted or replaced is reopened. Recovery restores its messages from the journal within a minute.
    """

    blocking = True
    _conn: sqlite3.Connection | None
    _file: tuple[int, int] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._looking = threading.Lock()
        super().__init__(*args, **kwargs)

    def dequeue(self) -> bytes | None:
        """Return the most urgent message, or None after WAIT_SECONDS. One worker looks, and the others wait for their turn."""
        until = time.monotonic() + WAIT_SECONDS
        if not self._looking.acquire(timeout=WAIT_SECONDS):
            return None
        try:
            while (found := super().dequeue()) is None and time.monotonic() < until:
                time.sleep(LOOK_SECONDS)
            return None if found is None else bytes(found)
        finally:
            self._looking.release()

    @property
    def conn(self) -> sqlite3.Connection:
        """The connection to the present file."""
        if self._conn is not None and self._file_identity() != self._file:
            self._conn.close()
            self._conn = None
        if self._conn is None:
            self._conn = self._create_connection()
            self._file = self._file_identity()
            for statement in self.ddl:
                self._conn.execute(statement)
        connection: sqlite3.Connection = self._conn
        return connection

    @contextlib.contextmanager
    def db(self, commit: bool = False, close: bool = False) -> Iterator[sqlite3.Cursor]:
        """Give Huey a cursor. A damaged file is renamed, since the journal can rebuild it."""
        try:
            with super().db(commit, close) as cursor:
                yield cursor
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                self._set_aside(error)
            raise

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None
        damaged = f"{self.filename}.damaged"
        logger.error(
            "the queue file {} is damaged ({}); it was renamed to {}, and a new one is created",
            self.filename,
            error,
            damaged,
        )
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.filename, damaged)
            for suffix in ("-wal", "-shm"):
                os.unlink(self.filename + suffix)

    def _file_identity(self) -> tuple[int, int] | None:
        with contextlib.suppress(OSError):
            status = os.stat(self.filename)
            return status.st_dev, status.st_ino
        return None

    def _create_connection(self) -> sqlite3.Connection:
        # O_EXCL: closing a file that SQLite has open would drop its locks.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.filename, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection: sqlite3.Connection = super()._create_connection()
        connection.execute("pragma synchronous = normal")
        return connection

    def add_to_schedule(self, data: bytes, ts: datetime) -> None:
        """Add a message that is due at a UTC time."""
        super().add_to_schedule(data, ts.replace(tzinfo=UTC))

    def read_schedule(self, ts: datetime) -> list[bytes]:
        """Return the messages that are due at a UTC time, and remove them."""
        due: list[bytes] = super().read_schedule(ts.replace(tzinfo=UTC))
        return due

    def heartbeat(self) -> Pulse:
        """Check that the file takes and gives a value. There are no other consumers: the consumer's lock file excludes them."""
        self.put_data("probe", PROBE)
        self.pop_data("probe")
        return Pulse([])

    def check_risks(self) -> None:
        """Do nothing: a file that takes and gives a value has no risks."""

    def keys_of_queue(self, name: str) -> list[str]:
        """Return nothing: the consumer deletes other queues when it starts."""
        return []

    def delete_other_queues(self) -> None:
        """Delete messages under other names, such as the former name of every host's queue. Idempotent."""
        for table in ("task", "schedule", "kv"):
            self.sql(f"delete from {table} where queue != ?", (self.name,), commit=True)


class RedisHints(PriorityRedisStorage):
    """Huey's Redis storage, a sorted set by priority, with due times in UTC. `consumer` identifies the consumer in heartbeats; None for a command."""

    def __init__(self, name: str, url: str, consumer: dict[str, Any] | None = None) -> None:
        pool = open_pool(url)
        super().__init__(name, connection_pool=pool, read_timeout=WAIT_SECONDS)
        self._probe = PriorityRedisStorage(f"{self.name}_probe", connection_pool=pool, read_timeout=WAIT_SECONDS)
        self._consumer = consumer
        self._since: float | None = None
        self._evicted: int | None = None

    def convert_ts(self, ts: datetime) -> float:
        """Return a UTC time as epoch seconds, the score of Redis's sorted set."""
        return calendar.timegm(ts.timetuple()) + ts.microsecond * 1e-6

    def dequeue(self) -> bytes | None:
        """Return the most urgent message, or None after WAIT_SECONDS. Raises RedisError, also after a timeout."""
        found = self.conn.bzpopmin(self.queue_key, timeout=self.read_timeout)
        return None if found is None else bytes(found[1][8:])  # Huey prefixes eight bytes for the order

    def pop_data(self, key: str) -> Any:
        """Return a value and remove it, without Huey's transaction, which the Redis account may be denied."""
        value = self.conn.hget(self.result_key, key)
        self.delete_data(key)
        return EmptyData if value is None else value

    def heartbeat(self) -> Pulse:
        """Check that Redis takes and gives a message, and record that this consumer is alive."""
        with refusals_told(self.pool):
            pulse = self._beat()
            self._round_trip()
        return pulse

    def _round_trip(self) -> None:
        """Pass a message through keys of its own, with every command that the queue, its schedule, and revocation use. Idempotent."""
        try:
            self._probe.enqueue(PROBE)
            if self._probe.dequeue() is None:
                raise MessageLost("it took one and did not give it back")
            self._probe.add_to_schedule(PROBE, PAST)
            self._probe.read_schedule(datetime.now())
            self._probe.put_data("probe", PROBE)
            self._probe.delete_data("probe")
        except NoPermissionError as error:
            if " key" not in str(error):  # the Redis account may be limited to the queue's own keys
                raise

    def _beat(self) -> Pulse:
        """Record that this consumer is alive. Return the others that are alive and take messages from the same queue."""
        if self._consumer is None:
            self.queue_size()
            return Pulse([])
        try:
            seconds, micros = self.conn.time()
            now = seconds + micros / 1e6
            is_first, self._since = self._since is None, self._since or now
            own = json.dumps({"queue": self.name, **self._consumer, "since": self._since}, sort_keys=True)
            is_new = bool(self.conn.zadd(CONSUMERS, {own: now}))
            self.conn.zremrangebyscore(CONSUMERS, "-inf", now - EXPIRY_SECONDS)
            found = self.consumers(max(self._since, now - ALIVE_SECONDS))
        except NoPermissionError:  # the Redis account may be limited to the queue's keys, or to few commands
            self.queue_size()
            return Pulse([], self._has_evicted())
        others = [each for each in found if each["queue"] == self.name and each != json.loads(own)]
        return Pulse(others, self._has_evicted() or (is_new and not is_first))

    def _has_evicted(self) -> bool:
        """Return whether Redis has evicted keys since the last call."""
        before, self._evicted = self._evicted, self._info("stats").get("evicted_keys", 0)
        return before is not None and self._evicted != before

    def _info(self, section: str) -> dict[str, Any]:
        """Return a section of INFO; {} if the Redis account may not ask for it."""
        with contextlib.suppress(ResponseError):
            found: dict[str, Any] = self.conn.info(section)
            return found
        return {}

    def check_risks(self) -> None:
        """Check what will go wrong although messages pass. Raises RedisError: new connections are refused, or Redis may evict the queue."""
        check_new_connection(self.pool)
        memory = self._info("memory")
        policy = str(memory.get("maxmemory_policy", ""))
        if memory.get("maxmemory") and policy.startswith("allkeys"):
            raise QueueEvicts(f"may evict messages to make room (maxmemory-policy {policy})")

    def consumers(self, since: float) -> list[dict[str, Any]]:
        """Return the consumers on this Redis, of any queue, with a heartbeat since then (Redis's clock). Skips entries that t3flow did not write."""
        found = []
        for member in self.conn.zrangebyscore(CONSUMERS, f"({since}", "+inf"):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(member)
                found.append(
                    {key: str(entry[key])[:64] for key in ("queue", "host", "boot", "pid")}
                    | {"since": float(entry["since"])}
                )
        return found

    def keys_of_queue(self, name: str) -> list[str]:
        """Return the keys of a queue of this name on this Redis; none if the Redis account is limited to its own queue."""
        keys = [f"huey.{kind}.{name}" for kind in ("redis", "schedule", "results")]
        with contextlib.suppress(NoPermissionError):
            return [key for key in keys if self.conn.exists(key)]
        return []

    def delete_other_queues(self) -> None:
        """Do nothing: other queues may belong to other hosts."""
