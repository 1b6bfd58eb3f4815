"""Holding processes still, and ending them while they are held: by pidfds, so that never another process of the same number is meant."""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

from t3flow.host.processes import proc
from t3flow.t3.files import USERDATA

STOP_SECONDS = 0.5
"""How long all processes of a unit may take until they have stopped: half of the time that a unit may be held still at most."""
POLL_SECONDS = 0.002


class Hold:
    """Processes that are held still since `since` (monotonic): pid → pidfd."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.descriptors: dict[int, int] = {}

    @property
    def pids(self) -> list[int]:
        """The processes that are held."""
        return list(self.descriptors)

    def end(self, last: Collection[int]) -> None:
        """End them all where they are, those of `last` after the others.

        A manager that sees its main process end lets the other processes of the unit go on, to end them politely: these must be gone by then.
        """
        for pid in sorted(self.descriptors, key=lambda pid: pid in last):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.descriptors[pid], signal.SIGKILL)

    def add(self, pid: int) -> None:
        """Tell one more process to stop. A process that is gone is none."""
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            self.descriptors[pid] = descriptor
            signal.pidfd_send_signal(descriptor, signal.SIGSTOP)

    def release(self) -> None:
        """Let all of them go on."""
        for descriptor in self.descriptors.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGCONT)
            os.close(descriptor)
        self.descriptors = {}


@contextmanager
def held(listed: Callable[[], Collection[int]]) -> Iterator[Hold]:
    """Hold still, within the block, every process of a unit that can write its databases, so that what it says meanwhile stays true.

    `listed` returns the unit's processes: it is asked until it names no new one and all have stopped, as any of them may have started another
    before it stopped. All are resumed on every way out. Raises TimeoutError when one cannot be stopped.
    """
    hold = Hold()
    moving: set[int] = set()
    try:
        while True:
            fresh = [pid for pid in listed() if pid not in hold.descriptors and can_write(pid)]
            for pid in fresh:
                hold.add(pid)
            moving = {pid for pid in [*moving, *fresh] if proc.is_there(pid) and not proc.is_stopped(pid)}
            if not fresh and not moving:
                break
            if time.monotonic() - hold.since > STOP_SECONDS:
                raise TimeoutError(f"{proc.described(moving or fresh)} cannot be held still")
            if moving:
                time.sleep(POLL_SECONDS)
        yield hold
    finally:
        hold.release()


def can_write(pid: int) -> bool:
    """Return whether a process of a unit may write to the databases: all may, but those on a terminal that have no file of the state open.

    Jobs on a terminal are left alone because an interactive shell reports each that stops, and takes the terminal from it.
    """
    stat = proc.stat_of(pid)
    if stat is None or stat.state in "ZX":
        return False
    return stat.terminal == 0 or any(f"/{USERDATA}/" in path for path in proc.opened(pid))


def resume_all(pids: Collection[int]) -> list[int]:
    """Let those processes of a unit go on that a hold would have stopped, and return them. Idempotent: those that run are left alone."""
    found = []
    for pid in pids:
        if can_write(pid) and proc.is_stopped(pid):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGCONT)
                found.append(pid)
    return found


def end_if(pid: int, listed: Callable[[], Collection[int]]) -> None:
    """End a process at once if, held by a pidfd, it is still among those `listed`."""
    with suppress(ProcessLookupError, PermissionError):
        descriptor = os.pidfd_open(pid)
        try:
            if pid in listed():
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
