"""Mounts of the sandbox, in a mount namespace of its own."""

import ctypes
import os
from pathlib import Path

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x2, 0x4, 0x8, 0x1000, 0x4000, 0x40000, 2
TMP = Path("/tmp")
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Mount a file system, as the system call does. Raise OSError."""
    options = data.encode() if kind else None
    if _libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, options) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount on {target}: {os.strerror(code)}")


def put_tmp_in_memory() -> None:
    """Mount an overlay in memory over /tmp. Raise OSError.

    Not a plain tmpfs: t3flow refuses one for large files.
    """
    mount("tmpfs", str(TMP), "tmpfs", 0, "mode=755")
    parts = {name: TMP / name for name in ("lower", "upper", "work")}
    for part in parts.values():
        part.mkdir()
        part.chmod(0o1777)
    try:
        mount("overlay", str(TMP), "overlay", 0, "lowerdir={lower},upperdir={upper},workdir={work}".format(**parts))
    except OSError:
        _libc.umount2(str(TMP).encode(), MNT_DETACH)
        raise
