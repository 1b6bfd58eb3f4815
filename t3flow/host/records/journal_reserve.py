"""A reserve of disk space for the journal: t3flow frees it when the disk is full, so that runs in flight can record their end.

The reserve is a file of RESERVE_BYTES in `state_dir` with allocated blocks. The consumer watches the free space: below LOW_BYTES it deletes the
file and logs an error; above HIGH_BYTES it allocates the file again.
"""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from loguru import logger

NAME = "reserve"
RESERVE_BYTES = 8 * 1024 * 1024
LOW_BYTES = 2 * 1024 * 1024
HIGH_BYTES = 64 * 1024 * 1024
CHECK_SECONDS = 2.0


def allocate(state_dir: Path) -> bool:
    """Create the reserve if there is room for it; return whether it exists. Idempotent; an incomplete file is removed."""
    path = state_dir / NAME
    with suppress(OSError):
        if path.exists() and path.stat().st_size >= RESERVE_BYTES:
            return True
        if shutil.disk_usage(state_dir).free < HIGH_BYTES:
            return False
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            return True
        except OSError:
            path.unlink()
        finally:
            os.close(descriptor)
    return False


def release(state_dir: Path) -> bool:
    """Delete the reserve, which needs no disk space; return whether it existed. Idempotent."""
    with suppress(OSError):
        (state_dir / NAME).unlink()
        return True
    return False


def watch(state_dir: Path) -> Callable[[], None]:
    """Return a function to call often: it releases the reserve while the journal's disk is full and allocates it again once there is room."""
    next_check = [0.0]

    def check() -> None:
        if time.monotonic() < next_check[0]:
            return
        next_check[0] = time.monotonic() + CHECK_SECONDS
        with suppress(OSError):
            free = shutil.disk_usage(state_dir).free
            if free < LOW_BYTES and release(state_dir):
                logger.error(
                    "DISK FULL: {} has {:.1f} MB free; released the reserve of {:.0f} MB so that runs can end: make room",
                    *(state_dir, free / 1e6, RESERVE_BYTES / 1e6),
                )
            elif free >= HIGH_BYTES:
                allocate(state_dir)

    return check
