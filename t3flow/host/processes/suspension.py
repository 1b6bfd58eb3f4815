"""Suspend the processes of a unit, and kill them while suspended. Uses pidfds, so that a reused pid never matters."""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

from t3flow.host.processes import proc
from t3flow.t3.files import USERDATA

SUSPEND_SECONDS = 0.5
"""How long the processes of a unit may take to stop: half of the time that a unit may be suspended."""
POLL_SECONDS = 0.002


class Suspension:
    """Processes suspended since `since` (monotonic seconds): pid → pidfd."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.descriptors: dict[int, int] = {}

    @property
    def pids(self) -> list[int]:
        """Return the suspended processes."""
        return list(self.descriptors)

    def kill(self, last: Collection[int]) -> None:
        """Kill all of them without resuming any, those in `last` after the others.

        When its main process ends, a manager resumes the rest of the unit to stop it gracefully: the rest must be gone by then.
        """
        for pid in sorted(self.descriptors, key=lambda pid: pid in last):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.descriptors[pid], signal.SIGKILL)

    def suspend(self, pid: int) -> None:
        """Send SIGSTOP to one more process. A process that is gone is skipped."""
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            self.descriptors[pid] = descriptor
            signal.pidfd_send_signal(descriptor, signal.SIGSTOP)

    def resume(self) -> None:
        """Resume all of them."""
        for descriptor in self.descriptors.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGCONT)
            os.close(descriptor)
        self.descriptors = {}


@contextmanager
def suspended(listed: Callable[[], Collection[int]]) -> Iterator[Suspension]:
    """Suspend, within the block, every process of a unit that can write its databases, so that a read stays valid.

    `listed` returns the unit's processes. It is called until it returns no new one and all have stopped, since a process may start another before
    it stops. All are resumed on every way out. Raise TimeoutError if a process does not stop.
    """
    suspension = Suspension()
    moving: set[int] = set()
    try:
        while True:
            fresh = [pid for pid in listed() if pid not in suspension.descriptors and can_write(pid)]
            for pid in fresh:
                suspension.suspend(pid)
            moving = {pid for pid in [*moving, *fresh] if proc.is_alive(pid) and not proc.is_suspended(pid)}
            if not fresh and not moving:
                break
            if time.monotonic() - suspension.since > SUSPEND_SECONDS:
                raise TimeoutError(
                    f"{proc.describe(moving or fresh)} did not stop within {SUSPEND_SECONDS:g} s of SIGSTOP"
                )
            if moving:
                time.sleep(POLL_SECONDS)
        yield suspension
    finally:
        suspension.resume()


def can_write(pid: int) -> bool:
    """Return whether a process of a unit may write to the databases: all may, except those on a terminal that have no file of the state open.

    Jobs on a terminal are not suspended, because an interactive shell reports each stopped job and takes the terminal from it.
    """
    stat = proc.stat_of(pid)
    if stat is None or stat.state in "ZX":
        return False
    return stat.terminal == 0 or any(f"/{USERDATA}/" in path for path in proc.open_files(pid))


def resume_all(pids: Collection[int]) -> list[int]:
    """Resume the suspended processes of a unit that can write, and return them. Idempotent: running processes are left alone."""
    found = []
    for pid in pids:
        if can_write(pid) and proc.is_suspended(pid):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGCONT)
                found.append(pid)
    return found


def end_if(pid: int, listed: Callable[[], Collection[int]]) -> None:
    """Kill a process if it is still in `listed` once a pidfd refers to it: a reused pid is not killed."""
    with suppress(ProcessLookupError, PermissionError):
        descriptor = os.pidfd_open(pid)
        try:
            if pid in listed():
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
