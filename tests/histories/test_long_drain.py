"""A drain that tries for weeks: it continues as new, and polls when it would have."""

from pathlib import Path
from typing import Any

import pytest

from t3flow import workflows
from t3flow.deferrals.idleness import waiting_result
from t3flow.engine.engine import Engine
from t3flow.engine.flow import LONG_HISTORY_EVENTS
from t3flow.engine.history import CONTINUED
from t3flow.engine.journal import Journal
from t3flow.engine.queue import open_queue
from t3flow.engine.runs import new_run
from t3flow.engine.step import STEPS

TRIES = 100


def test_a_drain_that_tries_for_weeks_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 tries would leave 1,500 events, and each poll would replay them all."""
    asked: list[float] = []

    def await_idle(user: str, not_before: float) -> dict[str, Any]:
        asked.append(not_before)
        done = "they are on it" if len(asked) > TRIES else ""
        return {"nothing_to_do": done, "version": "0.0.24", "target": "0.0.25"}

    def recheck_deferral(user: str, former: str, target: str, in_window: bool) -> Any:
        return waiting_result(former, {"waiting_for": "active_turn", "detail": "at work", "at": 7.0})

    def note_wait(user: str, waiting_for: str, detail: str, ask_again: float) -> float:
        return float(len(asked))

    for function in (await_idle, recheck_deferral, note_wait):
        monkeypatch.setattr(STEPS[function.__name__], "function", function)
    monkeypatch.setattr(STEPS["settle_deferral"], "function", lambda user: None)
    engine = Engine(
        Journal(tmp_path / "journal.db", create=True),
        open_queue(f"sqlite://{tmp_path}/queue.db", b"k" * 32),
        workflows.WORKFLOWS,
    )
    run = new_run(engine.journal, "drain", {"user": "ada"})
    assert run is not None
    longest = 0
    while engine.journal.run(run).status == "running":
        engine.advance(run)
        longest = max(longest, len(engine.journal.events(run)))
    assert engine.journal.run(run).outcome == "up_to_date"
    assert asked == [float(number) for number in range(TRIES + 1)], "the time of the next poll is carried over"
    assert longest < LONG_HISTORY_EVENTS + 30
    assert next(event.data["times"] for event in engine.journal.events(run) if event.kind == CONTINUED) >= 3
