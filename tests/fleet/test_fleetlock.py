"""A fleet on a FleetLock server: one host at a time, and none while the server does not answer or another host holds the slot."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LATER, NEXT
from fleets import Fleet
from network import HUB
from waves import assert_at_most, nights

pytestmark = pytest.mark.processes
SERVER, PORT = Path(__file__).with_name("fleetlock_server.py"), 8080
BROKEN = {"fault": "pairing_500", "when": {"not_scratch": True}}


class Server:
    """The server on the bridge of a fleet's network, with one slot for each group."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._state, self._log = fleet, fleet.top / "holders.json", fleet.top / "fleetlock.log"
        self.start()

    def start(self) -> None:
        """Start it with what it knew."""
        words = [*self._fleet.network.words("hub"), sys.executable, str(SERVER), HUB, str(PORT), "1", str(self._state)]
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(words, stdout=log, stderr=log)
        self._fleet.until(lambda: self._log.read_text().rstrip().endswith("ready"), "the FleetLock server is ready")

    def kill(self) -> None:
        """End it as a power cut does."""
        self._child.kill()
        self._child.wait()

    def holders(self) -> list[str]:
        """Return the hosts that hold a slot of the group."""
        return list(json.loads(self._state.read_text()).get("default", [])) if self._state.exists() else []

    def answers(self) -> set[tuple[str, int, str]]:
        """Return the path, status and kind of error of all requests, except those that only ask whether it answers."""
        found = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return {(each["path"], each["status"], each.get("kind", "")) for each in found if each["path"] != "/base/"}


@pytest.mark.timeout(600)
def test_nights_on_a_fleetlock_server(make_fleet: Callable[..., Fleet]) -> None:
    """A good night, a night without the server, and a bad night, after which an operator frees the slot. The server refused no request as malformed."""
    fleet = make_fleet()
    server = Server(fleet)
    try:
        fleet.add("ab", url=f"http://{HUB}:{PORT}/base")
        for host in fleet.hosts.values():
            host.retry_s = "3"  # such a server tells no news
        fleet.start("ab")
        fleet.publish(NEXT, {"schema_level": 32})
        found = nights(fleet, fleet.bumps("ab", NEXT), NEXT)
        assert_at_most(1, found)
        fleet.until(lambda: not server.holders(), "the slot is given back")

        server.kill()
        fleet.publish(LATER, {"schema_level": 32, "rules": [BROKEN]})
        runs = fleet.begin_bumps("a", LATER)
        fleet.until(lambda: "does not answer" in fleet["a"].waits_because(runs["a"]), "it waits for the server")
        assert fleet["a"].stops(runs["a"]) == 0
        fleet["a"].t3flow("cancel", runs["a"])
        fleet.until(lambda: fleet.outcomes(runs) == {"a": "cancelled"}, "its wait can be cancelled")
        server.start()

        runs = fleet.begin_bumps("a", LATER)
        fleet.until(lambda: fleet.outcomes(runs) == {"a": "rolled_back"}, "the build hurts one host")
        runs = fleet.begin_bumps("b", LATER)
        fleet.until(lambda: "semaphore" in fleet["b"].waits_because(runs["b"]), "the other one gets no slot")
        assert (server.holders(), fleet["b"].stops(runs["b"]), fleet.on(NEXT)) == (["a"], 0, "ab")
        fleet["b"].t3flow("cancel", runs["b"])
        assert fleet["b"].call("t3flow", "fleet", "release", "a")["code"] == 0
        assert server.holders() == []
    finally:
        server.kill()
    allowed = {200, 404}
    assert {status for _, status, _ in server.answers()} == allowed
    assert {kind for _, _, kind in server.answers()} == {"", "failed_lock_semaphore_full"}
