"""Recorded states of hosts, each left by a consumer of an earlier t3flow that was killed with runs and deferrals in flight, and their replay.

A state is an archive with the files of a sandbox but its slots and registry, which are made anew, and the keys of Redis. It is unpacked to the path at
which it was recorded, because paths are in the journal.
"""

import base64
import json
import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

from redis import Redis

from t3flow.host.slots.launcher import install_launcher
from t3flow.sandbox.dispatch import MINT_SECONDS
from t3flow.sandbox.enter import has_own_network
from t3flow.sandbox.host import FOREIGN, READY_SECONDS, Sandbox
from t3flow.sandbox.node import link_node

STATES = Path(__file__).parent.parent / "data" / "journals"
KEY = b"the key of recorded test queues."
FIRST, NEXT = "0.0.24", "0.0.25-nightly.20260609.501"
BAD, LATER = "0.0.25-nightly.20260610.502", "0.0.25-nightly.20260611.503"
USERS = ["ada", "grace", "linus"]
BEHAVIORS: dict[str, dict[str, Any]] = {
    FIRST: {"schema_level": 30},
    NEXT: {"schema_level": 32},
    BAD: {"schema_level": 32, "rules": [{"fault": "pairing_500", "when": {}}]},
    LATER: {"schema_level": 32, "rules": [{"fault": "slow_start", "seconds": 3, "when": {}}]},
}
KEPT = ("config.toml", "state", "etc", "backups", "home", "scratch", "opt", "recorded.json")
LEFT_OUT = re.compile(r"/versions(/|$)|/tools(/|$)|\.sock$|\.lock$|/replaced-|/log(/|$)")


def top_of(commit: str, kind: str) -> Path:
    """Return the folder of a state, the same at recording and replay."""
    return Path(f"/tmp/t3u-{commit}-{kind}")


def pack(top: Path, archive: Path) -> None:
    """Store the files of a sandbox whose processes have ended."""

    def keep(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        is_plain = entry.isfile() or entry.isdir() or entry.issym()
        if not is_plain or LEFT_OUT.search(f"/{entry.name}"):
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(archive, "w:xz") as file:
        for name in KEPT:
            if (top / name).exists():
                file.add(top / name, name, filter=keep)


class Replayed(Sandbox):
    """A sandbox as a killed consumer left it, with registry, slots, and servers made anew. The consumer is not started."""

    def __init__(self, name: str, queue_url: str = "") -> None:
        commit, _, kind = name.partition("-")
        self.top = top_of(commit, kind)
        shutil.rmtree(self.top, ignore_errors=True)
        self.top.mkdir(mode=0o755)
        with tarfile.open(STATES / f"{name}.tar.xz") as file:
            file.extractall(self.top, filter="fully_trusted" if os.geteuid() == 0 else "tar")
        self.recorded: dict[str, Any] = json.loads((self.top / "recorded.json").read_text())
        self.users = USERS
        self.config = self.top / "config.toml"
        text = self.config.read_text()
        if queue_url:
            text = re.sub(r'(?m)^url = "unix://.*"$', f'url = "{queue_url}"', text)
            self.config.write_text(text)
        self.ports = {
            user: int((self.top / "etc/t3-serve" / f"{user}.env").read_text().partition("=")[2]) for user in USERS
        }
        self.dispatch_port = int(re.findall(r'url = "http://127\.0\.0\.1:(\d+)"', text)[0])
        self.address = "0.0.0.0" if has_own_network() else "127.0.0.1"
        self.processes = {}
        self.prefix = []
        self.requests = None
        self.ready_seconds, self.mint_seconds = READY_SECONDS, MINT_SECONDS
        for folder in ("bin", "scratch", "log", "registry", "opt/t3/versions"):
            (self.top / folder).mkdir(parents=True, exist_ok=True)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)},
            "HOME": str(self.top / "home"),
            "T3FLOW_CONFIG": str(self.config),
            "PATH": f"{link_node(self.top / 'tools')}:{os.environ['PATH']}",
        }

    def restore(self) -> None:
        """Start everything but the consumer."""
        journal = self.top / "state" / "journal.db"
        aside = journal.with_name("recorded.db")
        journal.rename(
            aside
        )  # installing slots opens the journal, which the present program must first meet as it was left
        self.start_registry()
        for version, behavior in BEHAVIORS.items():
            self.publish(version, behavior)
            if version != BAD:
                self.install_slot(version)
        for path in journal.parent.glob("journal.db*"):
            path.unlink()
        aside.rename(journal)
        install_launcher(self.top / "bin" / "t3", self.top / "opt" / "t3", sandbox=True)
        self.start_supervisor()
        self.start_dispatch()
        for user in self.users:
            self.supervise("start", user)


def dump_redis(redis: Redis) -> list[list[Any]]:
    """Return the keys of Redis, their kinds, and their members, as JSON can carry them."""
    text = lambda data: base64.b64encode(data).decode()  # noqa: E731
    found: list[list[Any]] = []
    for key in sorted(redis.keys("huey.*")):
        kind = redis.type(key).decode()
        if kind == "zset" and b"consumers" not in key:
            found.append(
                [key.decode(), kind, [[text(data), score] for data, score in redis.zrange(key, 0, -1, withscores=True)]]
            )
        elif kind == "list":
            found.append([key.decode(), kind, [text(data) for data in redis.lrange(key, 0, -1)]])
        elif kind == "hash":
            found.append(
                [key.decode(), kind, [[text(name), text(value)] for name, value in redis.hgetall(key).items()]]
            )
    return found


def load_redis(redis: Redis, found: list[list[Any]], former: str, name: str) -> None:
    """Write the keys that `dump_redis` returned; a queue that was named after the recording machine gets this machine's name."""
    data = base64.b64decode
    for key, kind, members in found:
        target = key.replace(former, name) if former != "t3flow" else key
        if kind == "zset":
            redis.zadd(target, {data(member): score for member, score in members})
        elif kind == "list":
            redis.rpush(target, *(data(member) for member in members))
        else:
            redis.hset(target, mapping={data(field): data(value) for field, value in members})
