"""Notifications to systemd (sd_notify(3)), and the status line that `systemctl status t3flow` shows."""

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from t3flow.deferrals.causes import waits_for
from t3flow.engine.engine import Engine
from t3flow.engine.journal import Run
from t3flow.host import freeze
from t3flow.host.host import Host
from t3flow.host.pairing import last_pairings, verify_records
from t3flow.host.records import deferral_records, facts
from t3flow.periodic import NEXT_BUMP
from t3flow.settings import schedule
from t3flow.state.runs import activity
from t3flow.state.short import short_id
from t3flow.state.text import clean, clipped
from t3flow.state.wording import names

VARIABLE = "NOTIFY_SOCKET"
STATUS_INTERVAL_SECONDS = 2.0
MAX_STATUS_LENGTH, MAX_PART_LENGTH, MAX_FAULT_LENGTH = 300, 100, 180
MOST_WAITING = 3


def notify(*words: str) -> None:
    """Send words such as `READY=1` to the service manager. Best effort: a no-op if there is none."""
    address = os.environ.get(VARIABLE, "")
    if address[:1] not in ("/", "@"):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.settimeout(1)
        channel.connect(f"\0{address[1:]}" if address[0] == "@" else address)
        channel.send("\n".join(words).encode())


def status_watcher(engine: Engine, host: Host) -> Callable[[], None]:
    """Return a watcher that sends the status line. The watchdog has a thread of its own: see `heartbeat`."""
    sent_at = -STATUS_INTERVAL_SECONDS

    def watch() -> None:
        nonlocal sent_at
        if time.monotonic() - sent_at >= STATUS_INTERVAL_SECONDS:
            sent_at = time.monotonic()
            notify(f"STATUS={status_text(engine, host)}")

    return watch


def status_text(engine: Engine, host: Host) -> str:
    """Return one line, the most important first: a freeze, the queue, runs under way, who cannot pair, what deferred users wait for, the next bump.

    It is in the words of `status`. What does not fit MAX_STATUS_LENGTH is cut off at its end.
    """
    parts = []
    if frozen := freeze.frozen(host.settings, host.journal):
        parts.append(f"FROZEN: {clipped(frozen['reason'], MAX_PART_LENGTH)}")
    if fault := engine.queue_fault:
        begin = "waiting for the queue: " if fault.is_blocking else ""
        parts.append(clipped(f"{begin}{fault.cause}", MAX_FAULT_LENGTH))
    for run in runs_under_way(engine, host):
        parts.append(clipped(f"{short_id(run.id)}: {activity(host.journal, run)}", MAX_PART_LENGTH))
    if verify_records.dispatch_fault(host.journal) is not None:
        parts.append("no user can pair: see t3flow status")
    elif unpaired := [user for user, last in last_pairings.pairings(host.journal).items() if last["reason"]]:
        parts.append(f"{names(unpaired)} cannot pair")
    pending = deferral_records.deferrals(host.journal)
    parts += [
        clipped(f"{entry.user} waits: {waits_for(entry.waiting_for, entry.detail)}", MAX_PART_LENGTH)
        for entry in pending[:MOST_WAITING]
    ]
    if len(pending) > MOST_WAITING:
        parts.append(f"{len(pending) - MOST_WAITING} more wait")
    if planned := facts.read(host.journal, NEXT_BUMP):
        parts.append(f"next bump {datetime.fromtimestamp(planned['at'], schedule.zone(host.settings)):%a %H:%M}")
    return clipped(clean(" ".join("; ".join(parts).split())), MAX_STATUS_LENGTH) or "ready"


def runs_under_way(engine: Engine, host: Host) -> list[Run]:
    """Return the runs that a worker of this process has."""
    return host.journal.runs("status = 'running' and claim like ?", f"{engine.incarnation}/%")
