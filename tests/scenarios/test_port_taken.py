"""Somebody takes a user's port while their server is away: that user's trouble alone, and no build's.

Here the intruder is a process that is not the user's server; with an account of its own it is in tests/root.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from scenes import FIRST, NEXT, bump, deferrals, drained, everybody_is_well, results

from t3flow.host.processes import ports
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import open_journal

INTRUDER = """
import os, socket, sys, time
how, port, link = sys.argv[1], int(sys.argv[2]), sys.argv[3]
while how == "binds late" and not os.readlink(link).endswith(sys.argv[4]):
    time.sleep(0.001)
while True:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(how == "listens"))
    try:
        server.bind(("0.0.0.0", port))
        how == "listens" and server.listen()
        break
    except OSError:
        server.close()
        time.sleep(0.001)
print("taken", flush=True)
time.sleep(300)
"""


@pytest.fixture
def intrude() -> Iterator[Callable[[Sandbox, str, str], subprocess.Popen[bytes]]]:
    """Begins to try for a user's port, until it is had: by listening on it, or by only binding it once the user is led to NEXT."""
    children: list[subprocess.Popen[bytes]] = []

    def begin(box: Sandbox, user: str, how: str) -> subprocess.Popen[bytes]:
        link = box.settings.paths.versions_dir / "users" / user
        words = [sys.executable, "-c", INTRUDER, how, str(box.ports[user]), str(link), NEXT]
        children.append(subprocess.Popen(words, stdout=subprocess.PIPE))
        return children[-1]

    yield begin
    for child in children:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def revival(box: Sandbox) -> dict[str, str]:
    """Return the runs that try to start a server again: run → status."""
    return {run["run"]: run["status"] for run in box.document("runs") if run["workflow"] == "revive"}


@pytest.mark.parametrize("how", ["listens", "binds late"])
def test_a_port_that_is_taken_between_stop_and_start(
    make_box: Callable[..., Sandbox], intrude: Callable[..., subprocess.Popen[bytes]], how: str
) -> None:
    """The others are moved; nobody is blamed or frozen; the user is named, and comes back by herself once the port is free, a kill in between."""
    box = make_box(["ada", "grace"])
    box.publish(NEXT, {"schema_level": 32})
    intruder = intrude(box, "ada", how)
    document = bump(box)
    assert (document["outcome"], results(document)) == ("updated", {"ada": "deferred", "grace": "restarted"}), document
    reason = document["users"]["ada"]["reason"]
    assert f"port {box.ports['ada']} of ada is taken by " in reason
    assert f"(pid {intruder.pid}, python" in reason, reason
    assert (box.assigned("ada"), box.level("ada")) == (FIRST, 30)

    status = box.document("status")
    assert (status["frozen"], status["rejected"], status["last_good"]) == (None, {}, NEXT)
    assert status["users"]["ada"]["pairing"] == "failing"
    assert reason.partition(":")[0] in status["users"]["ada"]["pairing_reason"]
    assert any(reason in each["problem"] for each in box.document("doctor") if each["check"] == "servers")
    log = (box.top / "log/consumer.log").read_text()
    assert ("PORT TAKEN" in log, "ROLLBACK FAILED" in log, "FROZEN" in log) == (True, False, False)

    box.kill("consumer")
    box.start_consumer()
    [(run, state)] = revival(box).items()
    assert state == "running"
    intruder.kill()
    box.until(lambda: revival(box)[run] == "succeeded", "the server is up again")
    drained(box, "ada", NEXT)
    everybody_is_well(box, {"ada": NEXT, "grace": NEXT})


def test_a_rollback_meets_a_taken_port(
    make_box: Callable[..., Sandbox], intrude: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Whoever's port it is stays as they were, with their database; the others go back; and their server is started later."""
    box = make_box(["ada", "grace"])
    box.publish(NEXT, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    intruder = intrude(box, "ada", "listens")
    document = box.document("enqueue", "rollback", "--wait")
    assert results(document) == {"ada": "failed", "grace": "rolled_back"}, document
    assert "ROLLBACK FAILED" not in document["users"]["ada"]["reason"]
    assert "is taken by" in document["users"]["ada"]["reason"]
    assert (box.assigned("ada"), box.level("ada")) == (NEXT, 32)
    intruder.kill()
    box.until(lambda: list(revival(box).values()) == ["succeeded"], "the server is up again")
    everybody_is_well(box, {"ada": NEXT, "grace": FIRST})


def test_a_listener_beside_a_server_holds_its_user_back_and_is_named(make_box: Callable[..., Sandbox]) -> None:
    """On ::1, where no dispatch looks: she goes on working, is not stopped, and whoever asks is told why."""
    box = make_box(["ada", "grace"])
    box.publish(NEXT, {"schema_level": 32})
    with socket.socket(socket.AF_INET6) as beside:
        try:
            beside.bind(("::1", box.ports["ada"]))
        except OSError:
            pytest.skip("there is no ::1 here")
        beside.listen()
        assert box.pairs("ada")
        server = box.supervise("status", "ada")["main_pid"]
        assert results(bump(box)) == {"ada": "deferred", "grace": "restarted"}
        box.until(lambda: deferrals(box)["ada"]["checks"] > 0, "it was looked at again")
        pending = deferrals(box)["ada"]
        assert pending["waiting_for"] == "unreadable_state"
        assert f"(pid {os.getpid()}, " in pending["detail"], pending
        assert "on ::1 also listens" in pending["detail"]
        [found] = [each for each in box.document("doctor") if "also listens" in each["problem"]]
        assert "ada" in found["problem"]
        assert (box.pairs("ada"), box.supervise("status", "ada")["main_pid"]) == (True, server)
    drained(box, "ada", NEXT)


def test_nobody_else_is_handed_a_credential(
    make_box: Callable[..., Sandbox], intrude: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """A probe finds out whose the port is before it has one minted: whoever has it could use it, or say that all is well."""
    box = make_box(["ada"], consumer=False)
    open_journal(box.settings, create=True)
    intruder = intrude(box, "ada", "listens")
    box.supervise("stop", "ada")
    assert intruder.stdout is not None
    intruder.stdout.readline()
    before = (box.top / "log/dispatch.log").read_text()
    said = box.t3flow("verify", "ada")
    assert (said.returncode, f"(pid {intruder.pid}, " in said.stdout) == (1, True), said
    time.sleep(0.2)
    assert (box.top / "log/dispatch.log").read_text() == before


def test_whose_a_listener_is() -> None:
    """By address: what stands in a server's way, what stands beside it, and what is its own."""
    mine, none = [os.getpid()], list[int]()
    for address, shuts_out in (
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("0.0.0.0", True),
        ("::1", False),
        ("::", True),
    ):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as server:
            try:
                server.bind((address, 0))
            except OSError:
                pytest.skip("there is no IPv6 here")
            server.listen()
            port = server.getsockname()[1]
            assert [each.address for each in ports.listeners(port)] == [address]
            assert (ports.port_blocker(port, none) != "") is shuts_out, address
            assert f"(pid {os.getpid()}, " in ports.foreign_listeners(port, none)
            assert (ports.foreign_listeners(port, mine), ports.port_blocker(port, mine)) == ("", ""), address
            assert ports.is_owned_by(port, mine) is (address in ports.LOOPBACK_ADDRESSES), address
