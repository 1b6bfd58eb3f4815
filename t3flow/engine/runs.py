"""Beginning, signalling and ending a run: what the command line and the engine both do to the journal."""

import json
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from t3flow import T3flowError
from t3flow.engine.journal import Event, Journal, Run, append_event

HOST_LEASE = "host"
"""The one lock: who has it may change the host."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its name, one line of reason, the run's status, and what else its result shows (JSON)."""

    name: str
    reason: str = ""
    status: str = "succeeded"
    data: dict[str, Any] = field(default_factory=dict)


class Abort(T3flowError):
    """Raised by a workflow to end its run with an outcome; sagas that it leaves on the way are undone."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


def new_run(
    journal: Journal,
    workflow: str,
    args: dict[str, Any],
    *,
    priority: int = 0,
    wake_at: float | None = None,
    run_id: str | None = None,
) -> str | None:
    """Journals a new run, to be woken at `wake_at` (epoch seconds; now), and returns its id; a hint makes it start.

    With a `run_id` of the caller's, a second run of that id is not made: then None.
    """
    now = time.time()
    run_id = run_id or f"{workflow}-{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    with journal.transaction() as connection:
        added = connection.execute(
            "insert or ignore into runs (id, workflow, args, priority, created, updated, wake_at) values (?, ?, ?, ?, ?, ?, ?)",
            (run_id, workflow, json.dumps(args), priority, now, now, now if wake_at is None else wake_at),
        )
        if added.rowcount == 0:
            return None
        append_event(connection, run_id, "created", None, None, {"args": args})
    return run_id


def send_signal(journal: Journal, run_id: str, name: str) -> None:
    """Asks a run to handle a signal at its next safe point. Sending it twice is harmless."""
    with journal.transaction() as connection:
        connection.execute("insert or ignore into signals values (?, ?, ?)", (run_id, name, time.time()))


def end_run(journal: Journal, run: Run, outcome: Outcome) -> Event:
    """Journals a run's end and frees what it held, in one commit."""
    result = {"reason": outcome.reason, **outcome.data}
    with journal.transaction() as connection:
        event = append_event(connection, run.id, "ended", None, None, {"outcome": outcome.name, **result})
        connection.execute(
            "update runs set status = ?, outcome = ?, result = ?, claim = null, wake_at = null, message = null where id = ?",
            (outcome.status, outcome.name, json.dumps(result), run.id),
        )
        connection.execute("delete from locks where run = ?", (run.id,))
        connection.execute("delete from signals where run = ?", (run.id,))
    return event
