"""Whether the disk that a user's server works on has room: a server that cannot write fails for no fault of its version."""

import os

from t3flow import T3flowError
from t3flow.host.host import Host

LEAST_BYTES = 8 * 1024 * 1024
"""Less than what a server needs to migrate and to log."""


class NoRoom(T3flowError):
    """A server could not work because its disk is full."""


def trouble(host: Host, user: str) -> str:
    """Return that the file system of a user's state is full, in one line, or "". The folder above the base dir is asked, which is not the user's."""
    folder = host.base_dir(user).parent
    try:
        found = os.statvfs(folder)
    except OSError as error:
        return f"{folder} cannot be looked at ({error.strerror})"
    free = found.f_bavail * found.f_frsize
    if free < LEAST_BYTES:
        return f"the disk of {folder} is full ({free / 1e6:.1f} MB free): make room"
    if found.f_files and not found.f_favail:
        return f"the disk of {folder} has room for no further file: remove some"
    return ""
