"""Read the databases of a set before and after a migration: schemas, integrity, rows. Never writes."""

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from t3flow.t3 import activity, files, ledger, rows

FINDINGS = 100
STEPS_BETWEEN_LOOKS = 100_000


class Unreadable(Exception):
    """A database cannot be read; the text gives the reason."""


@dataclass
class Facts:
    """One database: applied migrations, faults found by quick_check, rows found by foreign_key_check, and the row count of each table.

    `shown`: ids of what a client must see, by kind. `runs`: status of each run, in generations that have runs. `newest_event`: number of the newest
    event, in the first generations.
    """

    schema: ledger.Schema = field(default_factory=list)
    faults: int = 0
    orphans: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    shown: dict[str, set[str]] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    newest_event: int = 0


Set = dict[str, Facts]
"""File name of each database of a set → its facts."""


def read_set(folder: Path, deadline: float) -> Set:
    """Read each database in a folder before `deadline` (monotonic seconds). Raises Unreadable, which names the database.

    The program under trial may have left anything: a link, a pipe, a database that is slow on purpose. Links and special files are not databases.
    """
    return {name: read_facts(folder / name, deadline) for name in files.databases(folder)}


def read_facts(path: Path, deadline: float) -> Facts:
    """Read one database; a missing or empty file has no facts. Raises Unreadable."""
    try:
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_size == 0 and not os.path.exists(f"{path}-wal"):
            return Facts()
    except FileNotFoundError:
        return Facts()
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable(f"{path.name} is no longer a regular file")
    with _opened(path, deadline) as connection:
        return _facts(connection)


def read_shown(path: Path, deadline: float) -> dict[str, set[str]]:
    """Return the ids of what a client must see, by kind, also while the server runs. Raises Unreadable."""
    with _opened(path, deadline) as connection:
        return rows.present(connection)


def read_activity(path: Path, deadline: float) -> activity.Activity:
    """Read the work in progress from a live database. Raises Unreadable, and Unknown if its tables are of an unknown generation."""
    with _opened(path, deadline) as connection:
        return activity.read(connection, path.name)


@contextlib.contextmanager
def _opened(path: Path, deadline: float) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_LOOKS)
            connection.execute("pragma trusted_schema = off")
            yield connection
    except (sqlite3.Error, OverflowError, ValueError, TypeError) as error:
        raise Unreadable(f"{path.name}: {error}") from error


def _facts(connection: sqlite3.Connection) -> Facts:
    findings = [row[0] for row in connection.execute(f"pragma quick_check({FINDINGS})")]
    return Facts(
        schema=ledger.read(connection) or [],
        faults=0 if findings == ["ok"] else len(findings),
        orphans=sum(1 for _ in connection.execute("pragma foreign_key_check")),
        rows=rows.counts(connection),
        shown=rows.present(connection),
        runs=rows.runs(connection),
        newest_event=rows.newest_event(connection),
    )


# The live database ----------------------------------------------------------------------------------------------------


def open_databases(pids: list[int], base_dir: Path) -> list[Path]:
    """Return the SQLite databases below a base dir that any of the processes has open according to /proc, sorted, without logs."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    path = Path(os.readlink(descriptor.path))
                    if path.is_relative_to(base_dir):
                        found.add(path)
    return sorted(path for path in found if path.name in files.databases(path.parent))


# Before and after -----------------------------------------------------------------------------------------------------


def worse_integrity(before: Facts, after: Facts) -> str:
    """Return which of SQLite's checks finds more than before, or ""."""
    if after.faults > before.faults:
        return f"quick_check finds {after.faults} faults, {before.faults} before"
    if after.orphans > before.orphans:
        return f"foreign_key_check finds {after.orphans} rows, {before.orphans} before"
    return ""


def lost_rows(before: Facts, after: Facts) -> str:
    """Return which tables have fewer rows than before, or ""."""
    return rows.lost(before.rows, after.rows)


def dropped_runs(before: Facts, after: Facts) -> str:
    """Return how many queued runs a recovery dropped, or "". Dropped runs are deleted, or ended without an attempt."""
    queued = [run for run, status in before.runs.items() if status == activity.QUEUED]
    dropped = [run for run in queued if after.runs.get(run) in (None, *rows.DROPPED)]
    return f"{len(dropped)} of {len(queued)} queued runs were dropped" if dropped else ""


def missing(wanted: dict[str, set[str]], found: dict[str, set[str]]) -> str:
    """Return how many items that a client must see are missing, or ""."""
    gaps = {kind: len(ids - found.get(kind, set())) for kind, ids in wanted.items()}
    return ", ".join(f"{gap} of {len(wanted[kind])} {kind}" for kind, gap in gaps.items() if gap)
