"""The result of each user's last pairing, for `status` and `doctor`."""

import sqlite3
import time
from typing import TypedDict

from t3flow.engine.journal import Journal
from t3flow.host.records import tables
from t3flow.host.records.tables import has_table


class LastPairing(TypedDict):
    """The result of a user's last pairing: why it failed ("" for success), and since when that is so (epoch seconds)."""

    since: float
    reason: str


def note_pairing(journal: Journal, user: str, reason: str) -> None:
    """Record a pairing: why it failed, or "" for success. `since` changes only between the two. Not synced: the next pairing records it again."""
    note_pairings(journal, {user: reason})


def note_pairings(journal: Journal, reasons: dict[str, str]) -> None:
    """Record the pairings of many users (user → why it failed, "" for success) in one commit, as `note_pairing` does."""
    if not reasons:
        return
    now = time.time()
    with tables.transaction(journal, synced=False) as connection:
        for user, reason in reasons.items():
            _note(connection, user, reason, now)


def pairings(journal: Journal) -> dict[str, LastPairing]:
    """Return the result of each user's last pairing."""
    found = tables.rows(journal, "pairings", "pairing", "select user, since, reason from pairings")
    return {str(user): {"since": float(since), "reason": str(reason)} for user, since, reason in found}


def _note(connection: sqlite3.Connection, user: str, reason: str, now: float) -> None:
    connection.execute(
        "insert into pairings values (?, ?, ?) on conflict (user) do update set reason = excluded.reason, "
        "since = case when (pairings.reason = '') = (excluded.reason = '') then pairings.since else excluded.since end",
        (user, now, reason),
    )
    connection.execute("insert or replace into pairing_checks values (?, ?)", (user, now))


def last_seen(journal: Journal) -> dict[str, float]:
    """Return the time of each user's last pairing (epoch seconds). An older t3flow did not record it."""
    if not has_table(journal, "pairing_checks"):
        return {}
    return {str(user): float(at) for user, at in journal.query("select user, at from pairing_checks")}
