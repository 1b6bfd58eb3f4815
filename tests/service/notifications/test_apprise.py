"""Channels of Apprise: a child that has the URL from stdin alone, reaches the network alone, and ends in time."""

import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from receiver import hang, receiving, status

from t3flow.host.children import Children
from t3flow.service.notifications import apprise_channel, messages
from t3flow.service.notifications.apprise_channel import MISSING, send_apprise
from t3flow.service.notifications.apprise_child import redact
from t3flow.service.notifications.http_channel import NotSent

TOKEN = "a-token-of-this-service"
pytestmark = pytest.mark.processes


@pytest.fixture
def send(tmp_path: Path) -> Callable[[str], None]:
    children = Children(tmp_path / "lock")
    return lambda url: send_apprise(children, url, "k", dict(messages.of_test("k", time.time())))


def test_a_message_arrives(send: Callable[[str], None]) -> None:
    with receiving() as receiver:
        send(f"json://127.0.0.1:{receiver.port}/a/{TOKEN}")
    [request] = receiver.requests
    assert request.path == f"/a/{TOKEN}"
    assert request.document["title"].startswith("t3flow on ")
    assert "This is a test." in request.document["message"]


@pytest.mark.parametrize("code", [302, 307, 401, 500])
def test_all_but_success_is_a_failure_without_the_url(send: Callable[[str], None], code: int) -> None:
    """A redirect is not followed."""
    with receiving(status(code, Location=f"/elsewhere/{TOKEN}")) as receiver, pytest.raises(NotSent) as failed:
        send(f"json://ada:{TOKEN}@127.0.0.1:{receiver.port}/a/{TOKEN}?+X-Token={TOKEN}")
    assert [each.path.partition("?")[0] for each in receiver.requests] == [f"/a/{TOKEN}"]
    assert TOKEN not in str(failed.value)
    assert str(code) in str(failed.value)


@pytest.mark.parametrize(
    "url",
    [
        f"nosuch://{TOKEN}/b",
        "file:///etc/passwd",
        f"slack://{TOKEN}",
        "syslog://local0",
        "dbus://x",
        "gnome://x",
        "windows://x",
        f"vapid://ada@example.com/ada@example.com?keyfile=/etc/shadow&subfile=/etc/passwd&x={TOKEN}",
    ],
)
def test_what_is_no_network_service_is_refused(send: Callable[[str], None], url: str) -> None:
    with pytest.raises(NotSent) as failed:
        send(url)
    assert TOKEN not in str(failed.value)
    assert str(failed.value).isprintable()


PROBES = {
    "a file": "open('/etc/passwd')",
    "a file of the host's": "os.open('/proc/1/status', os.O_RDONLY)",
    "a file to write": "open('/tmp/t3flow-written', 'w')",
    "a program": "__import__('subprocess').run(['true'])",
    "a shell": "os.system('true')",
    "a fork": "os.fork()",
    "the log": "__import__('syslog').openlog('x')",
    "a local socket": "socket.socket(socket.AF_UNIX).connect('/run/dbus/system_bus_socket')",
}


@pytest.mark.parametrize("what", PROBES)
def test_the_child_reaches_nothing_but_the_network(tmp_path: Path, what: str) -> None:
    """With a control: without the hook, it reaches what there is."""
    program = "import os, socket, sys; from t3flow.service.notifications import apprise_child as child\n{}\n"
    program += f"try:\n    {PROBES[what]}\nexcept child.Refused: print('refused')\nexcept OSError as error: print(error)\nelse: print('done')"
    children = Children(tmp_path / "lock")
    said = [
        children.run([sys.executable, "-c", program.format(hook)], timeout_seconds=20).stdout.decode().splitlines()[0]
        for hook in ("sys.addaudithook(child.audit)", "pass")
    ]
    assert said[0] == "refused"
    assert said[1] != "refused"


def test_a_service_that_hangs_is_given_up_and_the_url_is_nowhere(
    send: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the arguments nor in the environment of any process."""
    monkeypatch.setattr(apprise_channel, "TIMEOUT_SECONDS", 4.0)
    found: list[Any] = []
    with receiving(hang) as receiver:
        failed: list[str] = []

        def work() -> None:
            try:
                send(f"json://127.0.0.1:{receiver.port}/a/{TOKEN}?rto=60&cto=60")
            except NotSent as error:
                failed.append(str(error))

        began = time.monotonic()
        thread = threading.Thread(target=work)
        thread.start()
        receiver.until(lambda: receiver.requests)
        for process in psutil.process_iter():
            with suppress(psutil.AccessDenied, psutil.NoSuchProcess):
                found.append(process.cmdline())
                found.append(list(process.environ().values()))  # which the child hides
        thread.join()
    assert time.monotonic() - began < 10
    assert len(failed) == 1
    assert TOKEN not in failed[0]
    assert [words for words in found if any(apprise_channel.PROGRAM in word for word in words)], "the child was seen"
    assert not [words for words in found if any(TOKEN in word for word in words)]


def test_without_the_extra_one_line_says_what_to_install(
    send: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apprise_channel, "find_spec", lambda name: None)
    with pytest.raises(NotSent) as failed:
        send("json://127.0.0.1:1/a")
    assert str(failed.value) == MISSING


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (f"cannot post to https://h.example/{TOKEN}: 403", f"slack://{TOKEN}/B/C"),
        ("user ada%40x, password p%40ss word", "mailto://ada%40x:p%40ss@mail.example"),
        ("Bad token ab", "tgram://ab"),
    ],
)
def test_a_cause_has_no_part_of_the_url(text: str, url: str) -> None:
    shown = redact(text, url)
    assert "***" in shown
    for part in re.split("[/:@]", url.partition("://")[2]):
        assert len(part) < 2 or not re.search(rf"\b{part}\b", shown)
