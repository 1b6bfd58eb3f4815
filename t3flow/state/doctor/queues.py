"""Checks of the queue: access, availability, and exclusive use."""

import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from t3flow.engine.queue import LEGACY_QUEUE_NAME, QUEUE_SHARED, HintQueue, open_queue, queue_key
from t3flow.engine.queue_urls import is_sentinel, sentinel_url
from t3flow.host.host import Host
from t3flow.host.records import facts
from t3flow.state.doctor.finding import Finding, finding
from t3flow.state.sources import QUEUE_FAULT

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def queue_is_private(host: Host) -> Iterator[Finding]:
    """Check that the queue answers, and only root can write to it.

    Messages are signed and foreign ones dropped, but a flood of them still costs time.
    """
    parts = urlsplit(host.settings.queue.url)
    if is_sentinel(host.settings.queue.url):
        parts = urlsplit(sentinel_url(host.settings.queue.url).server)
    if parts.scheme in ("redis", "rediss"):
        if not parts.password and "password=" not in parts.query:
            yield finding("queue.url has no password for Redis", "set requirepass in Redis, or use a unix socket")
        if parts.scheme == "redis" and parts.hostname not in LOOPBACK:
            yield finding(
                f"the connection to the queue at {parts.hostname} is not encrypted", "use a unix socket, or rediss://"
            )
    elif parts.scheme == "unix" and not parts.password:
        path = Path(parts.path)
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o007 and _others_may_enter(path.parent):
            yield finding(
                f"every account can write to the queue's socket {path}",
                "set unixsocketperm 700 or requirepass in Redis",
            )
    yield from queue_works(host)


def queue_works(host: Host) -> Iterator[Finding]:
    """Check that the queue takes and gives a message, here and for the consumer, and say what stands in the way."""
    queue = open_queue(host.settings.queue.url, queue_key(host.settings.paths.state_dir / "queue.key"))
    noted = facts.read(host.journal, QUEUE_FAULT) or {}
    try:
        queue.storage.probe()
        yield from queue_is_not_shared(host, queue)
        fault = queue.risk()
    except Exception as error:  # the queue's client raises many types
        fault = queue.fault_of(error)
    if fault is not None:
        begin = "the queue cannot be used" if fault.is_blocking else "the queue works, but"
        yield finding(
            f"{begin}{':' if fault.is_blocking else ''} {fault.cause}", f"{fault.remedy} (no run is lost meanwhile)"
        )
    if noted and noted["cause"] != (fault.cause if fault else ""):
        yield finding(f"the consumer finds: {noted['cause']}", f"{noted['remedy']} (no run is lost meanwhile)")


def _others_may_enter(folder: Path) -> bool:
    return bool(stat.S_IMODE(folder.stat().st_mode) & 0o001)


def queue_is_not_shared(host: Host, queue: HintQueue) -> Iterator[Finding]:
    """Check that no other consumer takes messages from this queue, as a cloned machine does, and none are left under the former shared name."""
    if others := facts.read(host.journal, QUEUE_SHARED):
        key = host.settings.paths.state_dir / "queue.key"
        yield finding(
            f"another consumer takes messages from this host's queue: {', '.join(others)}",
            f"on the clone: systemctl stop t3flow; rm {key}; systemctl start t3flow (creates its own key and queue)",
        )
    if left := queue.storage.keys_of_queue(LEGACY_QUEUE_NAME):
        yield finding(
            f"Redis has messages of an earlier t3flow, which had one queue for all hosts: {', '.join(left)}",
            f"once all hosts on this Redis are upgraded: redis-cli del {' '.join(left)}",
        )
