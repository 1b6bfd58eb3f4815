"""Mounts that only this process and its children see."""

import ctypes
import os
from pathlib import Path

CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, kind: str | None = None, flags: int = 0, data: str = "") -> None:
    """Mount a filesystem with the system call of that name."""
    words = (source.encode(), os.fsencode(target), kind.encode() if kind else None, flags, data.encode())
    if libc.mount(*words) != 0:
        raise OSError(ctypes.get_errno(), f"mount on {target}")
