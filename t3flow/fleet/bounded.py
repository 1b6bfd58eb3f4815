"""Connections to Redis all of whose calls end within bounds of time and size.

The timeouts of the client hold for each part of an answer: a server that sends a byte now and then, or without end, would keep a call for days, and
with it the run that asks and the host's lease.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError

CALL_SECONDS = 10.0
MOST_BYTES = 64 * 1024 * 1024
"""More than the records of all hosts that a group may have."""


class _Limits(threading.local):
    """What is left of the call of a thread. `until`: uptime; infinite outside calls."""

    until = float("inf")
    most_bytes = MOST_BYTES


_limits = _Limits()


@contextmanager
def call() -> Iterator[None]:
    """Bound everything that this thread receives and sends through bounded connections. A call within a call shares its bounds."""
    if _limits.until != float("inf"):
        yield
        return
    _limits.until, _limits.most_bytes = time.monotonic() + CALL_SECONDS, MOST_BYTES
    try:
        yield
    finally:
        _limits.until = float("inf")


def bound(pool: ConnectionPool) -> None:
    """Have a pool open only bounded connections from now on."""
    kind: Any = pool.connection_class

    class Bounded(kind):  # type: ignore[misc]
        """A connection of the pool's kind."""

        def _connect(self) -> "_Socket":
            return _Socket(super()._connect())

    pool.connection_class = Bounded


class _Socket:
    """A connected socket that ends a call which takes too long, or receives too much."""

    def __init__(self, opened: socket.socket) -> None:
        self._opened = opened

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    def recv(self, size: int) -> bytes:
        """Receive up to so many bytes. Raises TimeoutError and redis.ConnectionError."""
        _check()
        data = self._opened.recv(size)
        _limits.most_bytes -= len(data)
        return data

    def recv_into(self, buffer: Any) -> int:
        """Receive into a buffer. Raises TimeoutError and redis.ConnectionError."""
        _check()
        count = self._opened.recv_into(buffer)
        _limits.most_bytes -= count
        return count


def _check() -> None:
    if time.monotonic() > _limits.until:
        raise TimeoutError
    if _limits.until != float("inf") and _limits.most_bytes < 0:
        raise RedisConnectionError(f"its answer is larger than {MOST_BYTES >> 20} MB")
