"""Users whom a bump left on another version, and why. Each has a deferral that says from check to check what it waits for now.

The cause is kept beside the deferral until the user is moved, so that `status` can show it with its remedy. Its table is created on the first
write: an earlier t3flow reads and writes the journal without it.
"""

import time
from typing import NamedTuple

from t3flow.engine.journal import Journal
from t3flow.host.records import tables
from t3flow.host.records.holds import HELD_BY

HELD = "held"
"""What a deferral waits for if only an operator or a later bump moves the user."""
FAILS_ALONE = "fails for"
"""Begins, after the version, the detail of a user for whom alone the version seemed to fail."""
TABLE = """
create table if not exists left_behind (
    user text primary key, target text not null, waiting_for text not null, detail text not null, since real not null
) without rowid
"""


class Cause(NamedTuple):
    """Why a user was left behind by the move to `target`. `since`: epoch seconds."""

    target: str
    waiting_for: str
    detail: str
    since: float


def note(journal: Journal, user: str, version: str, waiting_for: str, detail: str) -> None:
    """Record why a user is not on the version. Idempotent: `since` stays for the same version."""
    with journal.transaction() as connection:
        connection.execute(TABLE)
        connection.execute(
            "insert into left_behind values (?, ?, ?, ?, ?) on conflict (user) do update set "
            "since = case when target = excluded.target then since else excluded.since end, "
            "target = excluded.target, waiting_for = excluded.waiting_for, detail = excluded.detail",
            (user, version, waiting_for, detail, time.time()),
        )


def forget(journal: Journal, user: str) -> None:
    """Remove the record: the user was moved, or waits for something else. Idempotent."""
    if user in causes(journal):
        with journal.transaction() as connection:
            connection.execute("delete from left_behind where user = ?", (user,))


def causes(journal: Journal) -> dict[str, Cause]:
    """Return each user who was left behind, with the cause."""
    if not tables.has_table(journal, "left_behind"):
        return {}
    rows = journal.query("select user, target, waiting_for, detail, since from left_behind order by since, user")
    return {row[0]: Cause(*row[1:]) for row in rows}


def held_reason(journal: Journal, user: str, version: str) -> str:
    """Return why a drain does not move a user to the version on its own, or "". A hold that an operator has ended does not count."""
    cause = causes(journal).get(user)
    is_stuck = cause is not None and (cause.target, cause.waiting_for) == (version, HELD)
    return cause.detail if cause is not None and is_stuck and not cause.detail.startswith(HELD_BY) else ""


def failing_alone(journal: Journal, version: str) -> list[str]:
    """Return the users from whom a version was taken because it seemed to fail for them alone."""
    return [
        user
        for user, cause in causes(journal).items()
        if (cause.target, cause.waiting_for) == (version, HELD) and cause.detail.startswith(f"{version} {FAILS_ALONE}")
    ]
