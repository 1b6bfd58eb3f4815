"""Tell whether a backup failed because of the disk that stores it, or because of something in the user's home.

t3flow measures the disk itself while the copies are still there: a message from a home is the user's word, and a full disk or quota there is the
user's fault.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from t3flow.engine.files import DiskError, safe_name
from t3flow.host.home.copies import DISK_IS_FULL, NO_ROOM, SPARE_BYTES
from t3flow.host.host import Host
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.records import catalog

MARGIN_BYTES, PROBE_BYTES = 4 * 1024 * 1024, 64 * 1024
"""The owner's program stops copying when SPARE_BYTES are left, give or take some pages."""


def require_sound(host: Host, top: Path, incoming: Path, user: str, problem: OwnerProblem) -> None:
    """Raise DiskError if the copy of a user's set failed because the disk below `top` is full, or OSError if that disk cannot be written."""
    free = shutil.disk_usage(top).free
    is_full = free < SPARE_BYTES + MARGIN_BYTES
    if is_full or (str(problem).startswith((NO_ROOM, DISK_IS_FULL)) and _is_short(host, free)):
        raise DiskError(
            f"no backup of {user}: {problem}; {top} has {free / 1e6:.0f} MB left: make room in it, then run it again"
        ) from problem
    probe = incoming / f".{safe_name(user)}.probe"
    try:
        with probe.open("wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    finally:
        with suppress(OSError):
            probe.unlink()


def _is_short(host: Host, free_bytes: int) -> bool:
    """Return whether the disk lacks the room that a backup usually takes; otherwise one user's database is too large, or claims to be.

    While no snapshot shows how large sets are on this host, one user's word is not enough to fail the backups of the others.
    """
    sizes = [entry.size_bytes for entry in catalog.backups(host.journal) if entry.exists]
    return free_bytes < 2 * max(sizes, default=0) + SPARE_BYTES
