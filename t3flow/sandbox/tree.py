"""The processes of a user's server, in place of a control group.

The supervisor is the subreaper of its descendants: orphans of a server become children of the supervisor.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from t3flow.sandbox.users import SANDBOX_USER

MOST_MARKERS = 5000


_markers: dict[tuple[int, int], bytes] = {}
"""Process and start → its marker, so that a request about one of 300 users does not read the environments of 300 servers."""


class Process(NamedTuple):
    """A process from /proc/PID/stat."""

    pid: int
    parent: int
    session: int
    started: int


def live_processes() -> Iterator[Process]:
    """Yield all processes except zombies."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with suppress(OSError):
            fields = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if fields[0] not in (b"Z", b"X"):
                yield Process(int(name), int(fields[1]), int(fields[3]), int(fields[19]))


def members(user: str, session: int | None, processes: list[Process] | None = None) -> list[int]:
    """Return the pids of a user's server and its descendants.

    These are the processes of the session, this process's children with the user's name in their environment, and the descendants of both.
    A process whose parent has just ended counts as a child, which it is about to become. `processes` saves reading /proc again.
    """
    if processes is None:
        processes = list(live_processes())
    alive = {process.pid for process in processes}
    children: dict[int, list[Process]] = {}
    for process in processes:
        parent = process.parent if process.parent in alive or process.parent == 0 else os.getpid()
        children.setdefault(parent, []).append(process)
    found = [process.pid for process in processes if process.session == session]
    found += [
        process.pid
        for process in children.get(os.getpid(), [])
        if process.session != session and _marker_of(process) == _marker(user)
    ]
    for pid in found:  # grows during the loop
        found += [process.pid for process in children.get(pid, []) if process.pid not in found]
    return found


def _marker(user: str) -> bytes:
    return f"{SANDBOX_USER}={user}".encode()


def _marker_of(process: Process) -> bytes:
    """Return the entry of a process's environment that names its user, or b"". A process that has not executed its program yet has none."""
    key = process.pid, process.started
    if key not in _markers:
        with suppress(OSError):
            found = [
                each for each in _read(f"/proc/{process.pid}/environ").split(b"\0") if each.startswith(_marker(""))
            ]
            if not found:
                return b""
            if len(_markers) > MOST_MARKERS:
                _markers.clear()
            _markers[key] = found[0]
    return _markers.get(key, b"")


def _read(path: str) -> bytes:
    """Read a file of /proc with few system calls, because there are hundreds of files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(descriptor, 65536):
            parts.append(part)
            if len(part) < 4096:
                break
        return b"".join(parts)
    finally:
        os.close(descriptor)
