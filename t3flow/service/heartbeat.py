"""Heartbeats of the consumer's threads. systemd's watchdog is notified only while all of them are alive, never by a timer alone."""

import threading
import time
from collections.abc import Callable

from loguru import logger

from t3flow.service.systemd import notify

MAX_SILENT_SECONDS = 60.0
FEED_INTERVAL_SECONDS = 2.0


class Heartbeats:
    """The last heartbeat of each thread. A thread that runs a step may be silent: what the step waits for has timeouts of its own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}
        self._at_work: set[str] = set()
        self._mutex = threading.Lock()

    def beat(self, name: str = "") -> None:
        """Record that a thread (by default the caller's) is alive and waits for work."""
        name = name or threading.current_thread().name
        with self._mutex:
            self._last[name] = self._clock()
            self._at_work.discard(name)

    def work(self) -> None:
        """Record that the calling thread starts work of any length, until its next heartbeat."""
        with self._mutex:
            self._at_work.add(threading.current_thread().name)

    def silent_threads(self) -> list[str]:
        """Return the threads whose heartbeat is overdue."""
        with self._mutex:
            now = self._clock()
            return sorted(
                name for name, at in self._last.items() if name not in self._at_work and now - at > MAX_SILENT_SECONDS
            )


def feed_watchdog(heartbeats: Heartbeats, stopping: threading.Event) -> None:
    """Notify systemd's watchdog while every thread is alive, until the consumer stops. Runs in a thread that calls nothing that may hang."""
    reported: list[str] = []
    while not stopping.wait(FEED_INTERVAL_SECONDS):
        silent_threads = heartbeats.silent_threads()
        if not silent_threads:
            notify("WATCHDOG=1")
        if silent_threads != reported:
            if silent_threads:
                logger.error(
                    "no heartbeat from: {}; unless one comes, systemd restarts t3flow",
                    ", ".join(silent_threads),
                )
            reported = silent_threads
