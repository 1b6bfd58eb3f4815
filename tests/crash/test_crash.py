"""Kill the consumer and check the result from outside. The full sweep is a separate command: tests/crash/sweep.py."""

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
from plays import attempt
from rig import BUSY, IDLE, Rig
from sweep import anywhere, dice_of_the_hour, run_tasks
from takeover import TAKEOVERS
from verbs import RESTORES, ROLLBACKS

from t3flow.engine.flow import MAX_CRASHES
from t3flow.host import freeze
from t3flow.host.records import deferral_records

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the tracer knows the numbers of system calls of x86-64 alone"
)
VERB_SECONDS = 25.0


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


@pytest.mark.parametrize("names", [(*ROLLBACKS, *RESTORES), tuple(TAKEOVERS)], ids=["back", "takeover"])
def test_verbs_are_killed_anywhere(names: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kill rollbacks, restores, adoptions and their undo at as many points as fit into the time; the points change each hour."""
    tasks = anywhere(dice_of_the_hour(), names, 5)
    assert run_tasks(tasks, 1, tmp_path, VERB_SECONDS) == 0, capsys.readouterr().out


@pytest.mark.parametrize("numbers", [range(1, 11), range(12, 60, 4), range(14, 60, 4)], ids=["early", "late", "later"])
def test_cancelled_at_each_step(rig: Rig, numbers: range) -> None:
    """A cancel before the first restart changes nothing; after it, no further user is restarted; after the last, it is too late."""
    outcomes = []
    for number in numbers:
        found = attempt(rig, "cancel", [], cancel_at=number)
        assert not found.wrong, (number, found.wrong)
        outcomes.append(found.outcome)
        if outcomes[-2:] == ["updated"] * 2:
            break
    if numbers.start == 1:
        assert outcomes == ["cancelled"] * len(numbers), outcomes
    else:
        assert outcomes == sorted(outcomes), "once it is too late, it stays so"
        assert set(outcomes) == {"cancelled", "updated"}


@pytest.mark.parametrize(
    ("step", "outcome", "words"),
    [
        ("resolve", "error", "Checking that "),
        ("back_up_users", "error", "Backing up "),
        ("run_trials", "error", "Gate: trying "),
        ("stop_if_idle", "rolled_back", "Stopping the server of "),
        ("verify_user", "rolled_back", "Verifying that "),
    ],
)
def test_a_step_that_kills_the_consumer_is_given_up(rig: Rig, step: str, outcome: str, words: str) -> None:
    """After MAX_CRASHES deaths without progress, the run is compensated, tracking is frozen, and the reason is reported."""
    run = rig.begin("bump", {"target": rig.publish(31)})
    rig.box.environment["T3CRASH_DIE_IN"] = step
    deaths = 0
    while True:
        rig.consumer()
        child = rig.box.processes["consumer"]
        rig.box.until(lambda child=child: rig.over(run) or child.poll() is not None, "it dies or ends")
        if rig.over(run):
            break
        deaths += 1
        assert deaths <= 2 * MAX_CRASHES, "an endless loop"
    ended = rig.journal.run(run)
    assert ended.outcome == outcome, ended.result
    assert deaths == MAX_CRASHES
    assert "the consumer died 3 times" in str(ended.result)
    frozen = freeze.frozen(rig.settings, rig.journal)
    assert frozen is not None
    assert words in frozen["reason"]
    for user in (*IDLE, BUSY):
        assert rig.box.assigned(user) == rig.version
        assert rig.box.pairs(user)
        assert rig.box.level(user) == rig.level
    assert deferral_records.deferrals(rig.journal) == []
