"""Kill the consumer, fail its writes, or cut the power at points of a scenario, and check the result from outside.

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
"""Shared equally by all scenarios."""


@dataclass
class Played:
    """A scenario with its points and the rig on which they were recorded."""

    name: str
    tasks: list[Task]
    bench: Bench

    def take(self, tasks: list[Task], seconds: float) -> int:
        """Play as many tasks as fit into the time, and return the exit status."""
        return tell(len(tasks), self.bench.take(tasks, seconds))


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """Record each scenario once, for tests with kills, failed writes and power cuts."""
    name = request.param
    bench = Bench(tmp_path_factory.mktemp(name))
    try:
        points = points_of(bench.rig(name), name)
        yield Played(name, tasks_at(name, points, name in (SWEPT[0], CUT[0])), bench)
    finally:
        bench.close()


def each_of(names: Iterable[str]) -> pytest.MarkDecorator:
    """Run a test on each scenario. One worker runs all tests of a scenario: see tests/ordering.py."""
    return pytest.mark.parametrize("played", names, indirect=True)


@each_of(SWEPT)
def test_a_spread_of_all_points(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    """Kill the consumer, alone or with its children, at as many points as fit into the time."""
    tasks = list(played.tasks)
    dice_of_the_hour().shuffle(tasks)
    assert played.take(tasks, SPREAD_SECONDS / len(SWEPT)) == 0, capsys.readouterr().out


@each_of(CUT)
def test_writes_that_fail(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    """After a failed write (no space, read-only, I/O error), all users can work and the next run succeeds, whatever the outcome."""
    tasks = failures(dice_of_the_hour(), played.tasks, 200)
    assert played.take(tasks, FAIL_SECONDS / len(CUT)) == 0, capsys.readouterr().out


@each_of(CUT)
def test_the_power_is_cut_in_mid_run(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut the power at as many points as fit into the time, and lose unsynced data (see test_power.py)."""
    tasks = power_cuts(dice_of_the_hour(), played.tasks, min(300, len(played.tasks)))
    assert played.take(tasks, POWER_SECONDS / len(CUT)) == 0, capsys.readouterr().out
