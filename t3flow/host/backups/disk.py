"""Whether a backup failed because of the disk that it is kept on, or of something in its user's home.

Found by looks of our own while what was copied is still there: what is said in a home is a user's word, and a full disk or quota there is
that user's.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from t3flow.engine.files import DiskError, safe_name
from t3flow.host import records
from t3flow.host.home.copies import DISK_IS_FULL, NO_ROOM, SPARE_BYTES
from t3flow.host.host import Host
from t3flow.host.owner_answers import OwnerProblem

NEARLY_BYTES, PROBE_BYTES = 4 * 1024 * 1024, 64 * 1024
"""The owner's copy stops by itself when SPARE_BYTES are left, some pages more or less."""


def require_sound(host: Host, top: Path, incoming: Path, user: str, problem: OwnerProblem) -> None:
    """Raise DiskError where the copy of a user's state failed as the disk below `top` is full. Raise OSError where it cannot be written."""
    free = shutil.disk_usage(top).free
    is_full = free < SPARE_BYTES + NEARLY_BYTES
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
    """Return whether a disk has not the room that a backup usually takes: else it is one user's database that is too large, or that says so.

    While no snapshot says what states need here, a user's word alone is not enough to fail the others.
    """
    sizes = [entry.bytes for entry in records.backups(host.journal) if entry.is_there]
    return free_bytes < 2 * max(sizes, default=0) + SPARE_BYTES
