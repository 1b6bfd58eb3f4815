"""Child processes, none of which outlives the work that it was started for.

Each child is killed with the thread that started it, and holds the lock of `orphans`: what survives a killed consumer is found and ended by the next.
"""

import errno
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t3flow import T3flowError
from t3flow.engine.log import logger
from t3flow.engine.step import check_interrupt
from t3flow.host.accounts import Account, command_as
from t3flow.host.orphans import open_lock, share_lock
from t3flow.t3.secrets import hide

POLL_SECONDS = 0.1
MAX_OUTPUT_BYTES = 16 * 1024 * 1024
END_SECONDS = 3.0
"""How long to wait for a killed child. A child in a system call that never returns stays until that call ends; it runs no more code."""
TRANSIENT_ERRORS = {errno.EAGAIN, errno.ENOMEM, errno.EPERM, errno.ETXTBSY}
"""Errors of a start that pass: a short lack of resources, or (EPERM, seen once) a cause that was never found."""
ATTEMPTS = 4
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ChildError(T3flowError):
    """A program could not be run, failed, or took too long."""


class TookTooLong(ChildError):
    """A program was killed at its timeout."""


class OutputTooLarge(ChildError):
    """A program was killed because it printed more than MAX_OUTPUT_BYTES."""


@dataclass(frozen=True)
class Finished:
    """The exit code of a program (negative: the signal that killed it) and its output."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def last_line(self) -> str:
        """Return the last line that is not blank, of stderr if there is one, for an error message, without secrets."""
        lines = [
            line.strip() for text in (self.stdout, self.stderr) for line in text.decode(errors="replace").splitlines()
        ]
        return next((hide(line)[:300] for line in reversed(lines) if line), "no output")


class Children:
    """Runs programs under one lock file."""

    def __init__(self, lock_path: Path) -> None:
        self.lock_path = lock_path

    def start(
        self,
        command: Sequence[str | Path],
        *,
        account: Account | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path = Path("/"),
        stdin: int = subprocess.DEVNULL,
        bare: bool = False,
        descriptors: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a program in its own session. Raise ChildError.

        Its environment is PATH, LANG and `environment`; it inherits `descriptors`. With `bare` it is started without setpriv, for a program that
        switches accounts itself.
        """
        words = [str(word) for word in command]
        lock = open_lock(self.lock_path)
        try:
            share_lock(lock)
            return _spawn(
                words if bare else command_as(account, words),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env={"PATH": os.environ.get("PATH", PATH), "LANG": "C.UTF-8", **(environment or {})},
                start_new_session=True,
                pass_fds=(lock, *descriptors),
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
        account: Account | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path = Path("/"),
        stdin: int = subprocess.DEVNULL,
        text: str | None = None,
        descriptors: Sequence[int] = (),
    ) -> Finished:
        """Run a program to its end, with `text` as its input.

        Raise TookTooLong, OutputTooLarge, ChildError if it cannot be run, Interrupted on a signal.
        """
        child = self.start(
            command,
            account=account,
            environment=environment,
            folder=folder,
            stdin=subprocess.PIPE if text is not None else stdin,
            descriptors=descriptors,
        )
        deadline = time.monotonic() + timeout_seconds
        name = Path(command[0]).name

        def check() -> None:
            check_interrupt()
            if time.monotonic() > deadline:
                raise TookTooLong(f"{name} did not end within {timeout_seconds:g} s")

        try:
            stdout, stderr = _communicate(child, (text or "").encode(), name, check)
            return Finished(child.returncode, stdout, stderr)
        finally:
            end(child)


def _spawn(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program, with retries for about a second on a transient error. Raise OSError."""
    for attempt in range(1, ATTEMPTS):
        try:
            return subprocess.Popen(words, **options)
        except OSError as error:
            if error.errno not in TRANSIENT_ERRORS:
                raise
            logger.warning("cannot start {} ({}): attempt {} of {}", words[0], error, attempt, ATTEMPTS)
            time.sleep(0.1 * 2**attempt)
    return subprocess.Popen(words, **options)


def _communicate(
    child: subprocess.Popen[bytes], text: bytes, name: str, check: Callable[[], None]
) -> tuple[bytes, bytes]:
    """Write a text to a child and return its stdout and stderr. Call `check` every POLL_SECONDS. Raise OutputTooLarge, and what `check` raises."""
    assert child.stdout is not None
    assert child.stderr is not None
    gathered = {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
    checked_at = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for descriptor in gathered:
            selector.register(descriptor, selectors.EVENT_READ)
        if child.stdin is not None:
            os.set_blocking(child.stdin.fileno(), False)
            selector.register(child.stdin, selectors.EVENT_WRITE)
        while selector.get_map() or child.poll() is None:
            if not selector.get_map():
                with suppress(subprocess.TimeoutExpired):
                    child.wait(POLL_SECONDS)
            for key, _ in selector.select(POLL_SECONDS) if selector.get_map() else ():
                if key.fd not in gathered:
                    with suppress(BrokenPipeError):
                        text = text[os.write(key.fd, text[:65536]) :]
                        if text:
                            continue
                    selector.unregister(key.fileobj)
                    child.stdin.close()  # type: ignore[union-attr]
                elif part := os.read(key.fd, 65536):
                    gathered[key.fd] += part
                    if len(gathered[key.fd]) > MAX_OUTPUT_BYTES:
                        raise OutputTooLarge(f"{name} prints more than {MAX_OUTPUT_BYTES / 1e6:.0f} MB")
                else:
                    selector.unregister(key.fd)
            if time.monotonic() - checked_at >= POLL_SECONDS:
                check()
                checked_at = time.monotonic()
    return bytes(gathered[child.stdout.fileno()]), bytes(gathered[child.stderr.fileno()])


def end(child: subprocess.Popen[bytes]) -> None:
    """Kill a child with the first process group of its session, and reap it. Idempotent.

    A child that hangs in the kernel (as in a user's filesystem that never answers) is left behind, so that no other user waits for it.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    try:
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        logger.error(
            "process {} was killed but hangs in the kernel; see which file systems it uses: findmnt", child.pid
        )
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
