"""The consumer is killed, and what came of it is looked at from outside. The full sweep is a command of its own: tests/crash/sweep.py."""

import os
import platform
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from plays import attempt
from rig import BUSY, IDLE, Rig
from sweep import CUT, SWEPT, Bench, Task, anywhere, failures, points_of, power_cuts, run_tasks, tasks_at, tell
from takeover import TAKEOVERS
from verbs import RESTORES, ROLLBACKS

from t3flow.engine.flow import MAX_CRASHES
from t3flow.host import freeze
from t3flow.host.records import deferral_records

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the tracer knows the numbers of system calls of x86-64 alone"
)
SPREAD_SECONDS = FAIL_SECONDS = POWER_SECONDS = 30.0
"""For all scenarios together: each has its share."""
VERB_SECONDS = 25.0


@dataclass
class Played:
    """A scenario with all its points, and the rig that they were recorded on."""

    name: str
    tasks: list[Task]
    bench: Bench

    def take(self, tasks: list[Task], seconds: float) -> int:
        """Takes what fits into the time. Returns the exit code."""
        return tell(len(tasks), self.bench.take(tasks, seconds))


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """One scenario after the other: recorded once, then killed, denied writes and cut off from power."""
    name = request.param
    bench = Bench(tmp_path_factory.mktemp(name))
    try:
        points = points_of(bench.rig(name), name)
        yield Played(name, tasks_at(name, points, name in (SWEPT[0], CUT[0])), bench)
    finally:
        bench.close()


def each_of(names: Iterable[str]) -> pytest.MarkDecorator:
    """Runs a test on each scenario; a worker takes all tests of a scenario."""
    return pytest.mark.parametrize(
        "played", [pytest.param(name, marks=pytest.mark.xdist_group(f"crash-{name}")) for name in names], indirect=True
    )


def dice() -> random.Random:
    """Other points each hour. The head of the test run names the seed; T3CRASH_SEED takes those of another time again."""
    return random.Random(int(os.environ["T3CRASH_SEED"]))


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


@each_of(SWEPT)
def test_a_spread_of_all_points(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    """The consumer is killed, alone or with its children: what fits into the time."""
    tasks = list(played.tasks)
    dice().shuffle(tasks)
    assert played.take(tasks, SPREAD_SECONDS / len(SWEPT)) == 0, capsys.readouterr().out


@each_of(CUT)
def test_writes_that_fail(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    """No space, read-only, broken, at any write: whatever the run ends with, everybody is well and the next one works."""
    tasks = failures(dice(), played.tasks, 200)
    assert played.take(tasks, FAIL_SECONDS / len(CUT)) == 0, capsys.readouterr().out


@each_of(CUT)
def test_the_power_is_cut_in_mid_run(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    """What fits into the time, with what the disk may lose of each (see test_power.py)."""
    tasks = power_cuts(dice(), played.tasks, min(300, len(played.tasks)))
    assert played.take(tasks, POWER_SECONDS / len(CUT)) == 0, capsys.readouterr().out


@pytest.mark.parametrize("names", [(*ROLLBACKS, *RESTORES), tuple(TAKEOVERS)], ids=["back", "takeover"])
def test_verbs_are_killed_anywhere(names: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rollbacks and restores; adoptions and their undo: what fits into the time, killed elsewhere each hour."""
    tasks = anywhere(dice(), names, 5)
    assert run_tasks(tasks, 1, tmp_path, VERB_SECONDS) == 0, capsys.readouterr().out


@pytest.mark.parametrize("numbers", [range(1, 11), range(12, 60, 4), range(14, 60, 4)], ids=["early", "late", "later"])
def test_cancelled_at_each_step(rig: Rig, numbers: range) -> None:
    """Before the first restart nothing has changed, after it nobody further is restarted, and after the last it comes too late."""
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
    ("step", "outcome"),
    [
        ("resolve", "error"),
        ("back_up", "error"),
        ("run_trials", "error"),
        ("stop_if_idle", "rolled_back"),
        ("verify_user", "rolled_back"),
    ],
)
def test_a_step_that_kills_the_consumer_is_given_up(rig: Rig, step: str, outcome: str) -> None:
    """After MAX_CRASHES deaths without progress what was done is undone, tracking is frozen, and it is said."""
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
    assert step in frozen["reason"]
    for user in (*IDLE, BUSY):
        assert rig.box.assigned(user) == rig.version
        assert rig.box.pairs(user)
        assert rig.box.level(user) == rig.level
    assert deferral_records.deferrals(rig.journal) == []
