"""Holds: an operator's orders to keep one user on their version. The table is created on the first write."""

import shlex
import time
from typing import NamedTuple

from t3flow.engine.journal import Journal
from t3flow.host.records import tables

HELD_BY = "held by "
"""Begins the reason of a user who is held, wherever it is recorded."""
TABLE = """
create table if not exists holds (user text primary key, since real not null, until real, reason text not null, by text not null) without rowid"""


class Hold(NamedTuple):
    """A hold of one user, since and until (epoch seconds; None: until released)."""

    user: str
    since: float
    until: float | None
    reason: str
    by: str

    @property
    def text(self) -> str:
        """Return who holds the user, until when and why, with the command that ends it."""
        until = f" until {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.until))}" if self.until else ""
        why = f" ({self.reason})" if self.reason else ""
        return f"{HELD_BY}{self.by}{until}{why}: t3flow release {shlex.quote(self.user)}"


def put(journal: Journal, user: str, until: float | None, reason: str, by: str) -> None:
    """Hold a user, or change the hold. Idempotent: `since` stays while the user is held."""
    now = time.time()
    with journal.transaction() as connection:
        connection.execute(TABLE)
        connection.execute("delete from holds where until <= ?", (now,))
        connection.execute(
            "insert into holds values (?, ?, ?, ?, ?) on conflict (user) do update set "
            "until = excluded.until, reason = excluded.reason, by = excluded.by",
            (user, now, until, reason, by),
        )


def drop(journal: Journal, user: str) -> bool:
    """End a user's hold; return whether there was one. Idempotent."""
    if user not in holds(journal):
        return False
    with journal.transaction() as connection:
        connection.execute("delete from holds where user = ?", (user,))
    return True


def holds(journal: Journal) -> dict[str, Hold]:
    """Return the users who are held now. A hold whose date has come is over."""
    if not tables.has_table(journal, "holds"):
        return {}
    rows = journal.query("select user, since, until, reason, by from holds order by user")
    now = time.time()
    return {row[0]: Hold(*row) for row in rows if row[2] is None or row[2] > now}


def reason(journal: Journal, user: str) -> str:
    """Return why a user is held, or ""."""
    found = holds(journal).get(user)
    return found.text if found is not None else ""
