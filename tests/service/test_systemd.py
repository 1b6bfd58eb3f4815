"""What the consumer sends to systemd, received on a socket as systemd would."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import RedisServer
from scenes import NEXT, bump, is_busy

from t3flow.sandbox.host import Sandbox
from t3flow.service.systemd import notify


class Ear:
    """A socket like systemd's, and all that it has received."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address[0] == "@" else address)
        self.socket.settimeout(0.2)
        self.heard: list[str] = []

    def hears(self, wanted: str, timeout_seconds: float = 15) -> bool:
        """Whether a word with this prefix arrives in time."""
        deadline = time.monotonic() + timeout_seconds
        while not any(word.startswith(wanted) for word in self.heard):
            if time.monotonic() > deadline:
                return False
            try:
                self.heard += self.socket.recv(4096).decode().split("\n")
            except TimeoutError:
                continue
        return True

    def forget(self) -> None:
        """Forget what was received."""
        self.heard = []


@pytest.fixture
def ear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ear]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    ear = Ear(str(tmp_path / "notify"))
    yield ear
    ear.socket.close()


def test_a_consumer_says_how_it_fares(ear: Ear, make_box: Callable[..., Sandbox]) -> None:
    """The consumer reports that it is ready, alive, and stopping; and a run's step, deferred users, a freeze, and the next bump."""
    box = make_box(["ada", "grace"])
    assert ear.hears("READY=1")
    assert ear.heard.index("READY=1") > ear.heard.index("STATUS=ending processes that a killed consumer left")
    assert ear.hears("STATUS=next bump ")
    ear.forget()
    assert ear.hears("WATCHDOG=1")
    is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    bump(box)
    assert ear.hears("STATUS=bump-"), ear.heard
    assert any("grace waits: " in word for word in ear.heard) or ear.hears("STATUS=grace waits: ")
    box.t3flow("freeze", "--reason", "demo day")
    assert ear.hears("STATUS=FROZEN: demo day")
    box.t3flow("unfreeze")
    box.t3flow("freeze", "--reason", "two\nMAINPID=1 lines " + "and much more " * 50)
    assert ear.hears("STATUS=FROZEN: two MAINPID=1 lines"), "a reason is no word to systemd"
    assert not any(word.startswith("MAINPID") for word in ear.heard)
    assert max(map(len, ear.heard)) < 320
    said = [word for word in ear.heard if word.startswith("STATUS=FROZEN: two")]
    assert all("; next bump" in word for word in said), "what follows a long reason is there"
    assert not ear.hears("STOPPING=1", 0)
    assert box.end("consumer") == 0
    assert ear.hears("STOPPING=1", 1)


def test_a_consumer_without_its_queue_says_what_it_waits_for(
    ear: Ear, make_box: Callable[..., Sandbox], redis_server: RedisServer
) -> None:
    """It is ready and alive without a queue, so systemd does not restart it."""
    box = make_box(["ada"], queue_url=redis_server.url, consumer=False)
    redis_server.stop()
    box.start_consumer()
    assert ear.hears("READY=1")
    assert ear.hears("STATUS=waiting for the queue to answer")
    ear.forget()
    assert ear.hears("WATCHDOG=1")


@pytest.mark.parametrize("address", ["", "nowhere", "/nowhere/at/all", "@nobody-listens-here"])
def test_nobody_who_listens_is_no_harm(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without systemd, nothing is raised."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


def test_an_abstract_socket_is_heard() -> None:
    """systemd may use an abstract socket; another process sends to both kinds."""
    address = f"@t3flow-test-{os.getpid()}"
    ear = Ear(address)
    program = "from t3flow.service.systemd import notify; notify('READY=1', 'STATUS=two words')"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "NOTIFY_SOCKET": address}, check=True)
    assert ear.hears("READY=1", 1)
    assert ear.heard == ["READY=1", "STATUS=two words"]
    ear.socket.close()
