"""Skip the tests with the real t3 if it is not available, with a visible notice."""

from pathlib import Path
from typing import Any

import pytest
import verdaccio

from t3flow.sandbox import real


def why_not() -> str:
    """Return why the real program is not available, or ""."""
    return "" if real.cached() else f"{real.PACKAGE}@{real.VERSION} was not fetched (python -m t3flow.sandbox.real)"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the notice."""
    if terminalreporter.stats.get("skipped") and (reason := why_not()):
        terminalreporter.section("NOT TESTED ON THE REAL T3", sep="!", red=True, bold=True)
        terminalreporter.write_line(reason)
    if terminalreporter.stats.get("skipped") and verdaccio.cached() is None:
        terminalreporter.section("NOT TESTED ON A REAL REGISTRY", sep="!", red=True, bold=True)
        terminalreporter.write_line(verdaccio.NOT_FETCHED)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of these tests, or none."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    if ours and (reason := why_not()):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=reason))
