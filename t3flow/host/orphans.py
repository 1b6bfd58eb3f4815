"""The lock that children hold, and the end of children whose consumer died.

Each child holds a shared lock on one file, and its own children inherit it. After a consumer was killed, the lock tells the next one whether any
child still runs.

The owner of a child can take descriptors out of it. The lock's descriptor is read-only, and the lock is of the kind that a read-only descriptor
cannot make exclusive (OFD). An account can therefore keep it, or hide it in a message in transit, but cannot block t3flow with it.
"""

import fcntl
import os
import signal
import struct
import time
from contextlib import suppress
from pathlib import Path

from t3flow.engine.log import logger

POLL_SECONDS = 0.1
MAX_ROUNDS = 3
"""How often the holders are killed before the lock file is replaced."""


def open_lock(lock_path: Path) -> int:
    """Return a read-only descriptor of the lock file. Raise OSError."""
    return os.open(lock_path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)


def share_lock(descriptor: int) -> None:
    """Take the shared lock, which lasts as long as a copy of the descriptor. Raise OSError."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _whole_file(fcntl.F_RDLCK))


def are_gone(lock_path: Path) -> bool:
    """Return whether no child of any consumer is left."""
    lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(lock, fcntl.F_OFD_SETLK, _whole_file(fcntl.F_WRLCK))
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(lock)


def end_orphans(lock_path: Path, patience_seconds: float) -> int:
    """Wait for the children of a consumer that died, kill the remaining ones, and return how many were killed.

    If the file stays locked although all visible holders are killed (they hang in the kernel, or an account hides the lock), the file is replaced:
    killed holders do nothing more.
    """
    deadline = time.monotonic() + patience_seconds
    ended, rounds, before = 0, 0, set[int]()
    while not are_gone(lock_path):
        if time.monotonic() > deadline:
            holders = _holders(lock_path)
            rounds += 1
            if rounds >= MAX_ROUNDS and all(_is_killed(pid) for pid in before & set(holders)):
                logger.error("{} stays locked by a hidden or hanging process; t3flow replaces the file", lock_path)
                lock_path.unlink()
                break
            before = set(holders)
            for pid in holders:
                logger.warning("ending process {}, left over from a consumer that died", pid)
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
                ended += 1
            deadline = time.monotonic() + patience_seconds
        time.sleep(POLL_SECONDS)
    return ended


def _holders(lock_path: Path) -> list[int]:
    """Return the other processes that have the lock file open."""
    wanted = os.stat(lock_path)
    found = []
    for entry in Path("/proc").glob("[0-9]*/fd"):
        pid = int(entry.parent.name)
        with suppress(OSError):
            for descriptor in entry.iterdir():
                status = os.stat(descriptor)
                if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino) and pid != os.getpid():
                    found.append(pid)
                    break
    return found


def _is_killed(pid: int) -> bool:
    """Return whether a process is gone, or has SIGKILL pending: it runs no more code, even if it hangs in the kernel."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("SigPnd", "ShdPnd") and int(value, 16) >> (signal.SIGKILL - 1) & 1:
                return True
        return False
    return True


def _whole_file(kind: int) -> bytes:
    """Return a `struct flock` for a whole file."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)
