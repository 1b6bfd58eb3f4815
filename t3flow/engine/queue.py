"""The task queue: Huey on SQLite or Redis, with messages of signed JSON.

Huey's own serializer is pickle, which would let any process that can write to the queue run code as the consumer. Here a message is JSON with an
HMAC-SHA-256. A message that does not verify is dropped and counted, and the worker takes the next one at once.
"""

import hashlib
import hmac
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from huey import Huey
from huey.api import Task
from huey.registry import Message
from loguru import logger

from t3flow.engine.queue_faults import QueueFault, fault_of
from t3flow.engine.storages import CALL_SECONDS, CircuitBreaker, QueueUnavailable, RedisHints, SqliteHints

MACHINE_ID = Path("/etc/machine-id")
LEGACY_QUEUE_NAME = "t3flow"
"""The name of every host's queue in early versions of t3flow."""
QUEUE_SHARED = "queue_shared"
"""The fact that names the other consumers of this host's queue, while there are any."""
RETRIES, RETRY_SECONDS = 2, 5
ADVANCE, FORMER_ADVANCE = "advance_run", "look_at_run"
MAX_MESSAGE_BYTES = 64 * 1024
LOG_INTERVAL_SECONDS = 10.0
MAX_DEQUEUE_SECONDS = 5.0
"""After so long among bad messages a worker returns to its loop, which beats its heart and checks whether it must stop."""


# Messages are revoked in normal operation, so what Huey logs of a revoked one is noise.
logging.getLogger("huey").addFilter(lambda record: "was revoked" not in record.msg)


class BadMessage(ValueError):
    """A message that t3flow did not write."""


class SignedJson:
    """Huey's serializer interface, as JSON signed with HMAC-SHA-256 and `key`."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def serialize(self, data: Any) -> bytes:
        """Return the bytes of a Huey message or a JSON value."""
        if isinstance(data, Message):
            fields = data._asdict()
            fields["eta"] = data.eta.isoformat() if data.eta else None
            data = {"message": fields}
        body = json.dumps(data, separators=(",", ":")).encode()
        return self._signature(body) + b" " + body

    def deserialize(self, data: bytes) -> Any:
        """Return what `serialize` was given. Raises BadMessage for anything that it did not write."""
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


class HintQueue(Huey):
    """Huey that drops messages which do not verify and counts them in `dropped`. `unavailable` is set while the queue cannot be used."""

    def __init__(self, name: str, queue_url: str, **options: Any) -> None:
        self._url = queue_url
        # Called with the error of a failed call.
        self.on_failure: Callable[[Exception], None] = lambda error: None
        super().__init__(name, results=False, utc=True, **options)
        self.dropped = 0
        self._tasks: dict[str, Any] = {}
        self._last_logged = 0.0

    def create_storage(self) -> CircuitBreaker:
        """Return Huey's storage behind a circuit breaker."""
        return CircuitBreaker(super().create_storage(), lambda error: self.on_failure(error))

    @property
    def unavailable(self) -> threading.Event:
        """Set after a failed call, until `storage.probe` succeeds."""
        unavailable: threading.Event = self.storage.unavailable
        return unavailable

    def fault_of(self, error: Exception) -> QueueFault:
        """Return what an error of this queue means."""
        return fault_of(error, self._url)

    def risk(self) -> QueueFault | None:
        """Return what will go wrong although messages pass now, such as a password that was changed for new connections; None if nothing will."""
        try:
            self.storage.check_risks()
        except Exception as error:  # the queue's client raises many types
            return fault_of(error, self._url, is_blocking=False)
        return None

    def register(self, advance: Callable[[str], None], steps: Iterable[str]) -> None:
        """Register the Huey tasks, which all advance a run: one in general, and one named after each step, for a run that sleeps in that step.

        Each takes the run's id and, for operators who read the queue, its user. Huey retries if `advance` raises, as it does without a journal.
        """

        def handle(run_id: str, user: str | None = None) -> None:
            advance(run_id)  # this module's name is part of the task's name, so a message fits every version

        for name in (ADVANCE, FORMER_ADVANCE, *steps):
            self._tasks[name] = self.task(name=name, retries=RETRIES, retry_delay=RETRY_SECONDS)(handle)

    def send(
        self,
        run_id: str,
        at: float | None = None,
        step: str | None = None,
        *,
        priority: int = 0,
        user: str | None = None,
    ) -> str:
        """Queue a message to advance a run, now or at a time (epoch seconds). Return the message's id."""
        about = {} if user is None else {"user": user}
        task = self._tasks[step if step in self._tasks else ADVANCE].s(run_id, priority=priority, **about)
        if at is None or at <= time.time():
            self.enqueue(task)
        else:
            task.eta = datetime.fromtimestamp(at, UTC).replace(tzinfo=None)
            self.add_schedule(task)
        return str(task.id)

    def revoke_message(self, message: str) -> None:
        """Revoke a message, which Huey then drops when it is due. An unavailable queue is harmless: the journal decides."""
        try:
            self.revoke_by_id(message, revoke_once=True)
        except QueueUnavailable:
            return  # the first failure was logged
        except Exception as error:
            logger.warning("{}; the journal still revokes the task", self.fault_of(error).cause)

    def dequeue(self) -> Task | None:
        """Return the next message that verifies, or None. A bad one costs no backoff, and a flood of them blocks no worker for long."""
        until = time.monotonic() + MAX_DEQUEUE_SECONDS
        while time.monotonic() < until and (data := self.storage.dequeue()) is not None:
            task = self._task_of(data)
            if task is not None:
                return task
        return None

    def _deserialize_all(self, messages: list[bytes]) -> list[Task]:
        return [task for data in messages if (task := self._task_of(data)) is not None]

    def _task_of(self, data: bytes) -> Task | None:
        try:
            return self.deserialize_task(data)
        except Exception as error:
            self.dropped += 1
            if time.monotonic() - self._last_logged > LOG_INTERVAL_SECONDS:
                self._last_logged = time.monotonic()
                logger.warning(
                    "dropped a queue message that t3flow did not write ({}; {} so far); check which accounts can write to the queue",
                    type(error).__name__,
                    self.dropped,
                )
            return None

    def message_ids(self) -> set[str]:
        """Return the ids of all messages in the queue and its schedule."""
        return set(self.due_times())

    def due_times(self) -> dict[str, float]:
        """Return, by id, when each message in the queue or its schedule is due (epoch seconds; 0: as soon as a worker is free)."""
        due = {str(task.id): task.eta.replace(tzinfo=UTC).timestamp() for task in self.scheduled() if task.eta}
        return due | {str(task.id): 0.0 for task in self.pending()}


def open_queue(url: str, key: bytes, *, name: str = "", consumer: dict[str, Any] | None = None) -> HintQueue:
    """Return the queue at a `queue.url`: sqlite:///PATH, redis://, rediss://, unix://, or redis+sentinel://. Connects on first use.

    `name` overrides the queue's name, for a command whose consumer chose another one. `consumer` (host, boot, pid) identifies the consumer in its
    heartbeats; a command passes none.
    """
    serializer, name = SignedJson(key), name or queue_name(key)
    if url.startswith("sqlite://"):
        filename = unquote(urlsplit(url).path)
        return HintQueue(
            name, url, serializer=serializer, storage_class=SqliteHints, filename=filename, timeout=CALL_SECONDS
        )
    return HintQueue(name, url, serializer=serializer, storage_class=RedisHints, url=url, consumer=consumer)


def queue_name(key: bytes) -> str:
    """Return the name of this host's queue, so that hosts that share a Redis do not take each other's messages.

    It is derived from the host's key and machine id: a copy of the state folder on another machine gets a queue of its own.
    """
    try:
        machine = MACHINE_ID.read_bytes().strip()
    except OSError:
        machine = b""
    return f"t3flow_{hmac.new(key, b'queue of ' + machine, hashlib.sha256).hexdigest()[:16]}"


def queue_key(path: Path) -> bytes:
    """Return the secret that signs messages: 32 random bytes in a file of mode 600, created atomically on first use."""
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
            os.link(temporary, path)  # the first of two creators wins
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        key = path.read_bytes()
    if len(key) != 32:
        raise BadMessage(f"{path} is not 32 bytes long; move it away, and t3flow creates a new one")
    return key
