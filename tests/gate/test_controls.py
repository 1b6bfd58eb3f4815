"""The controls of failed seeds run in parallel and within the gate's time limit."""

import json
import time
from collections.abc import Callable

import pytest
from judging import FIRST, TRIAL_SECONDS, Trials, judge, snapshot_of, users_of

from t3flow.gate import trials
from t3flow.gate.trials import Seed, empty_seed
from t3flow.host.host import Host


@pytest.fixture
def held(bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> Trials:
    return Trials(bare(), monkeypatch)


def seeds(count: int) -> list[Seed]:
    return [{**empty_seed(FIRST), "user": f"user{number}"} for number in range(count)]


def verdicts(asked: list[Seed], width: int, until: float) -> list[str]:
    return [each["verdict"] for each in trials.run_controls.unjournaled(asked, width, until)]


def test_they_are_held_side_by_side(held: Trials) -> None:
    """Six controls take the time of two, and no more run in parallel than trials of the version."""
    began = time.monotonic()
    assert verdicts(seeds(6), 3, time.time() + 60) == ["pass"] * 6
    assert time.monotonic() - began < 4 * TRIAL_SECONDS
    assert max(held.at_a_time) == 3


def test_what_would_begin_too_late_is_inconclusive(held: Trials) -> None:
    """All controls end at most one trial after the gate's time limit, however many there are."""
    began = time.monotonic()
    found = verdicts(seeds(40), 2, time.time() + 2.5 * TRIAL_SECONDS)
    assert time.monotonic() - began < 6 * TRIAL_SECONDS
    assert 4 <= found.count("pass") <= 8
    assert found.count("inconclusive") == 40 - found.count("pass")
    assert verdicts(seeds(2), 2, time.time() - 1) == ["inconclusive"] * 2


def test_what_is_slow_beside_others_is_tried_alone(held: Trials) -> None:
    """A control that fails only by its time would clear a bad version."""
    held.slow_at_first = {"user1"}
    assert verdicts(seeds(3), 3, time.time() + 60) == ["pass"] * 3
    assert held.at_a_time[-1] == 1


def test_without_a_slot_there_is_nothing_to_compare_with(held: Trials) -> None:
    asked: list[Seed] = [{**seed, "version": "0.0.1"} for seed in seeds(1)]
    [found] = trials.run_controls.unjournaled(asked, 1, time.time() + 60)
    assert (found["verdict"], "there is no slot of 0.0.1" in found["failed"]) == ("inconclusive", True)


@pytest.mark.parametrize(("fails_on", "outcome"), [(1, "passed"), (2, "gate_inconclusive"), (3, "gate_inconclusive")])
def test_a_candidate_that_fails_on_most_databases_does_not_pass_for_want_of_a_control(
    held: Trials, monkeypatch: pytest.MonkeyPatch, fails_on: int, outcome: str
) -> None:
    """No control ran because the slot of the version in use is missing, or the time limit has passed."""
    monkeypatch.setattr(trials, "_width", lambda host, size: 1)
    held.fails = {(f"user{number}", "0.0.25") for number in range(fails_on)}
    names = [f"user{number}" for number in range(3)]
    ended = judge(held.host, users_of(names, "0.0.1"), [snapshot_of(name) for name in names])
    assert ended.outcome == outcome, ended.result
    assert outcome != "passed" or [*json.loads(ended.result["reason"])] == ["user0"]
