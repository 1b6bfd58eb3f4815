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
from t3flow.host.records import deferral_records, facts
from t3flow.periodic import NEXT_BUMP
from t3flow.settings import schedule
from t3flow.state.runs import activity

VARIABLE = "NOTIFY_SOCKET"
STATUS_INTERVAL_SECONDS = 2.0
MAX_STATUS_LENGTH = 300


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
            notify(f"STATUS={status_text(engine, host)[:MAX_STATUS_LENGTH]}")

    return watch


def status_text(engine: Engine, host: Host) -> str:
    """Return one line: the runs under way, a freeze, what deferred users wait for, and the time of the next bump."""
    parts = ["waiting for the queue to answer"] if engine.queue_unavailable.is_set() else []
    parts += [f"{run.id}: {activity(host.journal, run)}" for run in runs_under_way(engine, host)]
    if frozen := freeze.frozen(host.settings, host.journal):
        parts.append(f"FROZEN: {frozen['reason']}")
    pending = deferral_records.deferrals(host.journal)
    parts += [f"{entry.user} waits: {waits_for(entry.waiting_for, entry.detail)}" for entry in pending[:3]]
    if len(pending) > 3:
        parts.append(f"{len(pending) - 3} more wait")
    if planned := facts.read(host.journal, NEXT_BUMP):
        parts.append(f"next bump {datetime.fromtimestamp(planned['at'], schedule.zone(host.settings)):%a %H:%M}")
    return "; ".join(parts) or "ready"


def runs_under_way(engine: Engine, host: Host) -> list[Run]:
    """Return the runs that a worker of this process has."""
    return host.journal.runs("status = 'running' and claim like ?", f"{engine.incarnation}/%")
