"""Where Huey keeps its messages: a SQLite file or a Redis, each with a priority queue, due times in UTC, and a time limit on every call."""

import calendar
import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from huey.storage import PriorityRedisStorage, SqliteStorage
from loguru import logger
from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError
from redis.retry import Retry

CALL_SECONDS = 3.0
"""The longest that a call to Redis waits for an answer, or one to SQLite for the file's lock. A worker's longest wait for a message is shorter."""
CONNECT_SECONDS = 2.0
WAIT_SECONDS = 1
CONSUMERS = "huey.t3flow.consumers"
"""Redis key: the consumers on this Redis (JSON: queue, host, boot, pid, since), each with the time of its last heartbeat by Redis's clock."""
ALIVE_SECONDS = 30.0
EXPIRY_SECONDS = 86400


class QueueUnavailable(ConnectionError):
    """The queue did not answer a moment ago, and is not asked again until a probe has succeeded."""


class CircuitBreaker:
    """A storage behind a circuit breaker: after a failed call `unavailable` is set, and further calls fail at once until `probe` has succeeded.

    So a queue that hangs costs each thread one wait, however many messages there are to send.
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

    def probe(self) -> list[dict[str, Any]]:
        """Ask the queue whether it answers. Return the other consumers of the same queue. Raises what the queue's client raises."""
        others: list[dict[str, Any]] = self._storage.heartbeat()
        self.unavailable.clear()
        return others


class SqliteHints(SqliteStorage):
    """Huey's SQLite storage. Unsynced: the journal can rebuild it. Due times are UTC, whatever the host's zone does.

    A file that was deleted or replaced is opened anew: what was in it comes back from the journal within a minute.
    """

    _conn: sqlite3.Connection | None
    _file: tuple[int, int] | None = None

    @property
    def conn(self) -> sqlite3.Connection:
        """The connection, to the file that is there now."""
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
        """Huey's access to the file. One that is damaged is set aside: nothing in it is needed."""
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
        logger.error("the queue {} is damaged ({}): it is now {}, and a new one is made", self.filename, error, damaged)
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
        # Only a file that is not there may be opened here: closing one that SQLite has open would drop its locks.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.filename, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection: sqlite3.Connection = super()._create_connection()
        connection.execute("pragma synchronous = normal")
        return connection

    def add_to_schedule(self, data: bytes, ts: datetime) -> None:
        super().add_to_schedule(data, ts.replace(tzinfo=UTC))

    def read_schedule(self, ts: datetime) -> list[bytes]:
        due: list[bytes] = super().read_schedule(ts.replace(tzinfo=UTC))
        return due

    def heartbeat(self) -> list[dict[str, Any]]:
        """See that the file can be read. It is this host's alone: the consumer's lock keeps a second one out."""
        self.queue_size()
        return []

    def keys_of_queue(self, name: str) -> list[str]:
        """Nothing: what is under other names is removed when the consumer starts."""
        return []

    def delete_other_queues(self) -> None:
        """Remove the messages under other names, such as those of a t3flow that had one name for every host. Repeating it finds none."""
        for table in ("task", "schedule", "kv"):
            self.sql(f"delete from {table} where queue != ?", (self.name,), commit=True)


class RedisHints(PriorityRedisStorage):
    """Huey's Redis storage, a sorted set by priority, with due times in UTC, whatever the host's zone does.

    `consumer` says which consumer this is, for its heartbeat; None for a command.
    """

    def __init__(self, name: str, url: str, consumer: dict[str, Any] | None = None) -> None:
        pool = ConnectionPool.from_url(
            url,
            socket_timeout=CALL_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        super().__init__(name, connection_pool=pool, read_timeout=WAIT_SECONDS)
        self._consumer = consumer
        self._since: float | None = None

    def convert_ts(self, ts: datetime) -> float:
        return calendar.timegm(ts.timetuple()) + ts.microsecond * 1e-6

    def dequeue(self) -> bytes | None:
        """The most urgent message, or None after a second. Raises RedisError, also where Redis has not answered in time."""
        found = self.conn.bzpopmin(self.queue_key, timeout=self.read_timeout)
        return None if found is None else bytes(found[1][8:])  # Huey puts eight bytes before a message, for their order

    def heartbeat(self) -> list[dict[str, Any]]:
        """Note that this consumer lives. Return the others that have lived since it began and take messages from the same queue."""
        if self._consumer is None:
            self.queue_size()
            return []
        try:
            seconds, micros = self.conn.time()
            now = seconds + micros / 1e6
            self._since = self._since or now
            own = json.dumps({"queue": self.name, **self._consumer, "since": self._since}, sort_keys=True)
            self.conn.zadd(CONSUMERS, {own: now})
            self.conn.zremrangebyscore(CONSUMERS, "-inf", now - EXPIRY_SECONDS)
            found = self.consumers(max(self._since, now - ALIVE_SECONDS))
        except NoPermissionError:  # an account that may use the queue's keys alone, or few commands
            self.queue_size()
            return []
        return [each for each in found if each["queue"] == self.name and each != json.loads(own)]

    def consumers(self, since: float) -> list[dict[str, Any]]:
        """The consumers on this Redis, of any queue, that have lived since then (Redis's clock). What t3flow did not write is left out."""
        found = []
        for member in self.conn.zrangebyscore(CONSUMERS, f"({since}", "+inf"):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                told = json.loads(member)
                found.append(
                    {key: str(told[key])[:64] for key in ("queue", "host", "boot", "pid")}
                    | {"since": float(told["since"])}
                )
        return found

    def keys_of_queue(self, name: str) -> list[str]:
        """The keys that a queue of this name has on this Redis; none for an account that may use this queue's keys alone."""
        keys = [f"huey.{kind}.{name}" for kind in ("redis", "schedule", "results")]
        with contextlib.suppress(NoPermissionError):
            return [key for key in keys if self.conn.exists(key)]
        return []

    def delete_other_queues(self) -> None:
        """Leave other names alone: they may be other hosts'."""
