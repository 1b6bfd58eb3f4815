"""What the owner was told is wrong and was not yet told is over: a message about it is sent once, not every night."""

import sqlite3
from typing import NamedTuple

from t3flow.engine.journal import Journal


class Alert(NamedTuple):
    """What was told of a problem (key, user; "" for none), and since when (epoch seconds)."""

    key: str
    user: str
    since: float
    text: str


def open_alerts(journal: Journal) -> dict[tuple[str, str], Alert]:
    """Return the open alerts by key and user."""
    found = [
        Alert(*row) for row in journal.query("select key, user, since, text from alerts order by since, key, user")
    ]
    return {(each.key, each.user): each for each in found}


def put(connection: sqlite3.Connection, alert: Alert) -> None:
    """Record an alert within the caller's transaction. Idempotent."""
    connection.execute("insert or replace into alerts values (?, ?, ?, ?)", alert)


def close(connection: sqlite3.Connection, key: str, user: str) -> None:
    """Delete an alert within the caller's transaction. Idempotent."""
    connection.execute("delete from alerts where key = ? and user = ?", (key, user))
