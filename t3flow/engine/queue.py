"""The task queue: Huey on SQLite or Redis, carrying signed JSON.

Whoever can write to the queue could otherwise run code as the consumer: Huey's own serializer is pickle. Here a message is JSON with an
HMAC-SHA-256 over it; what does not verify is dropped and counted, and the worker goes straight on to the next message.
"""

import calendar
import contextlib
import hashlib
import hmac
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from huey import Huey
from huey.api import Task
from huey.registry import Message
from huey.storage import RedisStorage, SqliteStorage
from loguru import logger

QUEUE_NAME = "t3flow"
LOOK = "look_at_run"
MAX_MESSAGE_BYTES = 64 * 1024
LOG_EVERY_SECONDS = 10.0


class BadMessage(ValueError):
    """A message that this program did not write."""


class SignedJson:
    """Huey's serializer interface over JSON signed with HMAC-SHA-256 and `key`."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def serialize(self, data: Any) -> bytes:
        """Bytes for a Huey message or for a plain JSON value."""
        if isinstance(data, Message):
            fields = data._asdict()
            fields["eta"] = data.eta.isoformat() if data.eta else None
            data = {"message": fields}
        body = json.dumps(data, separators=(",", ":")).encode()
        return self._signature(body) + b" " + body

    def deserialize(self, data: bytes) -> Any:
        """What `serialize` was given. Raises BadMessage for anything that it did not write."""
        data = bytes(data)
        signature, separator, body = data[:64], data[64:65], data[65:]
        if (
            len(data) > MAX_MESSAGE_BYTES
            or separator != b" "
            or not hmac.compare_digest(signature, self._signature(body))
        ):
            raise BadMessage("signature does not verify")
        value = json.loads(body)
        if isinstance(value, dict) and "message" in value:
            fields = value["message"]
            fields["eta"] = datetime.fromisoformat(fields["eta"]) if fields["eta"] else None
            return Message(**fields)
        return value

    def _signature(self, body: bytes) -> bytes:
        return hmac.new(self._key, body, hashlib.sha256).hexdigest().encode()


class SqliteHints(SqliteStorage):
    """Huey's SQLite storage. Unsynced: the journal can rebuild it. Due times are UTC, whatever the host's zone does.

    A file that was deleted or replaced is opened anew: what was in it comes back from the journal within a minute.
    """

    _conn: sqlite3.Connection | None
    _file: tuple[int, int] | None = None

    @property
    def conn(self) -> sqlite3.Connection:
        """The connection, to the file that is there now."""
        if self._conn is not None and self._which_file() != self._file:
            self._conn.close()
            self._conn = None
        if self._conn is None:
            self._conn = self._create_connection()
            self._file = self._which_file()
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

    def _which_file(self) -> tuple[int, int] | None:
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


class RedisHints(RedisStorage):
    """Huey's Redis storage with due times in UTC, whatever the host's zone does."""

    def convert_ts(self, ts: datetime) -> float:
        return calendar.timegm(ts.timetuple()) + ts.microsecond * 1e-6


class HintQueue(Huey):
    """Huey that drops what it did not sign, at full speed, and counts it in `dropped`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(QUEUE_NAME, results=False, utc=True, **options)
        self.dropped = 0
        # Told when a worker finds that it does not answer.
        self.on_failure: Callable[[Exception], None] = lambda error: None
        self._tasks: dict[str, Any] = {}
        self._last_logged = 0.0

    def register(self, advance: Callable[[str], None], steps: Iterable[str]) -> None:
        """Makes Huey tasks: one to look at a run, and one of the name of each step, for a step that is queued to run again."""

        def handle(run_id: str) -> None:  # a function of this module, which Huey makes part of the task's name
            advance(run_id)

        for name in (LOOK, *steps):
            self._tasks[name] = self.task(name=name)(handle)

    def send(self, run_id: str, at: float | None = None, step: str | None = None) -> str:
        """Queues a message about a run, to be delivered now or `at` (epoch seconds). Returns the message's id."""
        task = self._tasks[step if step in self._tasks else LOOK].s(run_id)
        if at is None or at <= time.time():
            self.enqueue(task)
        else:
            task.eta = datetime.fromtimestamp(at, UTC).replace(tzinfo=None)
            self.add_schedule(task)
        return str(task.id)

    def withdraw(self, message: str) -> None:
        """Revokes a message: Huey drops it when it comes due. A queue that is away is no harm, the journal decides."""
        try:
            self.revoke_by_id(message, revoke_once=True)
        except Exception as error:
            logger.warning("the queue does not answer ({}); the task is held back by the journal all the same", error)

    def dequeue(self) -> Task | None:
        """The next message that is ours, or None. A bad one costs no back-off."""
        while (data := self._next()) is not None:
            task = self._task_of(data)
            if task is not None:
                return task
        return None

    def _next(self) -> bytes | None:
        try:
            data: bytes | None = self.storage.dequeue()
        except Exception as error:
            self.on_failure(error)
            raise
        return data

    def _deserialize_all(self, messages: list[bytes]) -> list[Task]:
        return [task for data in messages if (task := self._task_of(data)) is not None]

    def _task_of(self, data: bytes) -> Task | None:
        try:
            return self.deserialize_task(data)
        except Exception as error:
            self.dropped += 1
            if time.monotonic() - self._last_logged > LOG_EVERY_SECONDS:
                self._last_logged = time.monotonic()
                logger.warning(
                    "dropped a queue message that t3flow did not write ({}; {} so far): see who can write to the queue",
                    type(error).__name__,
                    self.dropped,
                )
            return None

    def message_ids(self) -> set[str]:
        """Ids of all messages in the queue and in its schedule."""
        return {task.id for task in self.pending()} | {task.id for task in self.scheduled()}


def open_queue(url: str, key: bytes) -> HintQueue:
    """The queue that a `queue.url` names: sqlite:///PATH, redis://, rediss:// or unix://. Connects on first use."""
    serializer = SignedJson(key)
    if url.startswith("sqlite://"):
        filename = unquote(urlsplit(url).path)
        return HintQueue(serializer=serializer, storage_class=SqliteHints, filename=filename, timeout=10)
    return HintQueue(serializer=serializer, storage_class=RedisHints, url=url, read_timeout=1)


def queue_key(path: Path) -> bytes:
    """The secret that signs messages: 32 random bytes in a file of mode 600, made on first use and never half-written."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # the first of two makers wins
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        key = path.read_bytes()
    if len(key) != 32:
        raise BadMessage(f"{path} is not 32 bytes long; move it away, a new one is made")
    return key
