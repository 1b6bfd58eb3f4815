"""Work inside a home: `owner.py`, run as the home's owner. What it says is the user's word about their own data, and is checked for form."""

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from t3flow.errors import T3flowError
from t3flow.host import children
from t3flow.host.children import SaidTooMuch, TookTooLong
from t3flow.host.host import Host

PROGRAM = Path(__file__).with_name("owner.py")
START_SECONDS = 10.0
MAX_ANSWER_BYTES = 64 * 1024
LARGEST = 2**62


class OwnerProblem(T3flowError):
    """Something in a home cannot be read or done. The text says what."""


def owner_command(command: str, base_dir: Path, *arguments: str) -> list[str]:
    """The command line of `owner.py`: an isolated interpreter, so that nothing of the user's is imported."""
    return [sys.executable, "-I", str(PROGRAM), command, str(base_dir), *arguments]


def run_as_owner(
    host: Host, user: str, command: str, *arguments: str, timeout_seconds: float, stdin: int = subprocess.DEVNULL
) -> dict[str, Any]:
    """Runs one command of `owner.py` for a user. Raises OwnerProblem with what went wrong."""
    try:
        finished = host.children.run(
            owner_command(command, host.base_dir(user), *arguments),
            who=host.account(user),
            timeout_seconds=timeout_seconds,
            stdin=stdin,
        )
    except (TookTooLong, SaidTooMuch) as error:
        raise OwnerProblem(f"working in the home of {user} failed: {error}") from error
    if finished.code != 0:
        raise OwnerProblem(f"working in the home of {user} failed: {one_line(finished.last_line)}")
    return parse_answer(finished.stdout)


def parse_answer(text: bytes) -> dict[str, Any]:
    """The JSON that `owner.py` answered. Raises OwnerProblem for a problem that it names and for anything that is no answer."""
    try:
        answer = json.loads(text[:MAX_ANSWER_BYTES])
    except (ValueError, RecursionError) as error:
        raise OwnerProblem("the answer from the home cannot be read") from error
    if not isinstance(answer, dict):
        raise OwnerProblem("the answer from the home is no object")
    if "problem" in answer:
        raise OwnerProblem(one_line(str(answer["problem"])))
    if not all(_is_as_it_should(key, value) for key, value in answer.items()):
        raise OwnerProblem("the answer from the home is not as it should be")
    return answer


def one_line(text: str) -> str:
    """A text of somebody's who may want it to look like lines of ours in a log."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:300])


def _is_as_it_should(key: str, value: Any) -> bool:
    """Whether a part of an answer has the form that `owner.py` gives it: anything else would go wrong later, and far from here."""
    if key in ("level", "bytes"):
        return _is_count(value)
    if key in ("newest", "newest_with_turn"):
        return value is None or (isinstance(value, (int, float)) and abs(value) < LARGEST)
    if key == "fingerprint":
        marks = value if isinstance(value, list) else []
        parts = [part for mark in marks if mark is not None for part in (mark if isinstance(mark, list) else [None])]
        return value is None or (len(marks) == 2 and len(parts) in (0, 3, 6) and all(_is_count(p) for p in parts))
    if key == "kept" and isinstance(value, list):
        return True  # who asked for the list looks at each entry
    is_line = isinstance(value, str) and value == one_line(value)
    if key.endswith(".sqlite"):  # a snapshot's name: its level, or why it has none
        return _is_count(value) or is_line
    return key == "unchanged" or (key == "kept" and is_line)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < LARGEST


class OwnerReader:
    """A reader of one user's database that has started and waits: so the server is held still for the reading alone."""

    def __init__(self, host: Host, user: str) -> None:
        self._child = host.children.start(
            owner_command("state", host.base_dir(user)), who=host.account(user), stdin=subprocess.PIPE
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

    def read(self, pids: Any, timeout_seconds: float) -> dict[str, Any]:
        """What `owner.py state` says now: level, newest, newest_with_turn, fingerprint. Raises OwnerProblem, also when it takes too long."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(b"go\n")
            self._child.stdin.flush()
        except OSError as error:
            raise OwnerProblem("the reader of the database is gone") from error
        answer = parse_answer(self._line(timeout_seconds))
        if not {"level", "newest", "newest_with_turn", "fingerprint"} <= set(answer):
            raise OwnerProblem("the answer from the home is not as it should be")
        turn = answer["newest_with_turn"]
        work = [["active_turn", "a turn is running", turn]] if turn is not None else []
        return {**answer, "work": work, "due": None, "unknown": ""}

    def _line(self, timeout_seconds: float) -> bytes:
        assert self._child.stdout is not None
        deadline = time.monotonic() + timeout_seconds
        text = b""
        while not text.endswith(b"\n") and len(text) < MAX_ANSWER_BYTES:
            ready, _, _ = select.select([self._child.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise OwnerProblem(f"reading the database took over {timeout_seconds:g} s")
            part = os.read(self._child.stdout.fileno(), 65536)
            if not part:
                break
            text += part
        return text
