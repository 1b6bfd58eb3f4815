"""Helpers of the benchmarks: figures beside those of a reference that is measured in the same run."""

import statistics
import time
from collections.abc import Callable


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
