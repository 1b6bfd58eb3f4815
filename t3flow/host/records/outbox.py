"""The outbox: messages to the owner, journaled until each channel has taken them or a bound is reached, and the state of each channel.

`news` has each run that began or ended since messages were last derived. Triggers of the journal write it in the transaction of the run itself, so
no end of a run is lost by a kill. The transaction that deletes news inserts the messages that follow from it: each is derived exactly once.
A message that was sent is deleted in the commit after the send; a kill in between sends it again, with the same key.
"""

import json
import sqlite3
import time
from dataclasses import dataclass
from typing import Any

from t3flow.engine.journal import Journal
from t3flow.host.records import tables

MAX_WAITING = 200
"""Messages that wait for one channel. Further ones push out the oldest."""
MAX_DEAD = 50
"""Dead letters that are kept for one channel."""
DEAD_DAYS = 14
KEEP_TRYING_SECONDS = 3 * 86400.0
"""After so long without success, a message becomes a dead letter."""
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 5.0, 3600.0


@dataclass(frozen=True)
class Letter:
    """A message on its way to a channel. `key` is the same in each attempt; times are epoch seconds."""

    id: int
    key: str
    channel: str
    document: dict[str, Any]
    at: float
    attempts: int


@dataclass(frozen=True)
class News:
    """A run that `what` (began or ended) at a time."""

    id: int
    run: str
    what: str
    at: float


@dataclass(frozen=True)
class ChannelState:
    """How a channel fares: its name without secrets, counts, and since when and why it fails. `dead`: dead letters since the last success."""

    name: str
    shown: str
    sent: int
    failed: int
    sent_at: float | None
    failing_since: float | None
    cause: str
    dead: int


def news(journal: Journal, after: int = 0) -> list[News]:
    """Return the runs that began or ended since messages were last derived, oldest first, from the one after number `after`."""
    rows = journal.query("select id, about, what, at from news where id > ? order by id limit 100", after)
    return [News(*row) for row in rows]


def has_news(journal: Journal, run: str) -> bool:
    """Return whether messages are yet to be derived from a run's beginning or end."""
    return bool(journal.query("select 1 from news where about = ? limit 1", run))


def forget_news(connection: sqlite3.Connection, item: News) -> bool:
    """Delete news within the caller's transaction; return False if another process has done so."""
    return connection.execute("delete from news where id = ?", (item.id,)).rowcount == 1


def put(connection: sqlite3.Connection, key: str, channels: list[str], document: dict[str, Any], at: float) -> None:
    """Insert a message for each channel within the caller's transaction. Idempotent by key and channel."""
    for channel in channels:
        connection.execute(
            "insert or ignore into outbox (key, channel, document, at, next_try) values (?, ?, ?, ?, ?)",
            (key, channel, json.dumps(document), at, time.time()),
        )
        oldest = connection.execute(
            "select id from outbox where channel = ? and dead is null order by id desc limit -1 offset ?",
            (channel, MAX_WAITING),
        ).fetchall()
        for (letter,) in oldest:
            _bury(connection, int(letter), channel)


def due(journal: Journal, channel: str, now: float) -> Letter | None:
    """Return the message that a channel is to send next, or None. A time beyond the longest pause comes from a clock that was set: it is due."""
    rows = journal.query(
        "select id, key, channel, document, at, attempts from outbox "
        "where channel = ? and dead is null and (next_try <= ? or next_try > ?) order by attempts, id limit 1",
        channel,
        now,
        now + 2 * LONGEST_RETRY_SECONDS,
    )
    return next((Letter(*(*row[:3], json.loads(row[3]), *row[4:])) for row in rows), None)


def note_sent(journal: Journal, channel: str, shown: str, letter: Letter | None = None) -> None:
    """Record that a channel has taken a message, and delete that message. Whatever waits for the channel becomes due. Idempotent."""
    with journal.transaction() as connection:
        _open(connection, channel, shown)
        if letter is not None:
            connection.execute("delete from outbox where id = ? and key = ?", (letter.id, letter.key))
        connection.execute(
            "update channels set sent = sent + 1, sent_at = ?, failing_since = null, cause = '', dead = 0 where name = ?",
            (time.time(), channel),
        )
        connection.execute(
            "update outbox set next_try = 0 where channel = ? and dead is null and attempts > 0", (channel,)
        )


def note_failure(journal: Journal, channel: str, shown: str, cause: str, letter: Letter | None = None) -> None:
    """Record that a channel did not take a message, push the message forward with backoff, or make it a dead letter when it is too old."""
    now = time.time()
    with journal.transaction(synced=False) as connection:  # a power cut costs one attempt more
        _open(connection, channel, shown)
        connection.execute(
            "update channels set failed = failed + 1, failing_since = coalesce(failing_since, ?), cause = ? where name = ?",
            (now, cause, channel),
        )
        if letter is None:
            return
        pause = min(FIRST_RETRY_SECONDS * 2 ** min(letter.attempts, 20), LONGEST_RETRY_SECONDS)
        connection.execute(
            "update outbox set attempts = attempts + 1, next_try = ? where id = ?", (now + pause, letter.id)
        )
        if now - letter.at > KEEP_TRYING_SECONDS:
            _bury(connection, letter.id, channel)


def drop(journal: Journal, letter: Letter) -> None:
    """Delete a message that is no longer worth sending. Idempotent."""
    with journal.transaction(synced=False) as connection:
        connection.execute("delete from outbox where id = ? and key = ?", (letter.id, letter.key))


def _bury(connection: sqlite3.Connection, letter: int, channel: str) -> None:
    """Make a message a dead letter, and keep the newest dead letters of the channel only."""
    connection.execute("update outbox set dead = ? where id = ? and dead is null", (time.time(), letter))
    connection.execute("update channels set dead = dead + 1 where name = ?", (channel,))
    connection.execute(
        "delete from outbox where channel = ? and dead is not null and (dead < ? or id not in "
        "(select id from outbox where channel = ? and dead is not null order by id desc limit ?))",
        (channel, time.time() - DEAD_DAYS * 86400, channel, MAX_DEAD),
    )


def _open(connection: sqlite3.Connection, channel: str, shown: str) -> None:
    connection.execute(
        "insert into channels (name, shown) values (?, ?) on conflict (name) do update set shown = excluded.shown",
        (channel, shown),
    )


def keep_channels(journal: Journal, channels: dict[str, str]) -> None:
    """Record the channels that the settings name (name → how it is shown), and drop others with what waits for them. Idempotent."""
    with tables.transaction(journal) as connection:
        for name, shown in channels.items():
            _open(connection, name, shown)
        listed = ", ".join("?" * len(channels))
        connection.execute(f"delete from channels where name not in ({listed})", tuple(channels))
        connection.execute(f"delete from outbox where channel not in ({listed})", tuple(channels))


def channels(journal: Journal) -> list[ChannelState]:
    """Return the state of each channel, by name."""
    if not tables.has_table(journal, "channels"):
        return []
    rows = journal.query(
        "select name, shown, sent, failed, sent_at, failing_since, cause, dead from channels order by name"
    )
    return [ChannelState(*row) for row in rows]


def waiting(journal: Journal) -> dict[str, int]:
    """Return how many messages wait for each channel."""
    if not tables.has_table(journal, "outbox"):
        return {}
    rows = journal.query("select channel, count(*) from outbox where dead is null group by channel")
    return {str(channel): int(count) for channel, count in rows}


def next_beat(journal: Journal, channel: str) -> float:
    """Return when the next heartbeat of a channel is due; 0.0 for at once."""
    rows = journal.query("select coalesce(next_beat, 0.0) from channels where name = ?", channel)
    return float(rows[0][0]) if rows else 0.0


def plan_beat(journal: Journal, channel: str, at: float) -> None:
    """Record when the next heartbeat of a channel is due."""
    with journal.transaction(synced=False) as connection:
        connection.execute("update channels set next_beat = ? where name = ?", (at, channel))
