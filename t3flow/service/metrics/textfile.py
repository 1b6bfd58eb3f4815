"""The file for the node exporter's textfile collector: always whole, readable by every account, without timestamps.

The folder may be writable by others. The text is written to a new file of a random name, which then takes the place of whatever has the name: nothing
that others put there is followed or written to.
"""

import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

SUFFIX = ".tmp"
"""The exporter reads files that end in .prom, so it ignores one that is being written."""
MAX_NAMES = 10_000
"""Names that are looked at for leftovers, as others may fill the folder."""


def write(path: Path, text: bytes) -> None:
    """Replace the file by one rename. Not synced: after a power cut, the next minute writes it again. Raises OSError."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    name = f".{path.name}.{secrets.token_hex(8)}{SUFFIX}"
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        os.rename(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(folder)


def remove_leftovers(path: Path) -> None:
    """Remove what a killed consumer left beside the file. Idempotent; leaves files of other accounts alone."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}{re.escape(SUFFIX)}")
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry, _ in zip(entries, range(MAX_NAMES), strict=False):
            if pattern.fullmatch(entry.name):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    os.unlink(entry.path)
