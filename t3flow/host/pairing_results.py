"""How each user's last pairing went, for `status` and the doctor."""

import time
from typing import TypedDict

from t3flow.engine.journal import Journal
from t3flow.host.records import tables


class LastPairing(TypedDict):
    """Since when (epoch seconds) a user's pairing goes as it does, and why it fails ("": it goes well)."""

    since: float
    reason: str


def note_pairing(journal: Journal, user: str, reason: str) -> None:
    """Notes how a user's last pairing went ("" for well); since when it goes so stays. Not synced: the next pairing tells anew."""
    with tables.transaction(journal, synced=False) as connection:
        connection.execute(
            "insert into pairings values (?, ?, ?) on conflict (user) do update set reason = excluded.reason, "
            "since = case when (pairings.reason = '') = (excluded.reason = '') then pairings.since else excluded.since end",
            (user, time.time(), reason),
        )


def pairings(journal: Journal) -> dict[str, LastPairing]:
    """How the last pairing of each user went."""
    found = tables.rows(journal, "pairings", "pairing", "select user, since, reason from pairings")
    return {str(user): {"since": float(since), "reason": str(reason)} for user, since, reason in found}
