"""The consumer is killed, denied writes and cut off from power at points of a scenario, and what came of it is looked at from outside.

Each scenario is recorded once; what fits into the time is taken of its points, other ones each hour. sweep.py takes them all.
"""

import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
from sweep import CUT, SWEPT, Bench, Task, dice_of_the_hour, failures, points_of, power_cuts, tasks_at, tell

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the tracer knows the numbers of system calls of x86-64 alone"
)
SPREAD_SECONDS = FAIL_SECONDS = POWER_SECONDS = 30.0
"""For all scenarios together: each has its share."""


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
    """Runs a test on each scenario. One worker takes all tests of a scenario: see tests/ordering.py."""
    return pytest.mark.parametrize("played", names, indirect=True)


@each_of(SWEPT)
def test_a_spread_of_all_points(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    """The consumer is killed, alone or with its children: what fits into the time."""
    tasks = list(played.tasks)
    dice_of_the_hour().shuffle(tasks)
    assert played.take(tasks, SPREAD_SECONDS / len(SWEPT)) == 0, capsys.readouterr().out


@each_of(CUT)
def test_writes_that_fail(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    """No space, read-only, broken, at any write: whatever the run ends with, everybody is well and the next one works."""
    tasks = failures(dice_of_the_hour(), played.tasks, 200)
    assert played.take(tasks, FAIL_SECONDS / len(CUT)) == 0, capsys.readouterr().out


@each_of(CUT)
def test_the_power_is_cut_in_mid_run(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    """What fits into the time, with what the disk may lose of each (see test_power.py)."""
    tasks = power_cuts(dice_of_the_hour(), played.tasks, min(300, len(played.tasks)))
    assert played.take(tasks, POWER_SECONDS / len(CUT)) == 0, capsys.readouterr().out
