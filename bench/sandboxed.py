"""Enter the sandbox's namespaces like the tests, and open a sandbox that waits as long as the machine needs."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import end_on_signals, waiting

from t3flow.sandbox.enter import enter
from t3flow.sandbox.folders import temporary_folder
from t3flow.sandbox.host import READY_SECONDS, Sandbox

LEVEL30 = Path(__file__).parent.parent / "tests" / "data" / "state-level30.sqlite"
FACTOR, A_USER_SECONDS = 10.0, 20.0
"""The patience of a benchmark: so many times the sandbox's timeouts, and so many seconds for each user."""
PATIENT = {
    "verify_timeout_s = 6": "verify_timeout_s = 60",
    "start_timeout_s = 15": "start_timeout_s = 120",
    "timeout_s = 120": "timeout_s = 1200",
}
"""Settings of the sandbox that a loaded machine may exceed."""


def go_inside() -> None:
    """Execute this program inside the sandbox's namespaces: all that it starts ends with it. A signal ends it in order."""
    enter([sys.executable, *sys.argv])
    end_on_signals()


class PatientSandbox(Sandbox):
    """A sandbox for a loaded machine: its timeouts grow with its users, and it prints to stderr what a long wait waits for."""

    def __init__(self, top: Path, users: list[str], **more: Any) -> None:
        super().__init__(top, users, **more)
        self.patience_seconds = FACTOR * READY_SECONDS + A_USER_SECONDS * len(users)
        self.ready_seconds = self.mint_seconds = self.patience_seconds
        text = self.config.read_text()
        for hasty, patient in PATIENT.items():
            text = text.replace(f"\n{hasty}\n", f"\n{patient}\n")
        self.config.write_text(text)

    def until(self, holds: Any, what: str, timeout_seconds: float = 0) -> None:
        """Wait until a condition holds, at least as long as the patience of the sandbox."""
        with waiting(f"this: {what}"):
            super().until(holds, what, max(timeout_seconds, self.patience_seconds))

    def t3flow(self, *arguments: str, timeout_seconds: float = 0) -> subprocess.CompletedProcess[str]:
        """Run a t3flow command to its end, at least as long as the patience of the sandbox."""
        with waiting(f"`t3flow {' '.join(arguments)}`"):
            return super().t3flow(*arguments, timeout_seconds=max(timeout_seconds, self.patience_seconds))

    def await_pairing(self, user: str) -> None:
        """Wait until a user whose server was started can pair."""
        with waiting(f"{user} to pair"):
            super().await_pairing(user)

    def supervise(self, do: str, user: str = "") -> dict[str, Any]:
        """Send a request to the supervisor and return the response."""
        with waiting(f"the supervisor to {do} the server of {user}"):
            return super().supervise(do, user)


@contextmanager
def sandbox(users: list[str], **more: Any) -> Iterator[PatientSandbox]:
    """Yield a sandbox with running servers, and close it."""
    with temporary_folder("t3flow-bench-", Path("/var/tmp")) as folder:
        box = PatientSandbox(folder, users, **more)
        try:
            yield box
        finally:
            box.close()
