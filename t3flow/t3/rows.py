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
