"""A host without users, and the check that a trial leaves nothing behind."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from t3flow.host.host import Host, open_host
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import open_journal

GONE_WITHIN_SECONDS = 2.0


@pytest.fixture
def make_host(tmp_path: Path) -> Callable[..., Host]:
    """Create a host without users; `changes` are settings by section."""

    def make(**changes: dict[str, Any]) -> Host:
        (tmp_path / "box").mkdir()
        settings = Sandbox(tmp_path / "box", []).settings
        sections = {name: getattr(settings, name)._replace(**values) for name, values in changes.items()}
        settings = settings._replace(**sections)
        return open_host(settings, open_journal(settings, create=True))

    return make


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Provide a scratch folder, and check that no process, mount or file of it remains."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    yield folder
    deadline = time.monotonic() + GONE_WITHIN_SECONDS
    while (left := _left(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def _left(folder: Path) -> list[str]:
    found = [str(path) for path in folder.iterdir()]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue  # another account's, or gone
        if str(folder).encode() in told:
            found.append(f"process {process.name}: {told[:200]!r}")
    return found
