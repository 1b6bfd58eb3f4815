"""What messages say: which ends of runs are worth one, and that no text carries what a terminal or a chat would obey."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from t3flow.engine.journal import Run
from t3flow.service.notifications import messages, told
from t3flow.settings.values import OCCASIONS
from t3flow.state.documents import Problem
from t3flow.state.problems import KINDS

SCHEMAS = Path(__file__).parents[3] / "docs/schemas"
NIGHTLY = "0.0.25-nightly.20260609.501"


def run_of(outcome: str, workflow: str = "bump", users: dict[str, str] | None = None, **args: Any) -> Run:
    results = {
        user: {"result": result, "version": NIGHTLY, "downtime_s": None, "reason": f"{user} had a reason"}
        for user, result in (users or {}).items()
    }
    found = {
        "reason": f"this is why it is {outcome}",
        "from": "0.0.24",
        "target": NIGHTLY,
        "users": results,
        "notices": [],
    }
    status = "succeeded" if outcome in ("updated", "up_to_date", "done") else "failed"
    now = time.time()
    return Run(
        f"{workflow}-20260609T040000-1fb35f",
        workflow,
        args,
        status,
        outcome,
        found,
        0,
        now,
        now,
        None,
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("run", "occasions"),
    [
        (run_of("up_to_date"), []),
        (run_of("refused_rejected"), []),
        (run_of("too_young"), []),
        (run_of("frozen"), []),
        (run_of("cancelled"), []),
        (run_of("dry_run_failed", dry_run=True), []),
        (run_of("error", dry_run=True), []),
        (run_of("updated", users={"ada": "restarted", "grace": "deferred"}), ["updated"]),
        (run_of("cancelled", users={"ada": "restarted"}), ["updated"]),
        (run_of("updated", users={"ada": "restarted", "grace": "failed"}), ["failed", "updated"]),
        (run_of("rolled_back", users={"ada": "rolled_back"}), ["rolled_back"]),
        (run_of("rolled_back", "bake"), ["rolled_back"]),
        (run_of("rolled_back", "rollback"), ["rolled_back"]),
        (run_of("gate_failed"), ["failed"]),
        (run_of("gate_inconclusive"), ["failed"]),
        (run_of("registry_unreachable"), ["failed"]),
        (run_of("error", "restore"), ["failed"]),
        (run_of("updated", "drain", user="ada"), ["updated"]),
        (run_of("up_to_date", "drain", user="ada"), []),
        (run_of("done", "bake"), []),
        (run_of("done", "adopt"), ["updated"]),
        (run_of("done", "adopt", dry_run=True), []),
        (run_of("done", "revive"), ["recovered"]),
    ],
)
def test_what_a_run_is_an_occasion_for(run: Run, occasions: list[str]) -> None:
    assert occasions == messages.occasions_of(run)
    assert set(occasions) <= set(OCCASIONS)


def test_a_message_of_a_run_says_what_why_and_what_to_run() -> None:
    users = {"ada": "restarted", "grace": "deferred", "linus": "rolled_back"}
    frozen = Problem(
        key="frozen", user=None, text="Frozen by bump-1fb35f: linus cannot pair", remedy="resume with: t3flow unfreeze"
    )
    run = run_of("rolled_back", users=users)
    message = messages.of_run(run, ["rolled_back", "frozen"], frozen=frozen, is_well_again=False)
    jsonschema.validate(message, json.loads((SCHEMAS / "message.json").read_text()))
    assert message["title"].endswith(f": {NIGHTLY} was rolled back")
    first, *_ = message["text"].splitlines()
    assert first == "bump-1fb35f ended as rolled_back: this is why it is rolled_back"
    for line in ("Restarted: ada", "Deferred: grace", "Rolled back: linus: linus had a reason"):
        assert line in message["text"].splitlines()
    assert "Frozen by bump-1fb35f: linus cannot pair; resume with: t3flow unfreeze" in message["text"]
    assert message["commands"] == [f"t3flow show {run.id}", "t3flow unfreeze"]
    assert message["text"].splitlines()[-1].startswith(f"{message['host']}, ")


def test_hundreds_of_users_fit_one_message() -> None:
    run = run_of("updated", users={f"user{number}": ("failed", "restarted")[number % 2] for number in range(300)})
    message = messages.of_run(run, ["failed"], frozen=None, is_well_again=False)
    assert len(message["text"]) < messages.MAX_TEXT + 100
    problem = Problem(key="unpaired", user="ada", text="x" * 400, remedy="try again with: t3flow verify ada")
    message = messages.of_problems("k", time.time(), [problem] * 300)
    assert "300 new problems" in message["title"]
    assert len(message["text"]) < messages.MAX_TEXT + 100


def test_no_text_carries_control_characters() -> None:
    hostile = "\x1b[2J\x07\r\u202e\u200b\u2028evil"
    run = run_of("error")
    run = dataclasses.replace(run, result={**run.result, "reason": f"{hostile}; {hostile}"})
    message = messages.of_run(run, ["failed"], frozen=None, is_well_again=False)
    assert (message["title"] + message["text"].replace("\n", "")).isprintable()


def test_each_kind_of_problem_is_told_or_left_out_for_a_reason() -> None:
    assert set(KINDS) == {*told.SETTLE_SECONDS, *told.NOT_TOLD}
    assert not set(told.SETTLE_SECONDS) & set(told.NOT_TOLD)
