"""A fleet of complete hosts on one network, with one Redis for all of them."""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from conftest import FIRST, left_behind
from fleet_host import Host
from network import HUB, Network
from redis_of_fleet import PORT, RedisOfFleet

from t3flow.fleet import signatures
from t3flow.sandbox.host import Sandbox

AT_ONCE = 3
"""Hosts that are set up at the same time."""
PAUSE_SECONDS = 0.1
BEHAVIOR = {"boot_window_ms": 20}
BAKE_MINUTES = 0.01
SETTINGS = """\
[bake]
minutes = {bake_minutes}
[verify]
every_minutes = 0
[fleet]
url = "{url}"
group = "{group}"
host = "{host}"
slots = {slots}
wave = {wave}
key_file = "{top}/{host}/fleet.key"
peers = "{top}/{group}.peers"
{more}
"""


class Fleet:
    """Hosts, their network and their Redis. `close` ends all of it and checks for leftovers."""

    def __init__(self, *, persistent: bool = True, patience_seconds: float = 90) -> None:
        self._patience_seconds = patience_seconds
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
        self,
        names: str,
        *,
        wave: int = 0,
        group: str = "default",
        slots: int = 1,
        users: int = 1,
        url: str = "",
        skew_seconds: int = 0,
        bake_minutes: float = BAKE_MINUTES,
        more: str = "",
    ) -> None:
        """Create hosts, a letter each: keys, account of Redis (unless there is a `url`), namespaces. `more`: settings of the section `fleet`."""
        for name in names:
            (self.top / name).mkdir()
            (self.top / name / "registry").symlink_to(self.top / "registry")
            self.trust(name, group)
            text = SETTINGS.format(
                bake_minutes=bake_minutes,
                url=url or self.redis.allow(name, group),
                group=group,
                host=name,
                slots=slots,
                wave=wave,
                top=self.top,
                more=more,
            )
            people = [f"{name}{number}" for number in range(1, users + 1)]
            self.hosts[name] = Host(self.network, name, self.top / name, people, text, skew_seconds)

    def through_gateway(self, name: str) -> None:
        """Lead a host that was not started yet to Redis through a gateway on the host, where its consumer can be killed at a command."""
        port = self.hosts[name].call("start_gateway", HUB, PORT)
        self.hosts[name].edit(f"@{HUB}:{PORT}", f"@127.0.0.1:{port}")

    def trust(self, name: str, group: str) -> None:
        """Create the key of a host, and let all hosts of the group know it."""
        key, peers = self.top / name / "fleet.key", self.top / f"{group}.peers"
        signatures.create_private_key(key)
        peers.mkdir(exist_ok=True)
        (peers / f"{name}.pub").write_text(signatures.encoded(signatures.private_key(key).public_key()))

    def start(self, names: str) -> None:
        """Start everything on these hosts, and wait until their users pair and their consumers run."""
        made = [self.hosts[name] for name in names]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda host: host.set_up(FIRST), made))
            list(pool.map(lambda host: host.call("start_consumer"), made))

    def begin_bumps(self, names: str, version: str) -> dict[str, str]:
        """Begin a bump to the published version on these hosts, in this order, and return the runs. npm's part is done before: it is not under test."""
        hosts = [self.hosts[name] for name in names]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda host: host.call("install_slot", version), hosts))
            said = list(pool.map(lambda host: host.document("enqueue", "bump"), hosts))
        return {host.name: str(document["run"]) for host, document in zip(hosts, said, strict=True)}

    def bumps(self, names: str, version: str) -> dict[str, str]:
        """Bump these hosts, and wait until all have taken the version and finished their bake."""
        runs = self.begin_bumps(names, version)
        self.until(lambda: all(self.hosts[name].baked(version) for name in names), f"{names} have baked {version}")
        return runs

    def outcomes(self, runs: dict[str, str]) -> dict[str, str | None]:
        """Return the outcome of each of these runs, None while it goes on."""
        return {name: self.hosts[name].journal.run(run).outcome for name, run in runs.items()}

    def on(self, version: str) -> str:
        """Return the names of the hosts whose users all have a version."""
        return "".join(sorted(name for name, host in self.hosts.items() if set(host.versions().values()) == {version}))

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + self._patience_seconds
        while not holds():
            assert time.monotonic() < deadline, f"not true within {self._patience_seconds:g} s: {what}"
            time.sleep(PAUSE_SECONDS)

    def close(self) -> None:
        """End everything."""
        left = []
        with ThreadPoolExecutor() as pool:
            list(pool.map(Host.close, self.hosts.values()))
        self.redis.kill()
        self.network.close()
        for host in self.hosts.values():
            box = object.__new__(Sandbox)
            box.top, box.config = host.top, host.top / "config.toml"
            left += left_behind(box)
            print(f"--- {host.name}\n{host.log()[-3000:]}", file=sys.stderr)
        shutil.rmtree(self.top, ignore_errors=True)
        assert not left, left
