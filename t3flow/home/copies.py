"""Copying the state as a set: every database by VACUUM INTO and checked, and the identity files, all of one moment."""

import contextlib
import errno
import os
import resource
import sqlite3
from pathlib import Path
from typing import Any

from t3flow.home import database
from t3flow.home.database import Problem, connect, naming
from t3flow.t3 import rows

TRIES = 5
DISK_IS_FULL = "the disk is full: make room, then run it again"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SPARE_BYTES = 32 * 1024 * 1024
MOST_TABLES = 1000
"""All tables of all databases whose rows are counted."""


def copy_set(folder: Path, box: Path, known: Any) -> dict[str, Any]:
    """Copy the state of a folder into a box; copy nothing if it still has the `known` fingerprint.

    While a server runs, its live database changes and the others lie still. Each copy of a database is of one moment by itself, so that the set
    is of one moment if at most one database changed meanwhile, and no identity file did; else it is taken again. Raises Problem when that goes
    on. `fingerprint` is what the whole set looked like, or None if the live database was written to.
    """
    for _ in range(TRIES):
        before = database.fingerprint(folder)
        if before and before == known:
            return {"unchanged": True, "fingerprint": before}
        answer = _copy_once(folder, box)
        after = database.fingerprint(folder)
        moved = database.changed(before, after)
        if len(moved) <= 1 and not any(database.is_identity(name) for name in moved):
            return {**answer, "fingerprint": before if before == after else None}
    raise Problem(f"no copy of one moment can be had: {', '.join(sorted(moved))} keep changing")


def _copy_once(folder: Path, box: Path) -> dict[str, Any]:
    for left in os.scandir(box):
        os.unlink(left.path)
    names = database.databases(folder)
    schemas, counts = {}, {}
    for name in names:
        schemas[name], counts[name] = _copy_database(folder / name, box / name)
    level = database.level(schemas)
    if not level:
        raise Problem(f"{' and '.join(names)} went through no migration of t3's")
    if sum(len(each) for each in counts.values()) > MOST_TABLES:
        raise Problem(f"the databases have more than {MOST_TABLES} tables")
    identity = database.identity_files(folder)
    for name in identity:
        _copy_small(folder / name, box / name)
    return {"files": [*names, *identity], "schema": schemas, "rows": counts, "level": level}


def _copy_database(source: Path, target: Path) -> tuple[Any, dict[str, int]]:
    """Copy a database and check the copy; return its applied migrations and rows."""
    disk = os.statvfs(target.parent)  # a sparse file of a few kB may become any number of them
    most = max(0, disk.f_bavail * disk.f_frsize - SPARE_BYTES)
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
