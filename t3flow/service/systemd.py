"""What the consumer tells systemd (sd_notify(3)): that it is ready, that it lives, that it ends, and what it waits for."""

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
EVERY_SECONDS = 2.0
LONGEST_TEXT = 300


def notify(*words: str) -> None:
    """Sends words such as `READY=1` to who started this process; nobody may be listening, which is no harm."""
    address = os.environ.get(VARIABLE, "")
    if address[:1] not in ("/", "@"):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.settimeout(1)
        channel.connect(f"\0{address[1:]}" if address[0] == "@" else address)
        channel.send("\n".join(words).encode())


def status_watcher(engine: Engine, host: Host) -> Callable[[], None]:
    """Return a watcher that says what the consumer waits for. That it lives, `service/heartbeat.py` says."""
    looked = [-EVERY_SECONDS]

    def watch() -> None:
        if time.monotonic() - looked[0] >= EVERY_SECONDS:
            looked[0] = time.monotonic()
            notify(f"STATUS={status_text(engine, host)[:LONGEST_TEXT]}")

    return watch


def status_text(engine: Engine, host: Host) -> str:
    """In one line: what is being done, what holds it, who waits for what, and when the next bump is."""
    said = ["waiting for the queue to answer"] if engine.queue_unavailable.is_set() else []
    said += [f"{run.id}: {activity(host.journal, run)}" for run in at_work(engine, host)]
    if frozen := freeze.frozen(host.settings, host.journal):
        said.append(f"FROZEN: {frozen['reason']}")
    pending = deferral_records.deferrals(host.journal)
    said += [f"{entry.user} waits: {waits_for(entry.waiting_for, entry.detail)}" for entry in pending[:3]]
    if len(pending) > 3:
        said.append(f"{len(pending) - 3} more wait")
    if planned := facts.read(host.journal, NEXT_BUMP):
        said.append(f"next bump {datetime.fromtimestamp(planned['at'], schedule.zone(host.settings)):%a %H:%M}")
    return "; ".join(said) or "ready"


def at_work(engine: Engine, host: Host) -> list[Run]:
    """Return the runs that a worker of this process has now."""
    return host.journal.runs("status = 'running' and claim like ?", f"{engine.incarnation}/%")
