"""Measurements of a trial from outside of the server: listening ports and busy cores."""

import contextlib
import time
from pathlib import Path

from t3flow.host.cells.processes import descendants

LISTENING = "0A"
SAMPLE_SECONDS = 0.02


def listening_ports() -> set[int]:
    """Return the TCP ports with a listener in this network namespace."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING:
                    found.add(int(fields[1].rpartition(":")[2], 16))
    return found


def busy_cores(window_seconds: float) -> float:
    """Return how many cores the processes below this one want, on average over a window, whether or not a busy host gives them any."""
    counts = []
    end = time.monotonic() + window_seconds
    while time.monotonic() < end:
        counts.append(sum(process.running_threads() for process in descendants()))
        time.sleep(SAMPLE_SECONDS)
    return sum(counts) / max(1, len(counts))
