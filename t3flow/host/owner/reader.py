"""A reader of a user's databases that is started before the server is suspended, so that the suspension lasts for the reading alone."""

import os
import select
import subprocess
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from t3flow.host import children
from t3flow.host.host import Host
from t3flow.host.owner.answers import MAX_ANSWER_BYTES, OwnerProblem, parse_answer, require
from t3flow.host.owner.program import owner_command

START_SECONDS = 10.0


class OwnerReader:
    """The `state` command of `host/home/program.py`, started and waiting. A context manager: it ends the child on exit."""

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
        """Return the state of the databases that these processes have open. Raises OwnerProblem, also after `timeout_seconds`."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(f"go {' '.join(str(pid) for pid in pids)}\n".encode())
            self._child.stdin.flush()
        except OSError as error:
            raise OwnerProblem("the reader of the database has ended") from error
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
