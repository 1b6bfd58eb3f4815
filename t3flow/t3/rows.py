"""The rows that a client must see: as the database stores them, and as the server's read endpoint shows them.

This check exists because a build once passed every cheaper check and could not decode real rows.
"""

import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple

from t3flow.t3.activity import RUNS
from t3flow.t3.ledger import has_table
from t3flow.t3.unknown import Unknown

PROJECTS, THREADS = "projects", "threads"
GONE = ("deleted_at", "archived_at")
DROPPED = ("cancelled", "interrupted", "rolled_back")
"""Statuses of a queued run that ended without being tried."""
EVENTS = "orchestration_events"
PROJECTS_TABLE, FIRST_THREADS, SECOND_THREADS = (
    "projection_projects",
    "projection_threads",
    "orchestration_v2_projection_threads",
)


def held(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the numbers of projects and threads that are neither deleted nor archived. Kinds without a table are left out."""
    return {kind: len(ids) for kind, ids in present(connection).items()}


def present(connection: sqlite3.Connection) -> dict[str, set[str]]:
    """Return the ids of the projects and threads that are neither deleted nor archived. Kinds without a table are left out."""
    threads = SECOND_THREADS if _has_rows(connection, SECOND_THREADS) else FIRST_THREADS  # previews had empty ones
    tables = {PROJECTS: (PROJECTS_TABLE, "project_id"), THREADS: (threads, "thread_id")}
    return {kind: _ids(connection, *where) for kind, where in tables.items() if has_table(connection, where[0])}


def _has_rows(connection: sqlite3.Connection, table: str) -> bool:
    return (
        has_table(connection, table) and connection.execute(f'select 1 from "{table}" limit 1').fetchone() is not None
    )


def newest_event(connection: sqlite3.Connection) -> int:
    """Return the number of the newest event of the first generations, or 0. A database created from another one has no newer event."""
    if not has_table(connection, EVENTS):
        return 0
    return int(connection.execute(f"select max(sequence) from {EVENTS}").fetchone()[0] or 0)


def runs(connection: sqlite3.Connection) -> dict[str, str]:
    """Return run id → status; empty for generations without runs."""
    if not has_table(connection, RUNS):
        return {}
    return {str(run): str(status) for run, status in connection.execute(f"select run_id, status from {RUNS}")}


def _ids(connection: sqlite3.Connection, table: str, key: str) -> set[str]:
    columns = {row[1] for row in connection.execute(f'pragma table_info("{table}")')}
    there = " and ".join(f"{column} is null" for column in GONE if column in columns) or "1"
    return {
        str(row[0])
        for row in connection.execute(f'select {key if key in columns else "rowid"} from "{table}" where {there}')
    }


AUTH_TABLES = "auth_"
"""Prefix of tables whose rows come and go with sessions. Some migrations drop them."""

MOST_COUNTED, LONGEST_NAME = 500, 100


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Return table → row count for tables that must not lose rows: no sessions, no search indexes, at most MOST_COUNTED tables."""
    tables = {
        str(name): str(sql or "")
        for name, sql in connection.execute("select name, sql from sqlite_master where type = 'table' order by name")
    }
    virtual = [name for name, sql in tables.items() if sql.lower().startswith("create virtual")]
    counted = [
        name
        for name in tables
        if not name.startswith(("sqlite_", AUTH_TABLES, *virtual)) and len(name) <= LONGEST_NAME and name.isprintable()
    ]
    return {name: _count(connection, name) for name in counted[:MOST_COUNTED]}


def _count(connection: sqlite3.Connection, table: str) -> int:
    quoted = table.replace('"', '""')
    return int(connection.execute(f'select count(*) from "{quoted}"').fetchone()[0])


def lost(before: dict[str, int], after: dict[str, int]) -> str:
    """Return a description of the tables that have fewer rows than before, or ""."""
    fewer = [
        f"{name}: {after.get(name, 'no table')}, {count} rows before"
        for name, count in before.items()
        if after.get(name, 0) < count
    ]
    return "; ".join(fewer[:4])


class Reader(NamedTuple):
    """A read endpoint: its path, the keys that hold the rows of each kind, and whether it requires an owner's token."""

    path: str
    keys: dict[str, tuple[str, ...]]
    owner: bool


READERS = (
    Reader("/api/orchestration/shell", {PROJECTS: ("projects",), THREADS: ("threads", "archivedThreads")}, False),
    Reader("/api/orchestration/snapshot", {PROJECTS: ("projects",), THREADS: ("threads",)}, True),
)
"""Newest first. A server answers an unknown endpoint with 404 or with its start page."""


def shown(get_object: Callable[[Reader], dict[str, Any] | None]) -> tuple[str, dict[str, int]]:
    """Return the path of the server's read endpoint and the number of rows of each kind that it shows.

    `get_object` returns the JSON object of an endpoint, or None if the server does not have it; it may raise any other error. Raises Unknown
    if no endpoint exists or one has an unknown shape.
    """
    for reader in READERS:
        answer = get_object(reader)
        if answer is None:
            continue
        if not any(isinstance(answer.get(key), list) for keys in reader.keys.values() for key in keys):
            raise Unknown(
                f"this t3 shows its rows in a way that this t3flow does not know: GET {reader.path} has no list"
            )
        counts = {
            kind: sum(len(answer[key]) for key in keys if isinstance(answer.get(key), list))
            for kind, keys in reader.keys.items()
        }
        return reader.path, counts
    raise Unknown(
        f"this t3 shows its rows in a way that this t3flow does not know: it has neither {' nor '.join(reader.path for reader in READERS)}"
    )
