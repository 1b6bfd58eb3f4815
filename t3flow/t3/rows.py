"""Which rows a client must see: as the database holds them, and as the server's own read endpoint shows them.

A build once passed every cheaper check and could not decode real rows.
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
"""How a queued run ends without having been tried."""
EVENTS = "orchestration_events"
PROJECTS_TABLE, FIRST_THREADS, SECOND_THREADS = (
    "projection_projects",
    "projection_threads",
    "orchestration_v2_projection_threads",
)


def held(connection: sqlite3.Connection) -> dict[str, int]:
    """Return how many projects and threads a database holds that are neither deleted nor archived; what it has no table for is left out."""
    return {kind: len(ids) for kind, ids in present(connection).items()}


def present(connection: sqlite3.Connection) -> dict[str, set[str]]:
    """Return the ids of the projects and threads that are neither deleted nor archived; what there is no table for is left out."""
    threads = SECOND_THREADS if _has_rows(connection, SECOND_THREADS) else FIRST_THREADS  # previews had empty ones
    tables = {PROJECTS: (PROJECTS_TABLE, "project_id"), THREADS: (threads, "thread_id")}
    return {kind: _ids(connection, *where) for kind, where in tables.items() if has_table(connection, where[0])}


def _has_rows(connection: sqlite3.Connection, table: str) -> bool:
    return (
        has_table(connection, table) and connection.execute(f'select 1 from "{table}" limit 1').fetchone() is not None
    )


def newest_event(connection: sqlite3.Connection) -> int:
    """Return the number of the newest event of the first generations, 0 for none. A database that is made of another has no newer one."""
    if not has_table(connection, EVENTS):
        return 0
    return int(connection.execute(f"select max(sequence) from {EVENTS}").fetchone()[0] or 0)


def runs(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the status of each run by its id; none where the generation has no runs."""
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
"""How the tables start whose rows come and go with sessions, and are dropped between some levels."""

MOST_COUNTED, LONGEST_NAME = 500, 100


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Return table → rows of all tables that must not lose any: no sessions, no indexes for search, at most MOST_COUNTED."""
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
    """Return which tables have fewer rows than before, for people; "" if there are none."""
    fewer = [
        f"{name}: {after.get(name, 'no table')}, {count} rows before"
        for name, count in before.items()
        if after.get(name, 0) < count
    ]
    return "; ".join(fewer[:4])


class Reader(NamedTuple):
    """A read endpoint: its path, what of its answer holds the rows of each kind, and whether only an owner may read there."""

    path: str
    keys: dict[str, tuple[str, ...]]
    owner: bool


READERS = (
    Reader("/api/orchestration/shell", {PROJECTS: ("projects",), THREADS: ("threads", "archivedThreads")}, False),
    Reader("/api/orchestration/snapshot", {PROJECTS: ("projects",), THREADS: ("threads",)}, True),
)
"""Newest first. A server answers an endpoint that it does not have with 404 or with its page."""


def shown(get_object: Callable[[Reader], dict[str, Any] | None]) -> tuple[str, dict[str, int]]:
    """Return the read endpoint that a server offers and how many rows of each kind it shows.

    `get_object` returns the JSON object of an endpoint, or None where the server does not have it; for anything else it raises what it likes.
    Raises Unknown when no endpoint is there, or when one has another shape.
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
