"""Browsers that never rest: one a user, which pairs, waits 100 ms, pairs again; each failure with the cause that the dispatch logged."""

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
    """A pairing that failed: whose, from when to when (epoch seconds), and why."""

    user: str
    began: float
    ended: float
    cause: str


@dataclass
class Probes:
    """What the browsers saw: how many pairings there were, and those that failed."""

    tried: int = 0
    failures: list[Failure] = field(default_factory=list)

    def causes(self) -> set[str]:
        """What went wrong, each kind once."""
        return {kind(failure.cause) for failure in self.failures}

    def outside(self, restarts: dict[str, list[tuple[float, float]]]) -> list[Failure]:
        """The failures that no restart of the user's own server overlaps."""
        return [
            failure
            for failure in self.failures
            if not any(failure.began < end and failure.ended > start for start, end in restarts.get(failure.user, []))
        ]


def kind(cause: str) -> str:
    """A cause without what differs each time."""
    return LOCKED if LOCKED in cause else cause


@contextmanager
def pairing_browsers(box: Sandbox, users: list[str], pause_seconds: float = PAUSE_SECONDS) -> Iterator[Probes]:
    """Lets browsers pair meanwhile."""
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
                    if any(LOCKED in line for line in lines):  # two wrote at once: it answers 500
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
    """When each user's server was away for a restart (epoch seconds), by the journal: from asking it to stop until that was over."""
    return restarts_in([box.journal.events(run.id) for run in box.journal.runs()])


def restarts_in(runs: Iterable[list[Event]]) -> dict[str, list[tuple[float, float]]]:
    """The same, by the events of runs."""
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
    """Whether a restart ended so: its user was verified, or taken back, or never stopped."""
    if event.step == "stop_if_idle":
        return event.kind == "completed" and not event.data["result"]["stopped"]
    return (event.step, event.kind) in {("verify_user", "completed"), ("undo_stop", "undone")}
