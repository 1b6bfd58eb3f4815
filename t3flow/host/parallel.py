"""The same work for many users at once, as cores allow: snapshots, reads of databases, pairings."""

import contextvars
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_AT_ONCE = 8
"""Of a child for each user: more compete for the disk and for memory, and gain nothing."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


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
