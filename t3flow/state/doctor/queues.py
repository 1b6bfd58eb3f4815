"""The doctor on the queue: who can write to it, whether it answers, and whether it is this host's alone."""

import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from t3flow.engine.queue import LEGACY_QUEUE_NAME, QUEUE_SHARED, HintQueue, open_queue, queue_key
from t3flow.host.host import Host
from t3flow.host.records import facts
from t3flow.state.doctor.finding import Finding, finding

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def queue_is_private(host: Host) -> Iterator[Finding]:
    """Nobody but root can write to the queue. Messages are signed, so that what others write is dropped; a flood is a nuisance all the same."""
    parts = urlsplit(host.settings.queue.url)
    if parts.scheme in ("redis", "rediss"):
        if not parts.password and "password=" not in parts.query:
            yield finding("the queue's Redis has no password in queue.url", "set requirepass, or use a unix socket")
        if parts.scheme == "redis" and parts.hostname not in LOOPBACK:
            yield finding(
                f"the queue is reached over the network, in clear ({parts.hostname})", "use a unix socket, or rediss://"
            )
    elif parts.scheme == "unix" and not parts.password:
        path = Path(parts.path)
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o007 and _is_open(path.parent):
            yield finding(f"everybody may write to the queue's socket {path}", "unixsocketperm 700, or a password")
    try:
        queue = open_queue(host.settings.queue.url, queue_key(host.settings.paths.state_dir / "queue.key"))
        queue.pending_count()
        yield from queue_is_ours(host, queue)
    except Exception as error:  # whatever the client of the queue raises
        yield finding(
            f"the queue does not answer: {type(error).__name__}",
            "start it, or set queue.url; nothing is lost meanwhile",
        )


def _is_open(folder: Path) -> bool:
    return bool(stat.S_IMODE(folder.stat().st_mode) & 0o001)


def queue_is_ours(host: Host, queue: HintQueue) -> Iterator[Finding]:
    """No other consumer takes messages from this host's queue, as a copy of a whole machine does; none are left under the one name of earlier."""
    if others := facts.read(host.journal, QUEUE_SHARED):
        key = host.settings.paths.state_dir / "queue.key"
        yield finding(
            f"another consumer takes messages from this host's queue: {', '.join(others)}",
            f"on the copy: systemctl stop t3flow; rm {key}; systemctl start t3flow (a key, and with it a queue, of its own is made)",
        )
    if left := queue.storage.keys_of_queue(LEGACY_QUEUE_NAME):
        yield finding(
            f"the queue's Redis has messages of an earlier t3flow, which had one queue for all hosts: {', '.join(left)}",
            f"once every host there has this t3flow: redis-cli del {' '.join(left)}",
        )
