"""What a run does at this moment, as `status` and `runs` say it."""

import time
from pathlib import Path
from typing import Any

import pytest

from t3flow.engine.journal import Journal, append_event
from t3flow.engine.runs import new_run
from t3flow.state.runs import activity, asked_for


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.db", create=True)


def run_with(journal: Journal, workflow: str, args: dict[str, Any], *events: tuple[Any, ...], **columns: Any) -> str:
    """Return a run with these events, and its row set so."""
    run = new_run(journal, workflow, args)
    assert run is not None
    with journal.transaction() as connection:
        for kind, step, data in events:
            append_event(connection, run, kind, step, 1, data)
        for name, value in columns.items():
            connection.execute(f"update runs set {name} = ? where id = ?", (value, run))
    return activity(journal, journal.run(run))


def started(step: str, *args: Any) -> tuple[str, str, dict[str, Any]]:
    return "started", step, {"args": list(args), "kwargs": {}}


def test_a_step_in_flight_is_told_in_the_present(journal: Journal) -> None:
    """With how long it takes, once that is long."""
    seeds = [{"user": "ada"}, {"user": "grace"}]
    event = started("run_trials", "/slot", "0.0.25", seeds, 2, 0.0)
    assert run_with(journal, "bump", {}, event, claim="x/1") == "Gate: trying 0.0.25 on 2 databases"
    with journal.transaction() as connection:
        connection.execute("update events set at = at - 125 where kind = 'started'")
    [run] = journal.runs("workflow = 'bump'")
    assert activity(journal, run) == "Gate: trying 0.0.25 on 2 databases (2 min)"


def test_a_run_that_waits_says_for_what(journal: Journal) -> None:
    """The host, an idle user, the registry; and when it looks again."""
    assert run_with(journal, "bump", {}, wake_at=None) == "Waiting for another run to release the host"
    waiting = ("waiting", "await_idle", {"checks": 3, "waiting_for": "active_turn"})
    told = run_with(journal, "drain", {"user": "ada"}, waiting, wake_at=time.time() + 601)
    assert told.startswith("Waiting until ada is idle: a turn is running; next check in 10 min (")
    told = run_with(journal, "drain", {"user": "ada"}, waiting, wake_at=time.time() - 40)
    assert told == "Waiting until ada is idle: a turn is running; next check now"
    registry = ("waiting", "await_registry", {"checks": 1, "waiting_for": "E404; tried again at 04:37"})
    told = run_with(journal, "bump", {}, registry, wake_at=time.time() + 60)
    assert told.startswith("Waiting for the registry: E404; tried again at 04:37; next check in ")
    assert run_with(journal, "drain", {"user": "ada"}, held="frozen") == "Waiting: tracking is frozen"


def test_what_a_run_was_asked_for(journal: Journal) -> None:
    """Without what was not asked for, and without an epoch."""
    run = new_run(
        journal, "bump", {"target": None, "again": True, "without": ["ada", "bob"], "dry_run": False, "due": 1.8e9}
    )
    assert run is not None
    told = asked_for(journal.run(run))
    assert told.startswith("; again, without ada and bob, scheduled for 20")
    assert "1800000000" not in told
    assert "None" not in told
