"""How each user's last pairing went, for `status` and the doctor."""

import time
from typing import TypedDict

from t3flow.engine.journal import Journal
from t3flow.host.records import tables
from t3flow.host.records.tables import has_table


class LastPairing(TypedDict):
    """Since when (epoch seconds) a user's pairing goes as it does, and why it fails ("": it goes well)."""

    since: float
    reason: str


def note_pairing(journal: Journal, user: str, reason: str) -> None:
    """Note how a user's last pairing went ("" for well). Since when it goes so is kept. Not synced: the next pairing tells anew."""
    now = time.time()
    with tables.transaction(journal, synced=False) as connection:
        connection.execute(
            "insert into pairings values (?, ?, ?) on conflict (user) do update set reason = excluded.reason, "
            "since = case when (pairings.reason = '') = (excluded.reason = '') then pairings.since else excluded.since end",
            (user, now, reason),
        )
        connection.execute("insert or replace into pairing_checks values (?, ?)", (user, now))


def pairings(journal: Journal) -> dict[str, LastPairing]:
    """How the last pairing of each user went."""
    found = tables.rows(journal, "pairings", "pairing", "select user, since, reason from pairings")
    return {str(user): {"since": float(since), "reason": str(reason)} for user, since, reason in found}


def last_seen(journal: Journal) -> dict[str, float]:
    """Return when the last pairing of each user was (epoch seconds); those alone that this version or a later one noted."""
    if not has_table(journal, "pairing_checks"):
        return {}
    return {str(user): float(at) for user, at in journal.query("select user, at from pairing_checks")}
