"""Which processes belong to a user's server, as a control group would say.

The supervisor is the subreaper of all that it starts: what a server leaves behind becomes the supervisor's own child.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from t3flow.sandbox.users import SANDBOX_USER


@dataclass(frozen=True)
class Process:
    """A process as /proc/PID/stat has it."""

    pid: int
    parent: int
    session: int


def living() -> Iterator[Process]:
    """Every process that is no zombie."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with suppress(OSError):
            fields = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if fields[0] not in (b"Z", b"X"):
                yield Process(int(name), int(fields[1]), int(fields[3]))


def members(user: str, session: int | None, everything: list[Process] | None = None) -> list[int]:
    """The pids of a user's server and of all below it.

    They are the processes of the session; this process's children that carry the user's name in their environment; and all below those.
    A process whose parent ended while this looked is taken for a child, which it is about to become. `everything` are all living processes, if
    they were just looked at.
    """
    if everything is None:
        everything = list(living())
    alive = {process.pid for process in everything}
    children: dict[int, list[Process]] = {}
    for process in everything:
        parent = process.parent if process.parent in alive or process.parent == 0 else os.getpid()
        children.setdefault(parent, []).append(process)
    found = [process.pid for process in everything if process.session == session]
    found += [
        process.pid
        for process in children.get(os.getpid(), [])
        if process.session != session and _mark(user) in _environment(process.pid)
    ]
    for pid in found:  # grows while it is read
        found += [process.pid for process in children.get(pid, []) if process.pid not in found]
    return found


def _mark(user: str) -> bytes:
    return f"{SANDBOX_USER}={user}".encode()


def _environment(pid: int) -> list[bytes]:
    with suppress(OSError):
        return _read(f"/proc/{pid}/environ").split(b"\0")
    return []


def _read(path: str) -> bytes:
    """A file of /proc, with as few calls as can be: there are hundreds."""
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
