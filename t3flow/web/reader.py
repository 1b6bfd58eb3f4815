"""The page's view of the host: read in one thread, and read again only when something has changed."""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from t3flow import T3flowError
from t3flow.engine.journal import Journal, JournalError
from t3flow.engine.reader import ReadOnlyJournal
from t3flow.settings.load import Settings
from t3flow.state.documents import Problem, Status
from t3flow.state.host import collect
from t3flow.state.sources import JOURNAL
from t3flow.web.spool import Spool

FRESH_SECONDS = 20.0
"""What no file's time tells, such as the end of the consumer's process, is looked at after this at the latest."""
Result = TypeVar("Result")
Stamp = tuple[tuple[int, int, int], ...]


class Seen(NamedTuple):
    """The host at one time. `status` and `journal` are None where the journal cannot be read; `problem` says why then."""

    status: Status | None
    journal: Journal | None
    problem: Problem | None
    zone: str

    def known(self) -> tuple[Status, Journal]:
        """Return status and journal. Raises JournalError where there is none to read."""
        if self.status is None or self.journal is None:
            assert self.problem is not None
            raise JournalError(f"{self.problem['text']}; {self.problem['remedy']}")
        return self.status, self.journal


class Reader:
    """Reads in a thread of its own, so that a slow disk never holds up the streams."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.spool = Spool(settings.paths.state_dir)
        self._path = settings.paths.state_dir / JOURNAL
        paths = settings.paths
        self._watched = [self._path, self._path.with_name(f"{JOURNAL}-wal"), paths.freeze_file, self.spool.folder]
        self._watched += [paths.versions_dir, paths.versions_dir / "users"]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._seen: tuple[Stamp, float, Seen] | None = None

    async def run(self, work: Callable[[Seen], Result]) -> Result:
        """Return what work makes of the present state. It runs in the reader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self.seen()))

    def stamp(self) -> Stamp:
        """Return what changes when the journal, the freeze file, an assignment, or the spool does: a few stat calls."""
        return tuple(_mark(path) for path in self._watched)

    def seen(self) -> Seen:
        """Return the present state of the host. Called in the reader's thread alone."""
        stamp, now = self.stamp(), time.monotonic()
        if self._seen is None or self._seen[0] != stamp or now - self._seen[1] > FRESH_SECONDS or _is_recent(stamp):
            self._seen = stamp, now, self._look()
        return self._seen[2]

    def _look(self) -> Seen:
        try:
            journal = ReadOnlyJournal(self._path)
            status = collect(self.settings, is_live=False, noted=journal)
        except PermissionError:
            return _unreadable(
                f"{self._path} cannot be read by this account, so nothing is known here",
                "restart the consumer, which opens it to the group t3flow-web: systemctl restart t3flow",
            )
        except (T3flowError, OSError) as error:
            text, _, remedy = str(error).rpartition("; ")
            return _unreadable(text or remedy, remedy if text else "see t3flow doctor")
        zone = _use_zone(status["schedule"]["timezone"])
        return Seen(status, journal, None, zone)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _unreadable(text: str, remedy: str) -> Seen:
    return Seen(None, None, Problem(key="journal", user=None, text=text, remedy=remedy), _use_zone(None))


def _mark(path: Path) -> tuple[int, int, int]:
    try:
        status = path.lstat()
    except OSError:
        return 0, 0, 0
    return status.st_mtime_ns, status.st_size, status.st_ino


def _is_recent(stamp: Stamp) -> bool:
    """Return whether a file was written so lately that a further write may not show: file systems count time in steps of some milliseconds."""
    return abs(time.time_ns() - max(mark[0] for mark in stamp)) < 20_000_000


def _use_zone(name: str | None) -> str:
    """Make the schedule's time zone this process's, so that every time on the page is by that clock, and return it in words."""
    if name and os.environ.get("TZ") != name:
        os.environ["TZ"] = name
        time.tzset()
    now = datetime.now().astimezone()
    offset = f"UTC{now:%z}"
    return f"{name or 'the local time zone'} ({now:%Z}, {offset[:-2]}:{offset[-2:]})"
