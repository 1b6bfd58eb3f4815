"""Single facts about the host, as JSON under a key, in the journal's file. What has a row for each user or version is a table: see `tables`."""

import json
from collections.abc import Callable
from typing import Any

from t3flow.engine.journal import Journal


def fact(journal: Journal, key: str) -> Any:
    """A single fact (JSON), or None."""
    rows = journal.query("select value from facts where key = ?", key)
    return json.loads(rows[0][0]) if rows else None


def change_fact(journal: Journal, key: str, change: Callable[[Any], Any], *, synced: bool = True) -> Any:
    """Makes of a fact (None when there is none) what `change` returns, in one transaction, and returns it; None removes the fact."""
    with journal.transaction(synced=synced) as connection:
        row = connection.execute("select value from facts where key = ?", (key,)).fetchone()
        value = change(json.loads(row[0]) if row else None)
        text = None if value is None else json.dumps(value)
        if text is None:
            connection.execute("delete from facts where key = ?", (key,))
        elif row is None or text != row[0]:
            connection.execute("insert or replace into facts values (?, ?)", (key, text))
    return value


def set_fact(journal: Journal, key: str, value: Any, *, synced: bool = True) -> None:
    """Writes a fact; None removes it."""
    change_fact(journal, key, lambda known: value, synced=synced)


def has_table(journal: Journal, table: str) -> bool:
    """Whether the journal's file has a table. One that came later is made when it is first written to."""
    return bool(journal.query("select 1 from sqlite_master where type = 'table' and name = ?", table))
