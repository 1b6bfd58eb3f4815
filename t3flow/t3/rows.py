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


def held(connection: sqlite3.Connection) -> dict[str, int]:
    """Return how many projects and threads a database holds that are neither deleted nor archived; what it has no table for is left out."""
    threads = "orchestration_v2_projection_threads" if has_table(connection, RUNS) else "projection_threads"
    tables = {PROJECTS: "projection_projects", THREADS: threads}
    return {kind: _present(connection, table) for kind, table in tables.items() if has_table(connection, table)}


def _present(connection: sqlite3.Connection, table: str) -> int:
    columns = {row[1] for row in connection.execute(f'pragma table_info("{table}")')}
    present = " and ".join(f"{column} is null" for column in GONE if column in columns) or "1"
    return int(connection.execute(f'select count(*) from "{table}" where {present}').fetchone()[0])


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
    """A read endpoint: its path, and what of its answer holds the rows of each kind."""

    path: str
    keys: dict[str, tuple[str, ...]]


READERS = (
    Reader("/api/orchestration/shell", {PROJECTS: ("projects",), THREADS: ("threads", "archivedThreads")}),
    Reader("/api/orchestration/snapshot", {PROJECTS: ("projects",), THREADS: ("threads",)}),
)
"""Newest first. A server answers an endpoint that it does not have with 404 or with its page."""


def shown(get_object: Callable[[str], dict[str, Any] | None]) -> tuple[str, dict[str, int]]:
    """Return the read endpoint that a server offers and how many rows of each kind it shows.

    `get_object` returns the JSON object at a path, or None for any other answer. Raises Unknown when no endpoint fits.
    """
    for reader in READERS:
        answer = get_object(reader.path)
        if answer is None or not any(
            isinstance(answer.get(key), list) for keys in reader.keys.values() for key in keys
        ):
            continue
        counts = {
            kind: sum(len(answer[key]) for key in keys if isinstance(answer.get(key), list))
            for kind, keys in reader.keys.items()
        }
        return reader.path, counts
    raise Unknown(f"this t3 has no read endpoint that is known: {', '.join(reader.path for reader in READERS)}")
