"""A network of hosts: a namespace for each, joined by a bridge in a namespace of their own. No root is needed.

The hub is a user namespace whose owner runs the test, so that the test may enter it and lay cables. Programs of a host run in a further user
namespace, as the account of the test and without capabilities: they cannot touch the network.
"""

import os
import shutil
import subprocess
import sys
import time

SUBNET = "10.77.0"
HUB = f"{SUBNET}.1"
"""The address of the bridge, where servers of the whole fleet listen."""
READY_SECONDS = 20.0
NEEDED = ("ip", "nsenter", "setpriv", "unshare")
_WITHOUT_RIGHTS = ["setpriv", "--pdeathsig=KILL", "--inh-caps=-all", "--ambient-caps=-all", "--"]
_FOREVER = ["setpriv", "--pdeathsig=KILL", "--", "sleep", "infinity"]


def reason_not_possible() -> str:
    """Return why this machine has no such network, or ""."""
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        return f"the machine lacks {', '.join(missing)}"
    script = "ip link add name one type bridge && ip link add name two type veth peer name three && unshare --net true"
    tried = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "--", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if tried.returncode == 0 else f"no nested network namespaces: {tried.stderr.strip()[:200]}"


class Network:
    """The hub with its bridge, and the hosts on it. `close` ends it; so does the end of the test."""

    def __init__(self) -> None:
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self._addresses: dict[str, str] = {}
        self._hold("hub", ["unshare", "--user", "--map-root-user", "--net", "--", *_FOREVER])
        for words in (
            "link set lo up",
            "link add name bridge type bridge",
            f"addr add {HUB}/24 dev bridge",
            "link set bridge up",
        ):
            self._ip("hub", words)

    def add(self, host: str) -> str:
        """Add a host and return its address."""
        number = len(self._addresses) + 2
        self._addresses[host] = f"{SUBNET}.{number}"
        self._hold(host, [*self._inside("hub"), "unshare", "--net", "--", *_FOREVER])
        self._ip("hub", f"link add name to{number} type veth peer name cable netns {self._holders[host].pid}")
        self._ip("hub", f"link set to{number} master bridge")
        self._ip("hub", f"link set to{number} up")
        for words in ("link set lo up", f"addr add {self._addresses[host]}/24 dev cable", "link set cable up"):
            self._ip(host, words)
        return self._addresses[host]

    def cut(self, host: str) -> None:
        """Take the host off the network: what it sends is lost, and no connection is refused or reset."""
        self._ip("hub", f"link set {self._cable(host)} nomaster")

    def mend(self, host: str) -> None:
        """Put the host back on the network."""
        self._ip("hub", f"link set {self._cable(host)} master bridge")

    def words(self, host: str) -> list[str]:
        """Return what to put before a command so that it runs on a host, as this account and without capabilities."""
        own = ["unshare", "--user", f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}", "--"]
        return [*self._inside(host), *own, *_WITHOUT_RIGHTS]

    def close(self) -> None:
        """End the namespaces. The programs inside must have ended."""
        for holder in self._holders.values():
            holder.kill()
            holder.wait()

    def _cable(self, host: str) -> str:
        return f"to{self._addresses[host].rpartition('.')[2]}"

    def _inside(self, host: str) -> list[str]:
        return ["nsenter", "--preserve-credentials", "--user", "--net", f"--target={self._holders[host].pid}", "--"]

    def _ip(self, host: str, words: str) -> None:
        subprocess.run([*self._inside(host), "ip", *words.split()], check=True, stdout=sys.stderr)

    def _hold(self, name: str, command: list[str]) -> None:
        """Start the process that holds a namespace, and wait until it is in there."""
        holder = self._holders[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + READY_SECONDS
        while _program(holder.pid) != "sleep":
            assert holder.poll() is None, f"the namespace of {name} was not made"
            assert time.monotonic() < deadline, f"the namespace of {name} was not made in time"
            time.sleep(0.005)


def _program(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as comm:
        return comm.read().strip()
