"""usage: agent.py TOP USER... < CALLS: a sandbox on a host of its own. Does what it is told, a call a line, and ends with its input.

A call is {"do": name of a method of the sandbox, "with": [...], "and": {...}}; its answer {"is": value} or {"failed": text}.
"""

import json
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gateway import Gateway

from t3flow.sandbox.host import Sandbox

THREADS = 8
PATIENCE_SECONDS = 200.0
PATIENT = {"verify_timeout_s = 6": "verify_timeout_s = 10", "start_timeout_s = 15": "start_timeout_s = 120"}
"""Settings of the sandbox that a loaded machine may exceed."""


class Box(Sandbox):
    """The sandbox of a host, which lives through the calls."""

    gateway: Gateway

    def __init__(self, top: Path, users: list[str], **more: Any) -> None:
        super().__init__(top, users, **more)
        self.ready_seconds = self.mint_seconds = PATIENCE_SECONDS
        text = self.config.read_text()
        for hasty, patient in PATIENT.items():
            text = text.replace(f"\n{hasty}\n", f"\n{patient}\n")
        self.config.write_text(text)

    def until(self, holds: Any, what: str, timeout_seconds: float = 0) -> None:
        """Wait until a condition holds, with patience for a machine on which many hosts start at once."""
        super().until(holds, what, max(timeout_seconds, PATIENCE_SECONDS))

    def take_databases(self, databases: dict[str, str]) -> None:
        """Copy databases into homes, named by text."""
        self.copy_databases({user: Path(path) for user, path in databases.items()})

    def start_gateway(self, host: str, port: int) -> int:
        """Start the gateway to a server of the fleet, and return its port on loopback."""
        self.gateway = Gateway(host, port, lambda: self.kill("consumer"))
        return self.gateway.port

    def kill_at(self, pattern: str, *, after: bool) -> None:
        """Kill the consumer at the next command of this kind: before the server gets it, or after the server has done it."""
        self.gateway.arm(pattern, after=after)

    def has_fallen(self) -> bool:
        """Return whether the consumer was killed as asked."""
        return self.gateway.fired.is_set()

    def setenv(self, name: str, value: str) -> None:
        """Set a variable for what is started from now on."""
        self.environment[name] = value


def plain(value: Any) -> Any:
    """Return a value as JSON can have it."""
    if isinstance(value, subprocess.CompletedProcess):
        return {"code": value.returncode, "out": value.stdout, "err": value.stderr}
    return value if isinstance(value, dict | list | str | int | float | None) else None


def main() -> None:
    """Serve calls in threads, so that a long one delays no other. The threads stay: what one of them started would end with it."""
    settings = json.loads(sys.argv[2])
    box = Box(Path(sys.argv[1]), sys.argv[3:], **settings)
    writing = threading.Lock()

    def answer(call: dict[str, Any]) -> None:
        try:
            said = {"is": plain(getattr(box, call["do"])(*call["with"], **call["and"]))}
        except BaseException:
            said = {"failed": traceback.format_exc()}
        with writing:
            print(json.dumps({"id": call["id"], **said}), flush=True)

    try:
        pool = ThreadPoolExecutor(THREADS)
        for line in sys.stdin:
            pool.submit(answer, json.loads(line))
    finally:
        box.close()


if __name__ == "__main__":
    main()
