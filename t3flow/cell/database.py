"""What a database says about itself before and after a migration: whole, consistent, how many rows in which table. Never changes it."""

import contextlib
import os
import sqlite3
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path

FINDINGS = 100
AUTH_TABLES = "auth_"
STEPS_BETWEEN_LOOKS = 100_000


class Unreadable(Exception):
    """The database cannot be read. The text says why."""


@dataclass
class Facts:
    """`level`: newest migration (0: none). `damages` of quick_check, `orphans` of foreign_key_check. `live`: rows that a snapshot must show."""

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
        raise Unreadable("state.sqlite is no plain file any more")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_LOOKS)
            connection.execute("pragma trusted_schema = off")
            return _facts(connection)
    except (sqlite3.Error, OverflowError, ValueError, TypeError) as error:
        raise Unreadable(str(error)) from error


def _facts(connection: sqlite3.Connection) -> Facts:
    findings = [row[0] for row in connection.execute(f"pragma quick_check({FINDINGS})")]
    names = {
        str(name): str(sql or "")
        for name, sql in connection.execute("select name, sql from sqlite_master where type = 'table'")
    }
    virtual = [name for name, sql in names.items() if sql.lower().startswith("create virtual")]
    counted = [
        name
        for name in names
        if not name.startswith(("sqlite_", AUTH_TABLES)) and not any(name.startswith(each) for each in virtual)
    ]
    return Facts(
        level=_one(connection, "select max(migration_id) from effect_sql_migrations")
        if "effect_sql_migrations" in names
        else 0,
        damages=0 if findings == ["ok"] else len(findings),
        orphans=sum(1 for _ in connection.execute("pragma foreign_key_check")),
        rows={name: _one(connection, f'select count(*) from "{_quoted(name)}"') for name in counted},
        live={kind: _live(connection, f"projection_{kind}", names) for kind in ("projects", "threads")},
    )


def _live(connection: sqlite3.Connection, table: str, names: dict[str, str]) -> int:
    """Rows of a table that are neither deleted nor put away."""
    if table not in names:
        return 0
    columns = {row[1] for row in connection.execute(f'pragma table_info("{table}")')}
    gone = [f"{column} is null" for column in ("deleted_at", "archived_at") if column in columns]
    return _one(connection, f"select count(*) from {table} where {' and '.join(gone) or '1'}")


def _one(connection: sqlite3.Connection, sql: str) -> int:
    return int(connection.execute(sql).fetchone()[0] or 0)


def _quoted(name: str) -> str:
    return name.replace('"', '""')


def worse_integrity(before: Facts, after: Facts) -> str:
    """What the checks find that they did not find before, or ""."""
    if after.damages > before.damages:
        return f"quick_check finds {after.damages} faults, {before.damages} before"
    if after.orphans > before.orphans:
        return f"foreign_key_check finds {after.orphans} rows, {before.orphans} before"
    return ""


def lost_rows(before: Facts, after: Facts) -> str:
    """Which tables have fewer rows than before, or ""."""
    lost = [
        f"{name}: {after.rows.get(name, 'no table')}, {count} rows before"
        for name, count in before.rows.items()
        if after.rows.get(name, 0) < count
    ]
    return "; ".join(lost[:4])
