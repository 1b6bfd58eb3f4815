"""Read one user's databases as their owner: names, fingerprint, schemas. Nothing here writes."""

import contextlib
import fcntl
import os
import re
import sqlite3
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t3flow.t3 import files, ledger, rows

NO_DATABASE = "there is no database"
SUFFIXES = ("", *files.LOG_SUFFIXES)
MOST_DATABASES = 16
MOST_MIGRATIONS = 2000
MOST_NAME = 200
LARGEST_IDENTITY_BYTES = 1024 * 1024
WRITE_LOCK_BYTE = 120
WAIT_SECONDS = 0.2

TICK_NS, WHOLE_SECOND_NS = 20_000_000, 1_000_000_000
"""The longest tick of the kernel's clock for files, with a margin. Some file systems record whole seconds."""

Marks = dict[str, list[int]]
"""File → inode, size and modification time, of which at least one changes with every write, except for writes within one tick (`unsettled_ns`)."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}")


class Problem(Exception):
    """The reason why a command fails, for people."""


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Add the name of the database to every SQLite error."""
    try:
        yield
    except (sqlite3.Error, OverflowError, ValueError, TypeError) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise
        raise Problem(f"{name}: {error}") from error


def databases(folder: Path) -> list[str]:
    """Return the names of a folder's databases, t3's first database first. Raises Problem for none, too many, and files that only look like one."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(folder):
            plain = stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode)
            if entry.name.endswith(files.DATABASE_SUFFIX) and not entry.name.startswith(".") and not plain:
                raise Problem(f"{ascii(entry.name)[1:-1][:60]} is not a regular file")
    found = files.databases(folder)
    if not found:
        raise Problem(NO_DATABASE)
    if len(found) > MOST_DATABASES:
        raise Problem(f"there are {len(found)} databases in {folder.name}: move aside those that are not t3's")
    for name in found:
        if not _NAME.fullmatch(name) or ".." in name:
            raise Problem(f"the database {ascii(name)[:60]} in {folder.name} has an unsupported name: rename it")
    return sorted(found, key=lambda name: (name != files.FIRST_DATABASE, name))


def identity_files(folder: Path) -> list[str]:
    """Return the names of a folder's identity files, without files too large to be one."""
    found = files.identity_files(folder)
    return [name for name in found if (folder / name).stat().st_size <= LARGEST_IDENTITY_BYTES]


def is_identity(name: str) -> bool:
    """Return whether a name belongs to an identity file, not a database."""
    return name in files.IDENTITY_FILES


def fingerprint(folder: Path) -> Marks:
    """Return the marks of every database, every log that is not empty, and every identity file."""
    marks: Marks = {}
    try:
        names = databases(folder)
    except Problem:
        names = []
    for name in [*(f"{name}{suffix}" for name in names for suffix in ("", "-wal")), *identity_files(folder)]:
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(folder / name, follow_symlinks=False)
            if status.st_size or not name.endswith("-wal"):
                marks[name] = [status.st_ino, status.st_size, status.st_mtime_ns]
    return marks


def unsettled_ns(marks: Marks, now_ns: int) -> int:
    """Return how long (nanoseconds) a write may still leave these marks unchanged, because it could have the time of an earlier write; else 0."""
    left = 0
    for _, _, written in marks.values():
        tick = TICK_NS + (0 if written % WHOLE_SECOND_NS else WHOLE_SECOND_NS)
        if abs(now_ns - written) < tick:  # a time in the future is that of no present write
            left = max(left, written + tick - now_ns)
    return left


def changed(before: Marks, after: Marks) -> set[str]:
    """Return the databases and identity files whose marks differ, logs counted as their database."""
    names = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    return {base_of(name) for name in names}


def base_of(name: str) -> str:
    """Return the name of the database that a log belongs to; any other name unchanged."""
    for suffix in files.LOG_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def connect(database: Path, *, at_rest: bool = False, wait_seconds: float = WAIT_SECONDS) -> sqlite3.Connection:
    """Open a database read-only. With `at_rest`, it has no log and none is created. Raises Problem, sqlite3.Error."""
    for suffix in SUFFIXES:
        path = Path(f"{database}{suffix}")
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise Problem(f"{path.name} is not a regular file")
    if not database.exists():
        raise Problem(NO_DATABASE)
    if database.stat().st_size == 0 and not Path(f"{database}-wal").exists():
        raise Problem(f"{database.name} is an empty file")
    mode = "mode=ro&immutable=1" if at_rest else "mode=ro"
    connection = sqlite3.connect(f"{database.as_uri()}?{mode}", uri=True, timeout=wait_seconds, isolation_level=None)
    connection.execute("pragma trusted_schema = off")
    return connection


def being_written(database: Path) -> bool:
    """Return whether a process is in the middle of a write.

    A process that is suspended between the commit to its log and the update of the log's index shows the state before the commit, but the commit
    is found once the process has ended. SQLite's write lock on the log is byte 120 of the index (WALINDEX_LOCK_OFFSET in its wal.c).
    """
    try:
        descriptor = os.open(f"{database}-shm", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, WRITE_LOCK_BYTE, 1, 0)
        found: int = struct.unpack("hhqqi4x", fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[0]
        return found != fcntl.F_UNLCK
    finally:
        os.close(descriptor)  # before SQLite opens the file: closing it later would release SQLite's own locks


def schema(connection: sqlite3.Connection, name: str) -> ledger.Schema | None:
    """Return the applied migrations of an open database, None if it is not t3's. Raises Problem."""
    with naming(name):
        found = ledger.read(connection)
    if found is None:
        return None
    if len(found) > MOST_MIGRATIONS or any(number < 0 or len(text) > MOST_NAME for number, text in found):
        raise Problem(f"{name} has a migration table that t3 cannot have written")
    return found


def schemas(folder: Path) -> dict[str, ledger.Schema | None]:
    """Return database → applied migrations. Raises Problem if one cannot be read."""
    found = {}
    for name in databases(folder):
        with naming(name), contextlib.closing(connect(folder / name)) as connection:
            found[name] = schema(connection, name)
    return found


def row_counts(folder: Path, wait_seconds: float) -> dict[str, dict[str, int]]:
    """Return database → table → row count, also while a server has the databases open. Raises Problem."""
    found = {}
    for name in databases(folder):
        with naming(name), contextlib.closing(connect(folder / name, wait_seconds=wait_seconds)) as connection:
            found[name] = rows.counts(connection)
    return found


def level(found: dict[str, Any]) -> int:
    """Return the highest schema level of several databases, for people; 0 for none."""
    return max((ledger.level(schema) for schema in found.values() if schema), default=0)
