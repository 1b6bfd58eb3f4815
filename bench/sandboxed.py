"""Enters the sandbox as its tests do, and opens one."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from t3flow.sandbox.enter import enter
from t3flow.sandbox.host import Sandbox

LEVEL30 = Path(__file__).parent.parent / "tests" / "data" / "state-level30.sqlite"


def go_inside() -> None:
    """Becomes this program inside the sandbox."""
    enter([sys.executable, *sys.argv])


@contextmanager
def sandbox(users: list[str], **more: Any) -> Iterator[Sandbox]:
    """A sandbox with running servers, and its end."""
    with tempfile.TemporaryDirectory(prefix="t3flow-bench-", dir="/var/tmp", ignore_cleanup_errors=True) as folder:
        box = Sandbox(Path(folder), users, **more)
        try:
            yield box
        finally:
            box.close()
