"""Create, signal, and end runs: the writes to the journal that the command line and the engine share."""

import json
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from t3flow import T3flowError
from t3flow.engine.journal import Event, Journal, Run, append_event

HOST_LEASE = "host"
"""The name of the lease: only the run that has it may change the host."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the outcome's name, one line of reason, the run's status, and further JSON for its result."""

    name: str
    reason: str = ""
    status: str = "succeeded"
    data: dict[str, Any] = field(default_factory=dict)


class Abort(T3flowError):
    """Raised by a workflow to end its run with an outcome. The sagas that it leaves are undone."""

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
    """Journal a new run that is due at `wake_at` (epoch seconds, default now) and return its id. A hint starts it.

    Idempotent with a `run_id` of the caller's: return None if the journal has a run of that id.
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
    """Ask a run to handle a signal at its next safe point. Idempotent, and a no-op for a run that has ended, which retention would keep for ever."""
    with journal.transaction() as connection:
        connection.execute(
            "insert or ignore into signals select id, ?, ? from runs where id = ? and status = 'running'",
            (name, time.time(), run_id),
        )


def wake_run(journal: Journal, run_id: str) -> None:
    """Make a sleeping run due now; a hint starts it. One that is polling at the moment polls once more. Idempotent."""
    with journal.transaction() as connection:
        connection.execute(
            "update runs set wake_at = ? where id = ? and status = 'running' and wake_at is not null",
            (time.time(), run_id),
        )


def end_run(journal: Journal, run: Run, outcome: Outcome) -> Event:
    """Journal a run's end, and release its lease and signals, in one commit."""
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
