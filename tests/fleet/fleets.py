"""A fleet of complete hosts on one network, with one Redis for all of them."""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from conftest import FIRST, left_behind
from fleet_host import Host
from network import Network
from redis_of_fleet import RedisOfFleet

from t3flow.sandbox.host import Sandbox

AT_ONCE = 3
"""Hosts that are set up at the same time."""
PAUSE_SECONDS = 0.1
BEHAVIOR = {"boot_window_ms": 20}
EXTRA = """\
[bake]
minutes = {bake_minutes}
[verify]
every_minutes = 0
"""


class Fleet:
    """Hosts, their network and their Redis. `close` ends all of it and checks for leftovers."""

    def __init__(self, *, persistent: bool = True) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="t3f-", dir="/tmp"))
        self.network = Network()
        self.hosts: dict[str, Host] = {}
        for name in ("registry", "redis"):
            (self.top / name).mkdir()
        self.redis = RedisOfFleet(self.network, self.top / "redis", persistent=persistent)
        self.publish(FIRST, {"schema_level": 30})

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def publish(self, version: str, behavior: dict[str, Any] | None = None, *, tag: str | None = "nightly") -> None:
        """Publish a build for all hosts."""
        box = object.__new__(Sandbox)
        box.top = self.top
        Sandbox.publish(box, version, {**BEHAVIOR, **(behavior or {})}, tag=tag)

    def add(
        self, names: Iterable[str], settings: Callable[[str], str], *, users: int = 1, skew_seconds: int = 0
    ) -> None:
        """Add hosts with these settings, and wait until their users pair and their consumers run."""
        made = []
        for name in names:
            top = self.top / name
            top.mkdir()
            (top / "registry").symlink_to(self.top / "registry")
            people = [f"{name}{number}" for number in range(1, users + 1)]
            made.append(Host(self.network, name, top, people, settings(name), skew_seconds))
            self.hosts[name] = made[-1]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda host: host.set_up(FIRST), made))
            list(pool.map(lambda host: host.call("start_consumer"), made))

    def until(self, holds: Callable[[], object], what: str, timeout_seconds: float = 90) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + timeout_seconds
        while not holds():
            assert time.monotonic() < deadline, f"not true within {timeout_seconds:g} s: {what}"
            time.sleep(PAUSE_SECONDS)

    def close(self) -> None:
        """End everything."""
        left = []
        for host in self.hosts.values():
            host.close()
        self.redis.kill()
        self.network.close()
        for host in self.hosts.values():
            box = object.__new__(Sandbox)
            box.top, box.config = host.top, host.top / "config.toml"
            left += left_behind(box)
            print(f"--- {host.name}\n{host.log()[-3000:]}", file=sys.stderr)
        shutil.rmtree(self.top, ignore_errors=True)
        assert not left, left
