"""Which files are a user's state: a set of SQLite databases and small identity files, which belong together."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

USERDATA = "userdata"
"""The folder of the state, in the base dir."""

FIRST_DATABASE = "state.sqlite"
"""The database of all generations up to 0.0.45, and what later ones make theirs of."""

SECOND_DATABASE = "statev2.sqlite"
"""The live database of the nightlies from October 2026 on, made once from the first."""

LOG_SUFFIXES = ("-wal", "-shm")
"""What SQLite keeps beside an open database, or one whose server was killed."""

ENVIRONMENT_ID = "environment-id"
"""Who the server is: the names of session cookies depend on it."""

IDENTITY_FILES = (ENVIRONMENT_ID, "anonymous-id", "settings.json", "keybindings.json")
"""Small files that a build may change and that an older one reads again."""

DATABASE_SUFFIX = ".sqlite"
OPEN_SUFFIXES = tuple(f"{DATABASE_SUFFIX}{suffix}" for suffix in ("", *LOG_SUFFIXES))
"""How the names of the files end that a process has open while it is at work on a database."""
SQLITE_MAGIC = b"SQLite format 3\0"


def userdata(base_dir: Path) -> Path:
    """Return the folder of the state of a base dir."""
    return base_dir / USERDATA


def databases(folder: Path) -> list[str]:
    """Return the names of the SQLite databases in a folder, sorted: by their suffix, or by their first bytes.

    Call it as the folder's owner. A link or a special file is no database; a missing folder has none.
    """
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [name for name in names if _is_database(folder / name)]


def _is_database(path: Path) -> bool:
    if path.name.startswith(".") or path.name.endswith(LOG_SUFFIXES):
        return False
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return False
        if path.name.endswith(DATABASE_SUFFIX):
            return True
        with path.open("rb") as file:
            return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
    except OSError:
        return False


def identity_files(folder: Path) -> list[str]:
    """Return the names of the identity files that are in a folder. Call it as the folder's owner."""
    return [name for name in IDENTITY_FILES if (folder / name).is_file() and not (folder / name).is_symlink()]


def live_databases(pids: Iterable[int], folder: Path, names: list[str]) -> list[str]:
    """Return which of the databases `names` in a folder any of the processes has open, by the kernel's word.

    Needs the right to read the descriptors of the processes: call it as their owner or as root. Processes that are gone have nothing open.
    """
    wanted: dict[tuple[int, int], str] = {}
    for name in names:
        for suffix in ("", *LOG_SUFFIXES):
            try:
                status = os.stat(folder / f"{name}{suffix}", follow_symlinks=False)
                wanted[(status.st_dev, status.st_ino)] = name
            except OSError:
                continue
    found = set()
    for pid in pids:
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                status = os.stat(f"/proc/{pid}/fd/{descriptor}")
            except OSError:
                continue
            if (status.st_dev, status.st_ino) in wanted:
                found.add(wanted[(status.st_dev, status.st_ino)])
    return sorted(found)
