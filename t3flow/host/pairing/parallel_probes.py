"""Probes of many users in parallel, until enough of them pair."""

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue

from t3flow import T3flowError
from t3flow.engine.journal import JournalError
from t3flow.engine.step import check_interrupt, pause
from t3flow.host.host import Host
from t3flow.host.pairing import probe as pairing_probe

PARALLEL_PROBES = 8
"""How many users are probed at once after a first failure: each probe costs a minting, 300 MB and some seconds of a core."""
ALONE_SECONDS = 1.5
"""How long the first user is probed alone."""
RETRY_SECONDS, RETRY_PAUSE_SECONDS = 3.0, 0.3
"""How long failed users are probed again, and how often: t3's minting does not wait for database locks."""
WAIT_SECONDS = 0.2


def probe_users(
    host: Host,
    users: list[str],
    limit_seconds: float,
    *,
    enough: int = 1,
    probe: Callable[[Host, str], None] = pairing_probe.probe,
) -> tuple[list[str], dict[str, str]]:
    """Probe users, up to PARALLEL_PROBES at once, until `enough` pair. Return the users who pair, and user → reason for the others.

    The first user is probed alone. A user whose port another process has taken appears in neither. Probes still in flight at the end finish by
    themselves, like a browser's. Raise JournalError, Interrupted.
    """
    answers: SimpleQueue[tuple[str, T3flowError | None]] = SimpleQueue()
    waiting, in_flight = deque(users), set[str]()
    paired: list[str] = []
    failed: dict[str, str] = {}
    began = time.monotonic()
    alone_until = began
    while (waiting or in_flight) and time.monotonic() - began < limit_seconds:
        if waiting and len(in_flight) < PARALLEL_PROBES and (not in_flight or time.monotonic() >= alone_until):
            user = waiting.popleft()
            in_flight.add(user)
            threading.Thread(target=_probe_one, args=(host, user, probe, answers), daemon=True).start()
            alone_until = max(alone_until, began + ALONE_SECONDS) if not failed else began
            continue
        check_interrupt()
        try:
            user, error = answers.get(timeout=WAIT_SECONDS)
        except Empty:
            continue
        in_flight.discard(user)
        if isinstance(error, JournalError):
            raise error
        if error is None:
            paired.append(user)
            failed.pop(user, None)
            if len(paired) >= enough:
                break
        elif not isinstance(error, pairing_probe.PortTaken):
            failed[user] = str(error)
            alone_until = began
        if not waiting and not in_flight and time.monotonic() - began < min(RETRY_SECONDS, limit_seconds):
            pause(RETRY_PAUSE_SECONDS)
            waiting.extend(failed)
    return paired, failed


def _probe_one(
    host: Host,
    user: str,
    probe: Callable[[Host, str], None],
    answers: "SimpleQueue[tuple[str, T3flowError | None]]",
) -> None:
    try:
        probe(host, user)
        answers.put((user, None))
    except T3flowError as error:
        answers.put((user, error))
    except Exception as error:  # without an answer from this thread, the caller would wait until its limit
        answers.put((user, pairing_probe.NotPaired(f"{type(error).__name__}: {error}")))
