"""Whether an agent is working, read from the tables of the live database.

Each generation has one function. A database with none of their tables is unknown, and t3flow never treats its user as idle.
"""

import json
import sqlite3
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from t3flow.t3.ledger import has_table
from t3flow.t3.unknown import Unknown, keeps_its_work

AHEAD_SECONDS = 5.0
MISSED_SECONDS = 60.0
ACTIVE_TURN, QUEUED_WORK = "active_turn", "queued_work"
"""Kinds of work, as `waiting_for` names them."""


class Work(NamedTuple):
    """One piece of work. It is dead if `since` (epoch seconds) is older than the running server; None means alive at any age."""

    kind: str
    detail: str
    since: float | None = None


class Activity(NamedTuple):
    """The work that a database shows, with times in epoch seconds or None.

    `newest` is the newest change up to now, and `ahead` the newest one in the future (after the clock was set back). `due` is the start of the
    next scheduled task; a task that was due long ago was missed and does not count.
    """

    work: Sequence[Work] = ()
    newest: float | None = None
    due: float | None = None
    ahead: float | None = None


class UnreadableTime(Unknown):
    """A timestamp in the database cannot be parsed."""


def read(connection: sqlite3.Connection, name: str) -> Activity:
    """Return the activity that a live database shows; `name` is the file's name. Raises Unknown, sqlite3.Error.

    All known tables count: previews left a later generation's tables in databases that an earlier one still uses, and a later generation keeps
    the earlier tables, in which every turn is older than the server.
    """
    readers = {RUNS: read_runs, SESSIONS: read_sessions}
    found = [read_table(connection) for table, read_table in readers.items() if has_table(connection, table)]
    if not found:
        raise keeps_its_work(f"{name} has neither the table {RUNS} nor {SESSIONS}")
    return Activity(
        work=[work for each in found for work in each.work],
        newest=max((each.newest for each in found if each.newest is not None), default=None),
        due=min((each.due for each in found if each.due is not None), default=None),
        ahead=max((each.ahead for each in found if each.ahead is not None), default=None),
    )


# Until 0.0.45: one session for each thread, with or without an active turn ------------------------------------------------------

SESSIONS = "projection_thread_sessions"


def read_sessions(connection: sqlite3.Connection) -> Activity:
    """Return the activity of sessions. A turn is active while `active_turn_id` is set; `updated_at` changes only when a turn begins or ends.

    A server that is stopped during a turn leaves the row unchanged; the turn is dead once a later server runs.
    """
    rows = connection.execute(f"select active_turn_id, updated_at from {SESSIONS}").fetchall()
    moments = [(turn is not None, seconds(updated)) for turn, updated in rows]
    newest, ahead = _newest([moment for _, moment in moments])
    return Activity(
        work=[Work(ACTIVE_TURN, "a turn is running", moment) for active, moment in moments if active],
        newest=newest,
        ahead=ahead,
    )


# From October 2026 on: runs, effects and scheduled tasks ------------------------------------------------------------

RUNS, EFFECTS, TASKS = "orchestration_v2_projection_runs", "orchestration_v2_effect_outbox", "scheduled_tasks"
LIVE = ("preparing", "starting", "running", "waiting")
ENDED = ("completed", "interrupted", "failed", "cancelled", "rolled_back")
QUEUED, HELD_KEY = "queued", "queueHeld"


def read_runs(connection: sqlite3.Connection) -> Activity:
    """Return the activity of runs. A run is live until it ends, also while it waits for approval.

    A queued run starts by itself unless its queue is held. About a second after its start, a server cancels the runs that a killed
    server left, so a live run counts at any age.
    """
    work: list[Work] = []
    moments: list[float] = []
    ended = ", ".join(f"'{status}'" for status in ENDED)
    for status, requested, completed, payload in connection.execute(
        "select status, requested_at, completed_at, "  # a year has so many ended runs that parsing all would take longer than a read may
        f"case when status in ({ended}) and completed_at is not null then null else payload_json end from {RUNS}"
    ):
        said = {} if status in ENDED and completed is not None else _payload(payload)
        moments += [seconds(text) for text in (requested, completed, said.get("startedAt")) if text is not None]
        if status in LIVE:
            work.append(Work(ACTIVE_TURN, f"a run is {status}"))
        elif status == QUEUED:
            if said.get(HELD_KEY) is not True:
                work.append(Work(QUEUED_WORK, "a run is queued"))
        elif status not in ENDED:
            raise keeps_its_work(f"a run of the status {str(status)[:40]!r}")
    if has_table(connection, EFFECTS):
        for status, updated in connection.execute(f"select status, updated_at from {EFFECTS}"):
            moments.append(seconds(updated))
            if status in ("pending", "running"):
                work.append(Work(QUEUED_WORK, f"an effect is {status}"))
    due = None
    if has_table(connection, TASKS):
        planned = connection.execute(f"select next_run_at from {TASKS} where enabled and next_run_at is not null")
        times = [seconds(text) for (text,) in planned]
        due = min((moment for moment in times if moment > time.time() - MISSED_SECONDS), default=None)
    newest, ahead = _newest(moments)
    return Activity(work, newest, due, ahead)


def _newest(moments: list[float]) -> tuple[float | None, float | None]:
    """Return the newest moment up to now and the newest future one. A future moment does not hide later writes."""
    now = time.time() + AHEAD_SECONDS
    past, ahead = [each for each in moments if each <= now], [each for each in moments if each > now]
    return max(past, default=None), max(ahead, default=None)


def _payload(text: Any) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise keeps_its_work("a run whose payload is no JSON object")
    return said


def seconds(text: Any) -> float:
    """Return the seconds since the epoch of a time as t3 writes it. Raises UnreadableTime."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError(text)
        return moment.timestamp()
    except (TypeError, ValueError, OverflowError) as error:
        raise UnreadableTime(f"a time in the database cannot be read: {str(text)[:40]!r}") from error
