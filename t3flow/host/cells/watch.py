"""Watches over what a candidate uses: memory, processes, disk. What no limit of the kernel's covers for all of its processes together."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EVERY_SECONDS = 0.2
KILL_ROUNDS = 50
NICENESS = 10
GENTLY = ["nice", "-n", str(max(1, NICENESS - os.nice(0)))]
"""Words before the command of a candidate: its watcher must come first when it takes all it can get.

A consumer that is nice itself has candidates no nicer than that: on a busy host the nicest get no processor at all, and a good build fails by time.
"""
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Process:
    """A process as /proc has it: its parent, its processor time (seconds), its memory (bytes)."""

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
        """How many of its threads run now, or wait for a processor that others have."""
        found = 0
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{self.pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    found += (thread / "stat").read_text().rpartition(")")[2].split()[0] == "R"
        return found


def below() -> list[Process]:
    """Every living process below this one, of however many generations. Orphans come back to it: it is their reaper."""
    everybody = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                everybody[int(name)] = Process(int(name))
    found, ours = [], {os.getpid()}
    grown = True
    while grown:
        grown = False
        for pid, process in everybody.items():
            if process.parent in ours and pid not in ours:
                ours.add(pid)
                found.append(process)
                grown = True
    return [process for process in found if process.state not in "ZX"]


def end_all() -> None:
    """Ends every process below this one, also those that multiply. The first process of a namespace of its own ends all at once."""
    for _ in range(KILL_ROUNDS):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpid() == 1:
                os.kill(-1, signal.SIGKILL)
        left = below()
        for process in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)
        if not left:
            return
        time.sleep(0.02)


def files(folder: str) -> Iterator[os.DirEntry[str]]:
    """Everything below a folder, following no link. What vanishes meanwhile is left out."""
    pending = [folder]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


class Watch:
    """Ends everything below this process once it breaks its bounds, and tells which in `broken`.

    `bounds`: `memory_bytes`, `processes`, `disk_bytes` and `files`, the last two of the `folders` named.
    """

    def __init__(self, bounds: dict[str, Any]) -> None:
        self.bounds = bounds
        self.broken = ""
        self.most = {"memory_bytes": 0, "disk_bytes": 0}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Looks once more, then ends. Twice is harmless."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        pause = EVERY_SECONDS
        while True:
            last = self._stopped.wait(pause)
            began = time.monotonic()
            try:
                self.broken = self.broken or self._look()
            except OSError as error:
                self.broken = f"it cannot be watched any more ({error.strerror})"
            if self.broken:
                end_all()
            pause = min(2.0, max(EVERY_SECONDS, 4 * (time.monotonic() - began)))
            if last:
                return

    def _look(self) -> str:
        found = below()
        memory = sum(process.memory_bytes for process in found)
        self.most["memory_bytes"] = max(self.most["memory_bytes"], memory)
        if memory > self.bounds["memory_bytes"]:
            return f"it uses more than {self.bounds['memory_bytes'] / 1e6:.0f} MB of memory"
        if len(found) > self.bounds["processes"]:
            return f"it runs more than {self.bounds['processes']} processes"
        used, count = 0, 0
        for folder in self.bounds["folders"]:
            for entry in files(folder):
                count += 1
                with contextlib.suppress(OSError):
                    used += entry.stat(follow_symlinks=False).st_blocks * 512
                if count > self.bounds["files"]:
                    return f"it makes more than {self.bounds['files']} files"
        self.most["disk_bytes"] = max(self.most["disk_bytes"], used)
        if used > self.bounds["disk_bytes"]:
            return f"it uses more than {self.bounds['disk_bytes'] / 1e6:.0f} MB of disk"
        return ""
