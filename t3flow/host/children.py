"""Running other programs so that none outlives what it was started for.

Each child asks for death with the thread that started it and holds a shared lock of its own, which its own children inherit. A consumer
that was killed leaves the lock behind with those that live on: the next one waits for them, then ends them.
"""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from t3flow.engine.step import check_interrupt
from t3flow.errors import T3flowError
from t3flow.host.accounts import Account, command_as

POLL_SECONDS = 0.1
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ChildError(T3flowError):
    """A program could not be run, failed where it must not, or took too long."""


class TookTooLong(ChildError):
    """A program was ended because its time was over."""


@dataclass(frozen=True)
class Finished:
    """What a program left: exit code (negative: the signal that ended it), and its output."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def last_line(self) -> str:
        """The last line that says something, for an error message; stderr first."""
        lines = [
            line.strip() for text in (self.stdout, self.stderr) for line in text.decode(errors="replace").splitlines()
        ]
        return next((line[:300] for line in reversed(lines) if line), "no output")


class Children:
    """Runs programs under one lock file."""

    def __init__(self, lock_path: Path) -> None:
        self.lock_path = lock_path

    def start(
        self,
        command: Sequence[str | Path],
        *,
        who: Account | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path = Path("/"),
        stdin: int = subprocess.DEVNULL,
        bare: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Starts a program in a session of its own with an environment of only PATH and what is given. Raises ChildError.

        `bare` starts it without the program that changes accounts: for one that does so itself.
        """
        words = [str(word) for word in command]
        lock = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            return subprocess.Popen(
                words if bare else command_as(who, words),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env={"PATH": os.environ.get("PATH", PATH), "LANG": "C.UTF-8", **(environment or {})},
                start_new_session=True,
                pass_fds=(lock,),
            )
        except OSError as error:
            raise ChildError(f"cannot run {words[0]}: {error.strerror}") from error
        finally:
            os.close(lock)

    def run(
        self,
        command: Sequence[str | Path],
        *,
        timeout_seconds: float,
        who: Account | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path = Path("/"),
        stdin: int = subprocess.DEVNULL,
        text: str | None = None,
    ) -> Finished:
        """Runs a program to its end, with `text` as its input. Raises TookTooLong, ChildError when it cannot be run, Interrupted on a signal."""
        child = self.start(
            command,
            who=who,
            environment=environment,
            folder=folder,
            stdin=subprocess.PIPE if text is not None else stdin,
        )
        deadline = time.monotonic() + timeout_seconds
        feed = text.encode() if text is not None else None
        try:
            while True:
                try:
                    stdout, stderr = child.communicate(feed, timeout=POLL_SECONDS)
                    return Finished(child.returncode, stdout, stderr)
                except subprocess.TimeoutExpired:
                    feed = None
                    check_interrupt()
                    if time.monotonic() > deadline:
                        raise TookTooLong(f"{Path(command[0]).name} did not end within {timeout_seconds:g} s") from None
        finally:
            end(child)

    def end_orphans(self, patience_seconds: float) -> int:
        """Waits for the children of a consumer that died, then ends those that remain. Returns how many were ended."""
        deadline = time.monotonic() + patience_seconds
        ended = 0
        while not self._free():
            if time.monotonic() > deadline:
                for pid in self._holders():
                    logger.warning("ending process {}, left over from a consumer that died", pid)
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
                    ended += 1
                deadline = time.monotonic() + patience_seconds
            time.sleep(POLL_SECONDS)
        return ended

    def _free(self) -> bool:
        lock = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(lock)

    def _holders(self) -> list[int]:
        wanted = os.stat(self.lock_path)
        found = []
        for entry in Path("/proc").glob("[0-9]*/fd"):
            with suppress(OSError):
                for descriptor in entry.iterdir():
                    status = os.stat(descriptor)
                    if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino) and int(
                        entry.parent.name
                    ) != os.getpid():
                        found.append(int(entry.parent.name))
                        break
        return found


def end(child: subprocess.Popen[bytes]) -> None:
    """Ends a child with all of its session's first process group, and takes its exit code. Twice is harmless."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
