"""Copy a set: every database by VACUUM INTO and checked, and the identity files, all of one moment."""

import contextlib
import ctypes
import errno
import os
import resource
import sqlite3
import time
from pathlib import Path
from typing import Any

from t3flow.host.home import database
from t3flow.host.home.database import Problem, connect, naming
from t3flow.t3 import rows

TRIES = 5
DISK_IS_FULL = "the disk is full: make room, then run it again"
NO_ROOM = "there is no room for the backup"
"""Beginning of the problem if the copies do not fit on the disk; found before the first copy begins."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SPARE_BYTES = 32 * 1024 * 1024
MOST_TABLES = 1000
"""Limit for the tables of all databases together."""
FALLOC_FL_KEEP_SIZE = 1
_libc = ctypes.CDLL(None, use_errno=True)


def copy_set(folder: Path, box: Path, known: Any) -> dict[str, Any]:
    """Copy the set in a folder into a box; copy nothing if it still has the `known` fingerprint.

    While a server runs, its live database changes and the others do not. Each copy of a database is of one moment by itself, so the set is of one
    moment if at most one database changed during the copy, and no identity file did; otherwise it is copied again. Raises Problem after TRIES
    such copies. In the answer, `fingerprint` is that of the whole set, or None if the live database was written to.

    Files that were written at this moment are read a tick later: a write during the copy could leave their fingerprint unchanged otherwise.
    """
    for _ in range(TRIES):
        before = database.fingerprint(folder)
        if left := database.unsettled_ns(before, time.time_ns()):
            time.sleep(left / 1e9)
            before = database.fingerprint(folder)
        is_settled = not database.unsettled_ns(before, time.time_ns())
        if before and before == known:
            return {"unchanged": True, "fingerprint": before}
        answer = _copy_once(folder, box)
        after = database.fingerprint(folder)
        moved = database.changed(before, after)
        if len(moved) <= 1 and not any(database.is_identity(name) for name in moved):
            return {**answer, "fingerprint": before if is_settled and before == after else None}
    raise Problem(f"no consistent copy in {TRIES} tries: {', '.join(sorted(moved))} kept changing")


def _copy_once(folder: Path, box: Path) -> dict[str, Any]:
    for left in os.scandir(box):
        os.unlink(left.path)
    names = database.databases(folder)
    _reserve(box, {name: _used_bytes(folder / name) for name in names})
    schemas, counts = {}, {}
    for name in names:
        schemas[name], counts[name] = _copy_database(folder / name, box / name)
    level = database.level(schemas)
    if not level:
        raise Problem(f"{' and '.join(names)} have no migration of t3's")
    if sum(len(each) for each in counts.values()) > MOST_TABLES:
        raise Problem(f"the databases have more than {MOST_TABLES} tables")
    identity = database.identity_files(folder)
    for name in identity:
        _copy_small(folder / name, box / name)
    return {"files": [*names, *identity], "schema": schemas, "rows": counts, "level": level}


def _used_bytes(source: Path) -> int:
    """Return the size of a copy of a database: its pages including those in its log, without free pages."""
    with naming(source.name), contextlib.closing(connect(source)) as connection:
        pages, free, size = (
            int(connection.execute(f"pragma {each}").fetchone()[0])
            for each in ("page_count", "freelist_count", "page_size")
        )
        return max(pages - free, 1) * size


def _reserve(box: Path, sizes: dict[str, int]) -> None:
    """Allocate the blocks of all copies in empty files, which VACUUM INTO then fills. Raises Problem if they do not fit.

    Each copy is copied once more, out of the box, and then removed from it: the room of the largest is needed twice. On a file system that
    cannot allocate, only its free space is checked.
    """
    disk = os.statvfs(box)
    needed, free = sum(sizes.values()) + max(sizes.values(), default=0) + SPARE_BYTES, disk.f_bavail * disk.f_frsize
    if needed > free:
        raise Problem(f"{NO_ROOM}: it needs {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; make room")
    for name, size in sizes.items():
        descriptor = os.open(box / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o640)
        try:
            if _libc.fallocate(descriptor, FALLOC_FL_KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(size)) != 0:
                code = ctypes.get_errno()
                if code in FULL:
                    raise Problem(f"{NO_ROOM}: {size / 1e6:.0f} MB of {name} cannot be reserved; make room")
        finally:
            os.close(descriptor)


def _copy_database(source: Path, target: Path) -> tuple[Any, dict[str, int]]:
    """Copy a database and check the copy; return its applied migrations and row counts."""
    disk = os.statvfs(target.parent)  # the copy of a sparse file of a few kB may become any size
    most = max(0, disk.f_bavail * disk.f_frsize - SPARE_BYTES) + target.stat().st_blocks * 512
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    with naming(source.name), contextlib.closing(connect(source)) as connection:
        database.schema(connection, source.name)
        try:
            connection.execute("vacuum into ?", (str(target),))
        except sqlite3.OperationalError as error:
            if target.exists() and target.stat().st_size + 2 * 1024 * 1024 > most:
                raise Problem(DISK_IS_FULL) from error
            raise
    os.truncate(target, target.stat().st_size)  # free what was allocated beyond its end
    os.chmod(target, 0o600)
    with naming(source.name), contextlib.closing(connect(target)) as copy:
        verdict = copy.execute("pragma quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise Problem(f"the copy of {source.name} fails its check: {verdict}")
        return database.schema(copy, source.name), rows.counts(copy)


def _copy_small(source: Path, target: Path) -> None:
    """Copy an identity file."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        text = file.read(database.LARGEST_IDENTITY_BYTES + 1)
    if len(text) > database.LARGEST_IDENTITY_BYTES:
        raise Problem(f"{source.name} grew while it was copied")
    with open(target, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as copy:
        copy.write(text)
