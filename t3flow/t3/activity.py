"""Is anybody at work: read from the live database, by the tables that are found in it.

One function a generation. A database with none of their tables is unknown, and nobody may be called idle by it.
"""

import json
import sqlite3
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from t3flow.t3.ledger import has_table
from t3flow.t3.unknown import Unknown, keeps_its_work

AHEAD_SECONDS = 5.0
MISSED_SECONDS = 60.0
ACTIVE_TURN, QUEUED_WORK = "active_turn", "queued_work"
"""Kinds of work, by the interface's names."""


@dataclass(frozen=True)
class Work:
    """One piece of work. `since` (seconds since the epoch): dead if older than the running server; None: alive whatever its age."""

    kind: str
    detail: str
    since: float | None = None


@dataclass(frozen=True)
class Activity:
    """What a database says about work, in seconds since the epoch, or None.

    `newest`: its newest change up to now; `ahead`: the newest of those that are ahead of the present clock, which was set meanwhile; `due`: when
    the next scheduled task starts. One that was due long ago was missed, and is none.
    """

    work: list[Work] = field(default_factory=list)
    newest: float | None = None
    due: float | None = None
    ahead: float | None = None


class UnreadableTime(Unknown):
    """A time in the database is not one."""


def read(connection: sqlite3.Connection, name: str) -> Activity:
    """Return the activity that a live database shows. `name` is its file's. Raises Unknown, sqlite3.Error.

    All tables that are found count: previews left those of a later generation in databases that an earlier one goes on with, and a later one
    keeps the earlier one's, in which every turn is older than its server.
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


# Until 0.0.45: a session a thread, whose turn is active or not ------------------------------------------------------

SESSIONS = "projection_thread_sessions"


def read_sessions(connection: sqlite3.Connection) -> Activity:
    """A turn is active while `active_turn_id` is set; `updated_at` moves only when a turn begins or ends.

    A server that is stopped in mid-turn leaves the row as it is: the turn is dead once a later server runs.
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
    """A run is live until it has ended, approvals that wait for the user included. A queued one starts by itself unless its queue is held.

    The server cancels what a killed one has left about a second after its start, so that what is live is alive whatever its age.
    """
    work: list[Work] = []
    moments: list[float] = []
    for status, requested, completed, payload in connection.execute(
        f"select status, requested_at, completed_at, payload_json from {RUNS}"
    ):
        said = _payload(payload)
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
    """Return the newest moment up to now and the newest of those ahead. One ahead hides nothing that was written since."""
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
