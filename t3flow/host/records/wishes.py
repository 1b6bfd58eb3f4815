"""What users wish for themselves by `t3flow me`: to be moved now, or not before a date. The table is created on the first write."""

import time
from typing import NamedTuple

from t3flow.engine.journal import Journal
from t3flow.host.records import tables

NOW, LATER, NONE = "now", "later", ""
TABLE = """
create table if not exists wishes (user text primary key, id text not null, kind text not null, at real not null, until real) without rowid"""


class Wish(NamedTuple):
    """The last wish of a user that was read. `kind`: now, later, or "" once it is over; `until` (epoch seconds) for later."""

    user: str
    id: str
    kind: str
    at: float
    until: float | None


def put(journal: Journal, user: str, wish_id: str, kind: str, until: float | None = None) -> None:
    """Record a wish in place of the former one. Idempotent."""
    with journal.transaction() as connection:
        connection.execute(TABLE)
        connection.execute(
            "insert or replace into wishes values (?, ?, ?, ?, ?)", (user, wish_id, kind, time.time(), until)
        )


def fulfill(journal: Journal, user: str) -> None:
    """End a user's wish to be moved now, as nothing is left to do. Its id stays known. Idempotent."""
    if wish_of(journal, user).kind == NOW:
        with journal.transaction() as connection:
            connection.execute("update wishes set kind = '' where user = ? and kind = ?", (user, NOW))


def wishes(journal: Journal) -> dict[str, Wish]:
    """Return user → wish. A date that has come ends one."""
    if not tables.has_table(journal, "wishes"):
        return {}
    rows = [Wish(*row) for row in journal.query("select user, id, kind, at, until from wishes")]
    now = time.time()
    return {row.user: row._replace(kind=NONE) if (row.until or now + 1) <= now else row for row in rows}


def wish_of(journal: Journal, user: str) -> Wish:
    """Return a user's wish, an empty one if there is none."""
    return wishes(journal).get(user) or Wish(user, "", NONE, 0.0, None)
