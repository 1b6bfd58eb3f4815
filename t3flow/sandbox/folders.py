"""Folders of the demo and the benchmarks, which the next start removes if their program was killed."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEW_SECONDS = 60.0
"""A folder that is this new may be about to be locked."""


@contextmanager
def temporary_folder(prefix: str, parent: Path) -> Iterator[Path]:
    """Yield a new folder, and remove it.

    A folder is locked while its program runs: older ones of this account with the prefix that are not locked are removed first.
    """
    for path in parent.glob(f"{prefix}*"):
        _remove_if_left(path)
    top = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    lock = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield top
    finally:
        shutil.rmtree(top, ignore_errors=True)
        os.close(lock)


def _remove_if_left(path: Path) -> None:
    """Remove a folder of this account that no program has locked."""
    with suppress(OSError):
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(lock)
            if status.st_uid == os.geteuid() and status.st_ctime < time.time() - NEW_SECONDS:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)
