"""One real Redis for a fleet, on the bridge of its network."""

import secrets
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from conftest import redis_program
from network import HUB, Network
from redis import Redis
from redis.exceptions import RedisError

PORT = 6379
UNPACKED = Path(__file__).parents[2] / ".cache/redis/redis-server"
"""Redis 7, which `make suite` unpacks (tests/redis_faults/prepare.sh): earlier ones cannot let an account read what it may not write."""
DOCS = Path(__file__).parents[2] / "docs/fleet.md"
READY_SECONDS = 20.0


def program() -> str:
    """Return the newest redis-server at hand."""
    return str(UNPACKED) if UNPACKED.exists() else redis_program()


def has_read_only_patterns() -> bool:
    """Return whether the server can let an account read keys that it may not write."""
    said = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.partition("v=")[2].partition(".")[0]) >= 7


def documented_account(host: str, group: str, password: str) -> str:
    """Return the account of a host as docs/fleet.md says, or for an old Redis with all rights over the group."""
    if not has_read_only_patterns():
        return f"user {host} on >{password} resetkeys resetchannels ~t3flow:{group}:* &t3flow:{group}:changes +@all"
    line = next(line for line in DOCS.read_text().splitlines() if line.strip().startswith("user devvm1 on"))
    return line.strip().replace("devvm1", host).replace(":default:", f":{group}:").replace("PASSWORD", password)


class RedisOfFleet:
    """A redis-server with an account for each host, and a socket for the test. `persistent`: what it has acknowledged outlives a kill."""

    def __init__(self, network: Network, folder: Path, *, persistent: bool = True) -> None:
        self._network, self.folder = network, folder
        self.socket = folder / "admin"
        self._acl = folder / "users.acl"
        self._persistent = persistent
        self.urls: dict[str, str] = {}
        self._acl.write_text("user default off\nuser test on nopass ~* &* +@all\n")
        self.start()

    @property
    def admin(self) -> "Redis[str]":
        """Connect as the test, which may do anything."""
        return Redis(unix_socket_path=str(self.socket), username="test", password="any", decode_responses=True)

    @property
    def raw(self) -> "Redis[bytes]":
        """Connect as the test, for values that are no text."""
        return Redis(unix_socket_path=str(self.socket), username="test", password="any")

    def allow(self, host: str, group: str) -> str:
        """Add the account of a host, and return the URL with which the host reaches this server."""
        password = secrets.token_hex(8)
        with self._acl.open("a") as file:
            file.write(documented_account(host, group, password) + "\n")
        self.admin.execute_command("ACL", "LOAD")
        self.urls[host] = f"redis://{host}:{password}@{HUB}:{PORT}"
        return self.urls[host]

    def start(self) -> None:
        """Start it, with what it kept if it is persistent."""
        keeps = ["--appendonly", "yes", "--appendfsync", "always"] if self._persistent else ["--appendonly", "no"]
        words = [program(), "--bind", HUB, "--port", str(PORT), "--unixsocket", str(self.socket)]
        words += ["--save", "", "--dir", str(self.folder), "--aclfile", str(self._acl), *keeps]
        with (self.folder / "log").open("ab") as log:
            self._child = subprocess.Popen([*self._network.words("hub"), *words], stdout=log, stderr=log)
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            assert self._child.poll() is None, (self.folder / "log").read_text()[-800:]
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a power cut does."""
        self._child.send_signal(signal.SIGKILL)
        self._child.wait()
        self.socket.unlink(missing_ok=True)

    def commands(self) -> dict[str, int]:
        """Return how many commands of each kind it has handled."""
        found = self.admin.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(value["calls"]) for name, value in found.items()}

    def _answers(self) -> bool:
        with suppress(RedisError):
            return bool(self.admin.ping())
        return False
