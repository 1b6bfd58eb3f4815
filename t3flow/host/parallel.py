"""The same work for many users at once, as cores allow: snapshots, reads of databases, pairings."""

import contextvars
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_AT_ONCE = 8
"""Of a child for each user: more compete for the disk and for memory, and gain nothing."""

MOST_PAIRINGS = 16
ALWAYS = 10
"""On a host of so few users, a limit in time leaves nobody out, however loaded the host is."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def pairings_at_once() -> int:
    """Return how many users may be paired at once: a minting waits a little and takes 300 MB."""
    return min(max(4, 2 * cores()), MOST_PAIRINGS)


def for_each(work: Callable[[Item], Result], items: Iterable[Item], at_once: int = 0) -> list[Result]:
    """Return what `work` returns for each item, in order, from up to `at_once` threads (default: one for each core).

    Each thread sees the context of the caller, so that a signal interrupts all of them. An exception is raised once the work in flight has ended;
    the items after it are not begun.
    """
    listed = list(items)
    count = min(at_once or min(cores(), MOST_AT_ONCE), len(listed))
    if count <= 1:
        return [work(item) for item in listed]
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(contextvars.copy_context().run, work, item) for item in listed]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()


def for_each_within(
    seconds: float, work: Callable[[Item], Result], items: Iterable[Item], at_once: int = 0
) -> dict[Item, Result]:
    """Return item → what `work` returns, in order: for the first ALWAYS items, and for the others that could be begun within that time."""
    until = time.monotonic() + seconds

    def in_time(numbered: tuple[int, Item]) -> list[tuple[Item, Result]]:
        number, item = numbered
        return [(item, work(item))] if number < ALWAYS or time.monotonic() < until else []

    return dict(pair for found in for_each(in_time, enumerate(items), at_once) for pair in found)
