"""The order in which parallel workers take tests: those that took longest in a recorded run first, so that no long one is left for the end.

`pytest --record-durations` writes tests/durations.json, which is committed: seconds of each test that took RECORDED_SECONDS or more. A test that it
does not know is a short one. Tests of one xdist_group stay together, in their own order, and count as one.
"""

import json
from collections import defaultdict
from pathlib import Path

import pytest

DURATIONS = Path(__file__).with_name("durations.json")
RECORDED_SECONDS = 3.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-durations", action="store_true", help=f"write what tests took into {DURATIONS.name}")


def group_of(item: pytest.Item) -> str:
    """The name of the unit that a worker takes: a group's, or the test's own."""
    mark = item.get_closest_marker("xdist_group")
    return str(mark.args[0] if mark.args else mark.kwargs["name"]) if mark else item.nodeid


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sorts in a worker of pytest-xdist alone: who runs a few tests sees them in the order of the file."""
    if not hasattr(config, "workerinput"):
        return
    seconds: dict[str, float] = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
    total: defaultdict[str, float] = defaultdict(float)
    for item in items:
        total[group_of(item)] += seconds.get(item.nodeid.partition("@")[0], 0.0)
    items.sort(key=lambda item: (-total[group_of(item)], group_of(item) if total[group_of(item)] else ""))


class Recorder:
    """Adds up what setup, call and teardown of each test took."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid.partition("@")[0]] += report.duration

    def pytest_sessionfinish(self) -> None:
        """Keeps what is known of tests that did not run this time."""
        known = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
        known |= self.seconds
        found = {name: round(took, 1) for name, took in sorted(known.items()) if took >= RECORDED_SECONDS}
        DURATIONS.write_text(json.dumps(found, indent=0, ensure_ascii=False) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record-durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder())
