"""Free space on the disk of a user's state. A server that fails on a full disk says nothing about its version."""

import os

from t3flow import T3flowError
from t3flow.host.host import Host

MIN_BYTES = 8 * 1024 * 1024
"""Less than a server needs for a migration and its log."""


class DiskFull(T3flowError):
    """A server failed because its disk is full."""


def problem(host: Host, user: str) -> str:
    """Return one line if the file system of a user's state is full, else "". Reads the folder above the base dir, which the user does not own."""
    folder = host.base_dir(user).parent
    try:
        status = os.statvfs(folder)
    except OSError as error:
        return f"cannot read the free space of {folder} ({error.strerror})"
    free = status.f_bavail * status.f_frsize
    if free < MIN_BYTES:
        return f"the disk of {folder} is full ({free / 1e6:.1f} MB free): make room"
    if status.f_files and not status.f_favail:
        return f"the disk of {folder} has no free inodes: remove some files"
    return ""
