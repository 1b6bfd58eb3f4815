"""Which threads of the consumer live. systemd's watchdog is fed for as long as all of them do, and never because a timer went off."""

import threading
import time
from collections.abc import Callable

from loguru import logger

from t3flow.service.systemd import notify

MAX_SILENT_SECONDS = 60.0
FEED_INTERVAL_SECONDS = 2.0


class Heartbeats:
    """The last sign of life of each thread. A thread that works on a step is silent for as long as the step takes: steps have limits of their own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}
        self._at_work: set[str] = set()
        self._mutex = threading.Lock()

    def beat(self, name: str = "") -> None:
        """Note that a thread (the caller's) lives and waits for work."""
        name = name or threading.current_thread().name
        with self._mutex:
            self._last[name] = self._clock()
            self._at_work.discard(name)

    def work(self) -> None:
        """Note that the calling thread begins work of any length; its next beat ends it."""
        with self._mutex:
            self._at_work.add(threading.current_thread().name)

    def silent_threads(self) -> list[str]:
        """The threads that should have given a sign of life and have not."""
        with self._mutex:
            now = self._clock()
            return sorted(
                name for name, at in self._last.items() if name not in self._at_work and now - at > MAX_SILENT_SECONDS
            )


def feed_watchdog(heartbeats: Heartbeats, stopping: threading.Event) -> None:
    """Until the consumer stops: tell systemd that it lives, while every thread does. For a thread of its own, which calls nothing that may hang."""
    reported: list[str] = []
    while not stopping.wait(FEED_INTERVAL_SECONDS):
        silent_threads = heartbeats.silent_threads()
        if not silent_threads:
            notify("WATCHDOG=1")
        if silent_threads != reported:
            if silent_threads:
                logger.error(
                    "no sign of life from: {}; the watchdog is not fed until there is one, and systemd restarts t3flow",
                    ", ".join(silent_threads),
                )
            reported = silent_threads
