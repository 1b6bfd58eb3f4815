"""What a database says about itself before and after a migration: whole, consistent, how many rows in which table. Never changes it."""

import contextlib
import os
import sqlite3
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t3flow.t3 import files, ledger
from t3flow.t3 import rows as t3_rows

FINDINGS = 100
STEPS_BETWEEN_LOOKS = 100_000


class Unreadable(Exception):
    """The database cannot be read. The text says why."""


@dataclass
class Facts:
    """`schema`: the applied migrations, None where it is no database of t3's, `level` the newest one. `damages` of quick_check, `orphans` of
    foreign_key_check. `live`: rows that a client must see."""

    schema: ledger.Schema | None = None
    level: int = 0
    damages: int = 0
    orphans: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    live: dict[str, int] = field(default_factory=dict)


def read_facts(path: Path, deadline: float) -> Facts:
    """Reads all of it before `deadline` (monotonic seconds); for no file or an empty one, no facts. Raises Unreadable.

    What a candidate left may be anything: a link, a pipe, a database made to be slow.
    """
    try:
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_size == 0 and not os.path.exists(f"{path}-wal"):
            return Facts()
    except FileNotFoundError:
        return Facts()
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable(f"{path.name} is no plain file any more")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_LOOKS)
            connection.execute("pragma trusted_schema = off")
            return _facts(connection)
    except (sqlite3.Error, OverflowError, ValueError, TypeError) as error:
        raise Unreadable(str(error)) from error


def _facts(connection: sqlite3.Connection) -> Facts:
    findings = [row[0] for row in connection.execute(f"pragma quick_check({FINDINGS})")]
    schema = ledger.read(connection)
    return Facts(
        schema=schema,
        level=ledger.level(schema or []),
        damages=0 if findings == ["ok"] else len(findings),
        orphans=sum(1 for _ in connection.execute("pragma foreign_key_check")),
        rows=t3_rows.counts(connection),
        live=t3_rows.held(connection),
    )


def schemas(userdata: Path, deadline: float) -> dict[str, Any]:
    """Database → its applied migrations, of all that can be read in a folder."""
    found = {}
    for name in files.databases(userdata):
        with contextlib.suppress(Unreadable):
            found[name] = read_facts(userdata / name, deadline).schema
    return found


def worse_integrity(before: Facts, after: Facts) -> str:
    """What the checks find that they did not find before, or ""."""
    if after.damages > before.damages:
        return f"quick_check finds {after.damages} faults, {before.damages} before"
    if after.orphans > before.orphans:
        return f"foreign_key_check finds {after.orphans} rows, {before.orphans} before"
    return ""


def lost_rows(before: Facts, after: Facts) -> str:
    """Which tables have fewer rows than before, or ""."""
    return t3_rows.lost(before.rows, after.rows)
