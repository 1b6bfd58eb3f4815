"""What the consumer sends to systemd, received on a socket as systemd would."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from conftest import RedisServer
from ear import Ear
from scenes import NEXT, bump, is_busy

from t3flow.sandbox.host import Sandbox
from t3flow.service.systemd import notify


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
    assert ear.hears("STATUS=waiting for the queue: ")
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
