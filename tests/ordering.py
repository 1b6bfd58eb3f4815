"""The order in which parallel workers take tests: those that took longest in a recorded run first, so that no long one is left for the end.

`pytest --record-durations` writes tests/durations.json, which is committed: seconds of each test that took RECORDED_SECONDS or more. A test that it
does not know is a short one. Of the modules in BY_PARAMETER, the tests with the same parameter share an expensive fixture: one worker takes them all.
So do all tests of each module in TOGETHER.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

DURATIONS = Path(__file__).with_name("durations.json")
RECORDED_SECONDS = 3.0
BY_PARAMETER = {"tests/crash/test_points.py"}
TOGETHER = {"tests/web/test_browser.py", "tests/upgrades/test_upgrades_of_t3flow.py"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-durations", action="store_true", help=f"write what tests took into {DURATIONS.name}")


def unit_of(nodeid: str) -> str:
    """Return the name of what a worker takes at once: the test, or all with its parameter."""
    module, _, test = nodeid.partition("::")
    if module in TOGETHER:
        return module
    return f"{module}[{test.partition('[')[2]}" if module in BY_PARAMETER else nodeid


class LongestFirst(LoadScopeScheduling):
    """Hands out units in the order of the collection, which `pytest_collection_modifyitems` makes."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LongestFirst:
    """For whatever `--dist` asks."""
    config.option.loadscopereorder = False
    return LongestFirst(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sorts in a worker of pytest-xdist alone: a few tests in one process come in the order of their file."""
    if not hasattr(config, "workerinput"):
        return
    seconds: dict[str, float] = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
    total: defaultdict[str, float] = defaultdict(float)
    for item in items:
        total[unit_of(item.nodeid)] += seconds.get(item.nodeid, 0.0)
    items.sort(key=lambda item: -total[unit_of(item.nodeid)])


class Recorder:
    """Adds up what setup, call and teardown of each test took."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        """Keep what is known of tests that did not run this time."""
        known = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
        known |= self.seconds
        found = {name: round(took, 1) for name, took in sorted(known.items()) if took >= RECORDED_SECONDS}
        DURATIONS.write_text(json.dumps(found, indent=0, ensure_ascii=False) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record-durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder())
