"""Single facts about the host: one JSON value for each key, in the journal's file. Data of each user or version has a table: see `tables.py`."""

import json
import sqlite3
from collections.abc import Callable
from typing import Any

from t3flow.engine.journal import Journal

UNKNOWN_T3 = "unknown"
"""Fact: users whose t3 is of an unknown generation → [since (epoch seconds), what t3flow does not know about it]."""

DEFERRAL_CAUSES = "deferral_causes"
"""Fact: deferred user → the wait for the present cause (`deferrals/long_waits.py`)."""
BAKE = "bake"
"""Fact: the watch of real pairings after a version was assigned; see `rollout/bake.py`."""
BAKE_CUT_SHORT = "bake_cut_short"
"""Fact: the versions whose last watch ended without a verdict; see `bakes.py`."""


def read(journal: Journal, key: str) -> Any:
    """Return the value of a fact, or None if there is no such fact."""
    rows = journal.query("select value from facts where key = ?", key)
    return json.loads(rows[0][0]) if rows else None


def change(journal: Journal, key: str, function: Callable[[Any], Any], *, synced: bool = True) -> Any:
    """Replace a fact with the result of `function`, which gets the present value or None. Return the new value; None removes the fact.

    Reading and writing are one transaction.
    """
    with journal.transaction(synced=synced) as connection:
        row = connection.execute("select value from facts where key = ?", (key,)).fetchone()
        value = function(json.loads(row[0]) if row else None)
        text = None if value is None else json.dumps(value)
        if text is None:
            connection.execute("delete from facts where key = ?", (key,))
        elif row is None or text != row[0]:
            connection.execute("insert or replace into facts values (?, ?)", (key, text))
    return value


def put(connection: sqlite3.Connection, key: str, value: Any) -> None:
    """Write a fact within the caller's transaction."""
    connection.execute("insert or replace into facts values (?, ?)", (key, json.dumps(value)))


def write(journal: Journal, key: str, value: Any, *, synced: bool = True) -> None:
    """Write a fact; None removes it."""
    change(journal, key, lambda known: value, synced=synced)
