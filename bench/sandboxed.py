"""Enter the sandbox's namespaces like the tests, and open a sandbox."""

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
    """Execute this program inside the sandbox's namespaces."""
    enter([sys.executable, *sys.argv])


@contextmanager
def sandbox(users: list[str], **more: Any) -> Iterator[Sandbox]:
    """Yield a sandbox with running servers, and close it."""
    with tempfile.TemporaryDirectory(prefix="t3flow-bench-", dir="/var/tmp", ignore_cleanup_errors=True) as folder:
        box = Sandbox(Path(folder), users, **more)
        try:
            yield box
        finally:
            box.close()
