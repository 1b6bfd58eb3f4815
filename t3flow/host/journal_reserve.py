"""Room on the journal's disk that t3flow gives up when the disk is full, so that what was begun can be noted and ended.

A file of RESERVE_BYTES lies in `state_dir`, its blocks allocated. The consumer watches the free space: below LOW_BYTES it removes the file and says
so in the log; above HIGH_BYTES it makes the file again.
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
LOOK_SECONDS = 2.0


def hold(state_dir: Path) -> bool:
    """Make the reserve where there is room for it; return whether it is there. Idempotent; a half-made one is removed."""
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
    """Give the reserve up; return whether there was one. It takes no space to remove it. Idempotent."""
    with suppress(OSError):
        (state_dir / NAME).unlink()
        return True
    return False


def watch(state_dir: Path) -> Callable[[], None]:
    """Return a watcher that gives the reserve up while the journal's disk is full and makes it again once there is room."""
    next_look = [0.0]

    def look() -> None:
        if time.monotonic() < next_look[0]:
            return
        next_look[0] = time.monotonic() + LOOK_SECONDS
        with suppress(OSError):
            free = shutil.disk_usage(state_dir).free
            if free < LOW_BYTES and release(state_dir):
                logger.error(
                    "DISK FULL: {} has {:.1f} MB free; the reserve of {:.0f} MB is given up so that runs can end: make room",
                    *(state_dir, free / 1e6, RESERVE_BYTES / 1e6),
                )
            elif free >= HIGH_BYTES:
                hold(state_dir)

    return look
