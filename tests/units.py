"""Unit tests, which `make check` runs: quick ones that start no process. `--units` finds them by itself.

The folders in WITH_PROCESSES are left out, and so are tests that tests/durations.json knows as slow. Of the others, a test that is about to start a
process ends there, as skipped. The mark `processes` spares a test from beginning at all: for one that takes long to notice.
"""

import json
import resource
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from ordering import DURATIONS

HERE = Path(__file__).parent
WITH_PROCESSES = {
    "bench",
    "box",
    "crash",
    "real",
    "redis_faults",
    "root",
    "sandbox",
    "scenarios",
    "web",
    "soak",
    "upgrades",
}
"""Tests that play on a sandbox, on a machine or with a stand-in."""
STARTS = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"}
"""Names of audit events."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--units", action="store_true", help="only quick tests that start no process")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--units") and config.getoption("numprocesses", None) is None:
        config.pluginmanager.register(Guard())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Spares the import of what is left out anyway."""
    left_out = collection_path.parent == HERE and collection_path.name in WITH_PROCESSES
    return True if left_out and config.getoption("--units") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects what is known to be slow or to start processes."""
    if config.getoption("--units"):
        slow = set(json.loads(DURATIONS.read_text())) if DURATIONS.exists() else set()
        left_out = {item for item in items if item.nodeid in slow or item.get_closest_marker("processes")}
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


class Guard:
    """Ends a test that starts a process, as skipped: also one that catches that, or starts it in a thread."""

    def __init__(self) -> None:
        self.test = ""
        self.starting: set[str] = set()
        sys.addaudithook(self.hear)

    def hear(self, event: str, _: tuple[Any, ...]) -> None:
        """Take note: called for each audit event of this process; an audit hook cannot be removed."""
        if event in STARTS and self.test:
            self.starting.add(self.test)
            pytest.skip("starts a process")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None]:
        self.test, size = item.nodeid, resource.getrlimit(resource.RLIMIT_FSIZE)
        yield
        self.test = ""
        resource.setrlimit(resource.RLIMIT_FSIZE, size)  # meant for a child that was not started

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any]:
        outcome = yield
        report = outcome.get_result()
        if item.nodeid in self.starting and report.failed:
            report.outcome = "skipped"
            report.longrepr = (str(item.path), 0, "starts a process")
