"""What keeps a deferred user from being moved and will not end by itself: counted for each user and kind, said in the log, shown by `status`.

In a table of the journal's file that is made when first written to, so that an earlier t3flow still reads and writes the journal.
"""

import shlex
import time
from typing import NamedTuple

from t3flow.engine.journal import Journal
from t3flow.engine.log import logger
from t3flow.host.records import tables

MARK = "DEFERRAL STUCK"
"""The words that the alert T3DeferralStuck looks for in the log."""
TABLE = """
create table if not exists deferral_troubles (
    user text not null, kind text not null, count integer not null, since real not null, at real not null,
    detail text not null, said real not null, primary key (user, kind)
) without rowid"""
WRITTEN = "written"
"""The databases are written to while a snapshot of them takes long."""
DRAIN = "drain"
"""The deferral's run ended in an error."""
RESTART = "restart"
"""A restart failed for no fault of the version or of this user: others may meet it as well."""
OWN = "own"
"""A restart failed for this user's own fault alone, such as a configuration or a port."""
MANY = {WRITTEN: 3, DRAIN: 3, RESTART: 1, OWN: 1}
"""From how many times on a trouble of a kind is said."""
SAY_AGAIN_SECONDS = 86400.0
FORGOTTEN_SECONDS = 2 * 86400.0
"""A trouble that was not met for so long is over: the next one is counted from 1."""


class Trouble(NamedTuple):
    """A trouble of a user: how often it was met, since when and when last (epoch seconds), and what it is, for people."""

    user: str
    kind: str
    times: int
    since: float
    at: float
    detail: str

    @property
    def line(self) -> str:
        """The trouble with the command to run."""
        user = shlex.quote(self.user)
        often = f", {self.times} times so far" if self.times > 1 else ""
        mend = {
            WRITTEN: f"t3flow enqueue drain {user}",
            DRAIN: f"t3flow enqueue drain {user}",
            RESTART: "t3flow doctor",
            OWN: "t3flow doctor",
        }
        return f"{self.detail}{often}; {mend[self.kind]}"


def note(journal: Journal, user: str, kind: str, detail: str) -> int:
    """Count that a trouble was met once more and return how often by now; once that is many, say so in the log, once a day.

    Repeating it counts one more.
    """
    now = time.time()
    detail = " ".join(detail.split())
    with journal.transaction() as connection:
        connection.execute(TABLE)
        row = connection.execute(
            "select count, since, at, said from deferral_troubles where user = ? and kind = ?", (user, kind)
        ).fetchone()
        count, since, at, said = row or (0, now, now, 0.0)
        if now - at > FORGOTTEN_SECONDS:
            count, since, said = 0, now, 0.0
        count += 1
        is_said = count >= MANY[kind] and now - said > SAY_AGAIN_SECONDS
        connection.execute(
            "insert or replace into deferral_troubles values (?, ?, ?, ?, ?, ?, ?)",
            (user, kind, count, since, now, detail, now if is_said else said),
        )
    if is_said:
        logger.error("{}: {}", MARK, Trouble(user, kind, count, since, now, detail).line)
    return int(count)


def forget(journal: Journal, user: str, kind: str | None = None) -> None:
    """A user's troubles, or those of a kind, are over. Idempotent."""
    if tables.has_table(journal, "deferral_troubles"):
        with journal.transaction(synced=False) as connection:
            connection.execute(
                "delete from deferral_troubles where user = ? and kind = coalesce(?, kind)", (user, kind)
            )


def of_user(journal: Journal, user: str, kind: str) -> Trouble | None:
    """Return a user's trouble of a kind, however often it was met."""
    return next((each for each in _all(journal) if (each.user, each.kind) == (user, kind)), None)


def last_of_others(journal: Journal, user: str, kind: str) -> Trouble | None:
    """Return the trouble of a kind that another user met last."""
    return next((each for each in reversed(_all(journal)) if each.kind == kind and each.user != user), None)


def lines(journal: Journal) -> dict[str, str]:
    """Return the users whose troubles are to be said → the newest one's line."""
    return {each.user: each.line for each in _all(journal) if each.times >= MANY[each.kind]}


def _all(journal: Journal) -> list[Trouble]:
    if not tables.has_table(journal, "deferral_troubles"):
        return []
    rows = journal.query("select user, kind, count, since, at, detail from deferral_troubles order by at")
    return [Trouble(*row) for row in rows if row[1] in MANY]
