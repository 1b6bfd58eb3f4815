"""Browsers that pair in a loop, one for each user, 100 ms apart. Each failure has the cause that the dispatch logged."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from t3flow.engine.journal import Event
from t3flow.host.host import HostError, open_host
from t3flow.host.pairing import probe
from t3flow.sandbox.host import Sandbox

PAUSE_SECONDS = 0.1
LOCKED = "database is locked"


@dataclass(frozen=True)
class Failure:
    """A failed pairing of a user, with its begin and end (epoch seconds) and cause."""

    user: str
    began: float
    ended: float
    cause: str


@dataclass
class Probes:
    """The number of pairings, and the failures."""

    tried: int = 0
    failures: list[Failure] = field(default_factory=list)

    def causes(self) -> set[str]:
        """Return the distinct causes."""
        return {kind(failure.cause) for failure in self.failures}

    def outside(self, restarts: dict[str, list[tuple[float, float]]]) -> list[Failure]:
        """Return the failures that overlap no restart of the user's own server."""
        return [
            failure
            for failure in self.failures
            if not any(failure.began < end and failure.ended > start for start, end in restarts.get(failure.user, []))
        ]


def kind(cause: str) -> str:
    """Return a cause without its variable part."""
    return LOCKED if LOCKED in cause else cause


@contextmanager
def pairing_browsers(box: Sandbox, users: list[str], pause_seconds: float = PAUSE_SECONDS) -> Iterator[Probes]:
    """Let browsers pair inside the block; yield their results."""
    found, stop, mutex = Probes(), threading.Event(), threading.Lock()
    host = open_host(box.settings, box.journal)
    log = box.top / "log" / "dispatch.log"

    def browse(user: str) -> None:
        server_log = box.top / "log" / f"t3-serve@{user}.log"
        while not stop.is_set():
            mark, server_mark = (path.stat().st_size if path.exists() else 0 for path in (log, server_log))
            began, cause = time.time(), ""
            try:
                probe.pair_once(host, user)
            except (probe.NotPaired, HostError) as error:
                with log.open(errors="replace") as lines:
                    lines.seek(mark)
                    logged = [line.strip() for line in lines if f" {user} " in line and "paired" not in line]
                cause = logged[-1] if logged else str(error)
                with server_log.open(errors="replace") as lines:
                    lines.seek(server_mark)
                    if any(LOCKED in line for line in lines):  # two writers at once: the server returns 500
                        cause += f": {LOCKED}"
            with mutex:
                found.tried += 1
                if cause:
                    found.failures.append(Failure(user, began, time.time(), cause))
            stop.wait(pause_seconds)

    threads = [threading.Thread(target=browse, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def restarts(box: Sandbox) -> dict[str, list[tuple[float, float]]]:
    """Return the restarts of each user in the journal as (begin, end) in epoch seconds, from the stop to the end of the restart."""
    return restarts_in([box.journal.events(run.id) for run in box.journal.runs()])


def restarts_in(runs: Iterable[list[Event]]) -> dict[str, list[tuple[float, float]]]:
    """Return the restarts in the events of these runs."""
    found: dict[str, list[tuple[float, float]]] = {}
    for events in runs:
        user, since = "", 0.0
        for event in events:
            if event.kind == "started" and event.step == "stop_if_idle":
                user, since = str(event.data["args"][0]), event.at
            elif user and _is_over(event):
                found.setdefault(user, []).append((since, event.at))
                user = ""
    return found


def _is_over(event: Event) -> bool:
    """Return whether the event ends a restart: verified, compensated, or not stopped at all."""
    if event.step == "stop_if_idle":
        return event.kind == "completed" and not event.data["result"]["stopped"]
    return (event.step, event.kind) in {("verify_user", "completed"), ("undo_stop", "undone")}
