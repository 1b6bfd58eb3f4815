"""Bounds on the memory, processes and disk that code from the registry uses: what no kernel limit covers for all of its processes together.

Runs inside cells: standard library alone.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from t3flow.host.cells.processes import descendants, end_all

INTERVAL_SECONDS = 0.2


def walk(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield everything below a folder without following links. Entries that vanish meanwhile are skipped."""
    pending = [folder]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


class BoundsWatch:
    """A thread that kills everything below this process once it exceeds its bounds; `exceeded` then says which.

    `bounds`: `memory_bytes`, `processes`, and for the `folders` together `disk_bytes` and `files`.
    """

    def __init__(self, bounds: dict[str, Any]) -> None:
        self.bounds = bounds
        self.exceeded = ""
        self.most = {"memory_bytes": 0, "disk_bytes": 0}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start the thread. Raises RuntimeError if the host has no thread to give."""
        self._thread.start()

    def stop(self) -> None:
        """Measure once more and end the thread. Idempotent."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        pause = INTERVAL_SECONDS
        while True:
            is_last = self._stopped.wait(pause)
            began = time.monotonic()
            try:
                self.exceeded = self.exceeded or self._measure()
            except OSError as error:
                self.exceeded = f"its use of memory and disk cannot be measured ({error.strerror})"
            if self.exceeded:
                end_all()
            pause = min(2.0, max(INTERVAL_SECONDS, 4 * (time.monotonic() - began)))
            if is_last:
                return

    def _measure(self) -> str:
        found = descendants()
        memory = sum(process.memory_bytes for process in found)
        self.most["memory_bytes"] = max(self.most["memory_bytes"], memory)
        if memory > self.bounds["memory_bytes"]:
            return f"it uses more than {self.bounds['memory_bytes'] / 1e6:.0f} MB of memory"
        if len(found) > self.bounds["processes"]:
            return f"it runs more than {self.bounds['processes']} processes"
        used, count = 0, 0
        for folder in self.bounds["folders"]:
            for entry in walk(folder):
                count += 1
                with contextlib.suppress(OSError):
                    used += entry.stat(follow_symlinks=False).st_blocks * 512
                if count > self.bounds["files"]:
                    return f"it creates more than {self.bounds['files']} files"
        self.most["disk_bytes"] = max(self.most["disk_bytes"], used)
        if used > self.bounds["disk_bytes"]:
            return f"it uses more than {self.bounds['disk_bytes'] / 1e6:.0f} MB of disk"
        return ""
