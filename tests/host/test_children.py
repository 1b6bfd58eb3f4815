"""Starts of programs on a host without free processes, for a moment or permanently."""

import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from t3flow.host.children import ChildError, Children


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Set the limit of processes of this account."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    yield lambda most: resource.setrlimit(resource.RLIMIT_NPROC, (most, hard))
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))


def test_a_shortage_that_ends_is_waited_out(tmp_path: Path, limit: Callable[[int], None]) -> None:
    plenty, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    short = threading.Event()
    ends = threading.Thread(target=lambda: (short.wait(), time.sleep(0.4), limit(plenty)))
    ends.start()
    limit(1)
    short.set()
    assert Children(tmp_path / "lock").run(["echo", "well"], timeout_seconds=10).stdout == b"well\n"
    ends.join()


def test_a_shortage_that_stays_is_told_soon(tmp_path: Path, limit: Callable[[int], None]) -> None:
    began = time.monotonic()
    limit(1)
    with pytest.raises(ChildError, match="cannot run echo: Resource temporarily unavailable"):
        Children(tmp_path / "lock").run(["echo"], timeout_seconds=10)
    assert time.monotonic() - began < 10
