"""Running other programs so that none outlives what it was started for.

Each child asks for death with the thread that started it and holds a shared lock of its own, which its own children inherit. A consumer
that was killed leaves the lock behind with those that live on: the next one waits for them, then ends them.

Whoever owns a child can take its descriptors out of it. The lock's is for reading alone, and the lock of the kind that such a descriptor can
never make exclusive: it can be kept, or hidden in a message that no process holds, but it stops nobody.
"""

import errno
import fcntl
import os
import selectors
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t3flow import T3flowError
from t3flow.engine.step import check_interrupt
from t3flow.host.accounts import Account, command_as

if TYPE_CHECKING:
    from loguru import Logger

POLL_SECONDS = 0.1
MAX_OUTPUT_BYTES = 16 * 1024 * 1024
END_SECONDS = 3.0
"""How long a child's death is waited for. One in a call of the kernel's that never returns dies only with that call, and does nothing more."""
ROUNDS = 3
"""How often those who hold the lock are ended before it is given up to whoever hides it."""
FOR_NOW = {errno.EAGAIN, errno.ENOMEM, errno.EPERM, errno.ETXTBSY}
"""What starting a program may meet on a host that is short of something for a moment, or (seen once) for no reason that could be found."""
ATTEMPTS = 4
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ChildError(T3flowError):
    """A program could not be run, failed where it must not, or took too long."""


class TookTooLong(ChildError):
    """A program was ended because its time was over."""


class SaidTooMuch(ChildError):
    """A program was ended because it printed more than anything that we ask for."""


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
        descriptors: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Starts a program in a session of its own with an environment of only PATH and what is given, `descriptors` left open. Raises ChildError.

        `bare` starts it without the program that changes accounts: for one that does so itself.
        """
        words = [str(word) for word in command]
        lock = os.open(self.lock_path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.fcntl(lock, fcntl.F_OFD_SETLKW, _whole_file(fcntl.F_RDLCK))
            return _spawn(
                words if bare else command_as(who, words),
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
        who: Account | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path = Path("/"),
        stdin: int = subprocess.DEVNULL,
        text: str | None = None,
        descriptors: Sequence[int] = (),
    ) -> Finished:
        """Runs a program to its end, with `text` as its input.

        Raises TookTooLong, SaidTooMuch, ChildError when it cannot be run, Interrupted on a signal.
        """
        child = self.start(
            command,
            who=who,
            environment=environment,
            folder=folder,
            stdin=subprocess.PIPE if text is not None else stdin,
            descriptors=descriptors,
        )
        deadline = time.monotonic() + timeout_seconds
        name = Path(command[0]).name

        def look() -> None:
            check_interrupt()
            if time.monotonic() > deadline:
                raise TookTooLong(f"{name} did not end within {timeout_seconds:g} s")

        try:
            stdout, stderr = _talk(child, (text or "").encode(), name, look)
            return Finished(child.returncode, stdout, stderr)
        finally:
            end(child)

    def end_orphans(self, patience_seconds: float) -> int:
        """Waits for the children of a consumer that died, then ends those that remain. Returns how many were ended.

        Where it stays locked though nobody has it, or others have it whenever it is looked at, an account keeps it on purpose: the lock is a new
        file then. So it is where who has it was ended and hangs in the kernel: they do nothing more.
        """
        deadline = time.monotonic() + patience_seconds
        ended, rounds, before = 0, 0, set[int]()
        while not self.free():
            if time.monotonic() > deadline:
                holders = self._holders()
                rounds += 1
                if rounds >= ROUNDS and all(_is_ended(pid) for pid in before & set(holders)):
                    _log().error("{} is kept locked by somebody who hides, or hangs: it is made anew", self.lock_path)
                    self.lock_path.unlink()
                    break
                before = set(holders)
                for pid in holders:
                    _log().warning("ending process {}, left over from a consumer that died", pid)
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
                    ended += 1
                deadline = time.monotonic() + patience_seconds
            time.sleep(POLL_SECONDS)
        return ended

    def free(self) -> bool:
        """Whether no child of any consumer is left."""
        lock = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.fcntl(lock, fcntl.F_OFD_SETLK, _whole_file(fcntl.F_WRLCK))
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


def _log() -> "Logger":
    """The log, loaded by whoever has something to say: it takes longer than all that `status` looks at."""
    from loguru import logger

    return logger


def _is_ended(pid: int) -> bool:
    """Whether a process was sent SIGKILL, or is gone: it will run no more, whatever it hangs in."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("SigPnd", "ShdPnd") and int(value, 16) >> (signal.SIGKILL - 1) & 1:
                return True
        return False
    return True


def _spawn(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program, again and again for a second where the kernel refuses for now. Raises OSError."""
    for attempt in range(1, ATTEMPTS):
        try:
            return subprocess.Popen(words, **options)
        except OSError as error:
            if error.errno not in FOR_NOW:
                raise
            _log().warning("cannot start {} ({}): attempt {} of {}", words[0], error, attempt, ATTEMPTS)
            time.sleep(0.1 * 2**attempt)
    return subprocess.Popen(words, **options)


def _whole_file(kind: int) -> bytes:
    """A struct flock for the whole of a file."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)


def _talk(child: subprocess.Popen[bytes], feed: bytes, name: str, look: Callable[[], None]) -> tuple[bytes, bytes]:
    """Feeds a child and gathers what it prints, to its end; `look` is called every POLL_SECONDS. Raises SaidTooMuch and what `look` raises."""
    assert child.stdout is not None
    assert child.stderr is not None
    gathered = {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
    looked_at = time.monotonic()
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
                        feed = feed[os.write(key.fd, feed[:65536]) :]
                        if feed:
                            continue
                    selector.unregister(key.fileobj)
                    child.stdin.close()  # type: ignore[union-attr]
                elif part := os.read(key.fd, 65536):
                    gathered[key.fd] += part
                    if len(gathered[key.fd]) > MAX_OUTPUT_BYTES:
                        raise SaidTooMuch(f"{name} prints more than {MAX_OUTPUT_BYTES / 1e6:.0f} MB")
                else:
                    selector.unregister(key.fd)
            if time.monotonic() - looked_at >= POLL_SECONDS:
                look()
                looked_at = time.monotonic()
    return bytes(gathered[child.stdout.fileno()]), bytes(gathered[child.stderr.fileno()])


def end(child: subprocess.Popen[bytes]) -> None:
    """Ends a child with all of its session's first process group, and takes its exit code. Twice is harmless.

    One that hangs in the kernel, as in a filesystem of a user's own that never answers, is left behind: nobody else waits for it.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    try:
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        _log().error("process {} was ended but hangs in the kernel: see what its files are on (findmnt)", child.pid)
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
