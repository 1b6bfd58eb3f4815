"""The processes below this one, as /proc shows them, and how to end them all. Runs inside cells: standard library alone."""

import contextlib
import os
import signal
import time
from pathlib import Path

KILL_ROUNDS = 50
NICENESS = 10
LOW_PRIORITY = ["nice", "-n", str(max(1, NICENESS - os.nice(0)))]
"""Prefix of the command under trial: its watcher must get the processor first, even if the command takes all it can.

If this process is nice itself, the command is no nicer than NICENESS: on a busy host the nicest processes get no processor at all, and a good
version would fail by a timeout.
"""
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Process:
    """A process in /proc: its parent, processor time (seconds), and memory (bytes)."""

    def __init__(self, pid: int) -> None:
        text = Path(f"/proc/{pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        self.pid = pid
        self.name = text.partition("(")[2].rpartition(")")[0]
        self.state = fields[0]
        self.parent = int(fields[1])
        self.cpu_seconds = (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
        self.memory_bytes = int(fields[21]) * PAGE_BYTES

    def running_threads(self) -> int:
        """Return how many of its threads run or wait for a busy processor."""
        count = 0
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{self.pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    count += (thread / "stat").read_text().rpartition(")")[2].split()[0] == "R"
        return count


def descendants() -> list[Process]:
    """Return every living process below this one, in any generation. Orphans are included: this process is their reaper."""
    processes = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                processes[int(name)] = Process(int(name))
    found, pids = [], {os.getpid()}
    has_grown = True
    while has_grown:
        has_grown = False
        for pid, process in processes.items():
            if process.parent in pids and pid not in pids:
                pids.add(pid)
                found.append(process)
                has_grown = True
    return [process for process in found if process.state not in "ZX"]


def end_all() -> None:
    """Kill every process below this one, also those that keep forking. The first process of a namespace kills all of them at once."""
    for _ in range(KILL_ROUNDS):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpid() == 1:
                os.kill(-1, signal.SIGKILL)
        left = descendants()
        for process in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)
        if not left:
            return
        time.sleep(0.02)
