"""Users whom a bump left on another version, and why: each of them has a deferral, which says from check to check what it waits for now.

The cause is kept beside the deferral until the user is moved, so that `status` can show it with its remedy. In a table of its own, made when first
written to: an earlier t3flow reads and writes the journal without it.
"""

import time
from typing import NamedTuple

from t3flow.engine.journal import Journal
from t3flow.host.records import tables

HELD = "held"
"""What a deferral waits for that only a person or a later bump moves: the drain does not on its own."""
FAILS_ALONE = "fails for"
"""What the detail of a user says from whom alone, as it seemed, a version was taken back."""
TABLE = """
create table if not exists left_behind (
    user text primary key, target text not null, waiting_for text not null, detail text not null, since real not null
) without rowid
"""


class Cause(NamedTuple):
    """Why a user was left behind by the move to `target`. `since`: seconds since the epoch."""

    target: str
    waiting_for: str
    detail: str
    since: float


def note(journal: Journal, user: str, target: str, waiting_for: str, detail: str) -> None:
    """Note why a user is not on `target`. Idempotent: since when the same target waits stays."""
    with journal.transaction() as connection:
        connection.execute(TABLE)
        connection.execute(
            "insert into left_behind values (?, ?, ?, ?, ?) on conflict (user) do update set "
            "since = case when target = excluded.target then since else excluded.since end, "
            "target = excluded.target, waiting_for = excluded.waiting_for, detail = excluded.detail",
            (user, target, waiting_for, detail, time.time()),
        )


def forget(journal: Journal, user: str) -> None:
    """Remove the note: the user was moved, or waits for something else. Idempotent."""
    if user in causes(journal):
        with journal.transaction() as connection:
            connection.execute("delete from left_behind where user = ?", (user,))


def causes(journal: Journal) -> dict[str, Cause]:
    """Return why which users were left behind."""
    if not tables.has_table(journal, "left_behind"):
        return {}
    rows = journal.query("select user, target, waiting_for, detail, since from left_behind order by since, user")
    return {row[0]: Cause(*row[1:]) for row in rows}


def why_held(journal: Journal, user: str, target: str) -> str:
    """Return why the drain does not move a user to `target` on its own, or ""."""
    cause = causes(journal).get(user)
    return cause.detail if cause is not None and (cause.target, cause.waiting_for) == (target, HELD) else ""


def taken_back(journal: Journal, version: str) -> list[str]:
    """Return the users from whom a version was taken back, each alone as it seemed."""
    return [
        user
        for user, cause in causes(journal).items()
        if (cause.target, cause.waiting_for) == (version, HELD) and cause.detail.startswith(f"{version} {FAILS_ALONE}")
    ]
