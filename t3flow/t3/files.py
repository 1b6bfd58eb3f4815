"""The files of a user's state: a set of SQLite databases and small identity files that belong together."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

USERDATA = "userdata"
"""The folder of the state in the base directory."""

FIRST_DATABASE = "state.sqlite"
"""The database of all generations up to 0.0.45, from which later generations create theirs."""

SECOND_DATABASE = "statev2.sqlite"
"""The live database of nightlies since October 2026, created once from the first database."""

LOG_INDEX = "-shm"
LOG_SUFFIXES = ("-wal", LOG_INDEX, "-journal")
"""Suffixes of the files beside a database that is open or whose server was killed. SQLite applies a log or rollback journal to whatever database
it finds beside it."""

ENVIRONMENT_ID = "environment-id"
"""The server's identity. The names of session cookies depend on it."""

IDENTITY_FILES = (ENVIRONMENT_ID, "anonymous-id", "settings.json", "keybindings.json")
"""Small files that a build may change and an older build reads again."""

DATABASE_SUFFIX = ".sqlite"
OPEN_SUFFIXES = tuple(f"{DATABASE_SUFFIX}{suffix}" for suffix in ("", *LOG_SUFFIXES))
"""Suffixes of the files that a process has open while it uses a database."""
SQLITE_MAGIC = b"SQLite format 3\0"


def userdata(base_dir: Path) -> Path:
    """Return the state folder of a base directory."""
    return base_dir / USERDATA


def databases(folder: Path) -> list[str]:
    """Return the sorted names of the SQLite databases in a folder, recognized by suffix or by their first bytes.

    Call it as the folder's owner. Links and special files do not count; a missing folder has no databases.
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
    """Return the databases among `names` in `folder` that any of the processes has open, according to the kernel.

    Call it as the processes' owner or as root, who may read their descriptors. Processes that ended have nothing open.
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
    for descriptor in _descriptors(pids):
        try:
            status = os.stat(descriptor)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in wanted:
            found.add(wanted[(status.st_dev, status.st_ino)])
    return sorted(found)


def removed_databases(pids: Iterable[int], folder: Path) -> list[str]:
    """Return the names of databases that a process has open although they were removed from `folder`, or replaced there, since.

    What the process writes to them is not in the set. Call it as `live_databases`.
    """
    start, end = f"{os.path.realpath(folder)}/", f"{DATABASE_SUFFIX} (deleted)"
    found = set()
    for descriptor in _descriptors(pids):
        try:
            path = os.readlink(descriptor)
        except OSError:
            continue
        if path.startswith(start) and path.endswith(end) and "/" not in path[len(start) :]:
            found.add(path[len(start) :].removesuffix(" (deleted)"))
    return sorted(found)


def _descriptors(pids: Iterable[int]) -> Iterator[str]:
    """Yield the paths of the open files of processes below /proc."""
    for pid in pids:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        yield from (f"/proc/{pid}/fd/{name}" for name in names)
