"""Work inside a home: `owner.py`, run as the home's owner."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from t3flow.host import children
from t3flow.host.children import OutputTooLarge, TookTooLong
from t3flow.host.host import Host
from t3flow.host.owner_answers import MAX_ANSWER_BYTES, OwnerProblem, one_line, parse_answer, require

__all__ = ["OwnerProblem", "OwnerReader", "owner_command", "run_as_owner"]

PROGRAM = Path(__file__).with_name("home") / "program.py"
START_SECONDS = 10.0


def owner_command(command: str, base_dir: Path, *arguments: str) -> list[str]:
    """The command line of `owner.py`: an isolated interpreter, so that nothing of the user's is imported."""
    return [sys.executable, "-I", str(PROGRAM), command, str(base_dir), *arguments]


def run_as_owner(
    host: Host,
    user: str,
    command: str,
    *arguments: str,
    timeout_seconds: float,
    stdin: int = subprocess.DEVNULL,
    descriptors: Sequence[int] = (),
) -> dict[str, Any]:
    """Runs one command of `owner.py` for a user, with `descriptors` left open. Raises OwnerProblem with what went wrong."""
    try:
        finished = host.children.run(
            owner_command(command, host.base_dir(user), *arguments),
            account=host.account(user),
            timeout_seconds=timeout_seconds,
            stdin=stdin,
            descriptors=descriptors,
        )
    except (TookTooLong, OutputTooLarge) as error:
        raise OwnerProblem(f"working in the home of {user} failed: {error}") from error
    if finished.code != 0:
        raise OwnerProblem(f"working in the home of {user} failed: {one_line(finished.last_line)}")
    return parse_answer(finished.stdout)


class OwnerReader:
    """A reader of one user's database that has started and waits: so the server is held still for the reading alone."""

    def __init__(self, host: Host, user: str) -> None:
        self._child = host.children.start(
            owner_command("state", host.base_dir(user)), account=host.account(user), stdin=subprocess.PIPE
        )

    def __enter__(self) -> Self:
        try:
            if self._line(START_SECONDS) != b"ready\n":
                raise OwnerProblem("the reader of the database did not start")
        except BaseException:
            children.end(self._child)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        children.end(self._child)

    def read(self, pids: Sequence[int], timeout_seconds: float) -> dict[str, Any]:
        """What `owner.py state` says now of the databases that these processes have open. Raises OwnerProblem, also when it takes too long."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(f"go {' '.join(str(pid) for pid in pids)}\n".encode())
            self._child.stdin.flush()
        except OSError as error:
            raise OwnerProblem("the reader of the database is gone") from error
        answer = parse_answer(self._line(timeout_seconds))
        require(answer, "live", "schema", "level", "work", "newest", "due", "fingerprint", "unknown")
        return answer

    def _line(self, timeout_seconds: float) -> bytes:
        assert self._child.stdout is not None
        deadline = time.monotonic() + timeout_seconds
        text = b""
        waiting = select.poll()  # select() takes no descriptor above 1023
        waiting.register(self._child.stdout, select.POLLIN)
        while not text.endswith(b"\n") and len(text) < MAX_ANSWER_BYTES:
            if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise OwnerProblem(f"reading the database took over {timeout_seconds:g} s")
            part = os.read(self._child.stdout.fileno(), 65536)
            if not part:
                break
            text += part
        return text
