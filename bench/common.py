"""Helpers of the benchmarks: figures beside those of a reference that is measured in the same run, sizes, and waits.

With `--short`, a benchmark does as little as proves that it runs, in less than half a minute: its figures mean nothing.
"""

import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
SHORT = "--short"
QUIET_SECONDS = 5.0
"""A wait that takes longer is reported, and again each time it has doubled."""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def sized(full: T, short: T) -> T:
    """Return the size of what is measured: `short` with --short."""
    return short if SHORT in sys.argv else full


def arguments() -> list[str]:
    """Return the words of the command line besides --short."""
    return [word for word in sys.argv[1:] if word != SHORT]


def median_seconds(work: Callable[[], object], times: int) -> list[float]:
    """Return the seconds of each of this many calls."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return taken


def show(name: str, seconds: list[float], reference: str = "", against: list[float] | None = None) -> None:
    """Print p50, p95, and the ratio of the medians to a reference in one line."""
    ordered = sorted(seconds)
    line = f"{name:<46} p50 {statistics.median(ordered) * 1000:8.2f} ms   p95 {ordered[int(len(ordered) * 0.95)] * 1000:8.2f} ms"
    if against:
        line += f"   {statistics.median(ordered) / statistics.median(against):5.2f} × {reference}"
    print(line, flush=True)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Print to stderr what the block waits for, if that takes more than a few seconds."""
    done = threading.Event()

    def report() -> None:
        began, pause = time.monotonic(), QUIET_SECONDS
        while not done.wait(pause):
            pause = time.monotonic() - began
            print(f"{sys.argv[0]}: waiting for {what} ({pause:.0f} s so far)", file=sys.stderr, flush=True)

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()


def wait_until(holds: Callable[[], Any], what: str, pause_seconds: float = 0.02) -> None:
    """Wait until a condition holds, however long that takes, and print to stderr what a long wait waits for."""
    with waiting(what):
        while not holds():
            time.sleep(pause_seconds)


def run_patiently(words: list[str], what: str, **options: Any) -> "subprocess.CompletedProcess[Any]":
    """Run a program to its end, however long that takes, and print to stderr what a long wait waits for."""
    with waiting(what):
        return subprocess.run(words, check=False, **options)


def end_on_signals() -> None:
    """Unwind this program at the first SIGINT, SIGTERM, or SIGHUP, so that it ends and removes what it made. Later ones do not cut that short."""

    def end(number: int, _frame: object) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        print(f"{sys.argv[0]}: ending what it started ...", file=sys.stderr, flush=True)
        sys.exit(128 + number)

    for number in ENDING:
        signal.signal(number, end)
