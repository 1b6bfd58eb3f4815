"""The tests' own FleetLock server holds clients to the specification: else what a client does on it would prove nothing."""

import http.client
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from t3flow.sandbox.host import free_port

SERVER = Path(__file__).with_name("fleetlock_server.py")
GOOD = {"fleet-lock-protocol": "true", "Content-Type": "application/json"}
pytestmark = pytest.mark.processes
Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    """Send a request to a server with one slot; give the status and the kind of error."""
    port = free_port()
    words = [sys.executable, str(SERVER), "127.0.0.1", str(port), "1", str(tmp_path / "holders.json")]
    server = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"

    def send(path: str, body: Any, *, method: str = "POST", headers: dict[str, str] = GOOD) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, f"/base/v1/{path}", content, headers)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status == 200:
            assert said == b""
            return 200, ""
        error = json.loads(said) if said else {"kind": "", "value": "HEAD"}
        assert set(error) == {"kind", "value"}
        return answer.status, error["kind"]

    yield send
    server.kill()
    server.wait()


def of(client: Any, group: Any = "default") -> dict[str, Any]:
    """Return the body of a client."""
    return {"client_params": {"id": client, "group": group}}


def test_it_is_an_owned_and_recursive_semaphore_for_each_group(ask: Ask) -> None:
    assert ask("pre-reboot", of("one")) == (200, "")
    assert ask("pre-reboot", of("one")) == (200, "")
    assert ask("pre-reboot", of("two")) == (404, "failed_lock_semaphore_full")
    assert ask("pre-reboot", of("two", "other")) == (200, "")
    assert ask("steady-state", of("two")) == (200, "")
    assert ask("pre-reboot", of("two")) == (404, "failed_lock_semaphore_full"), "only the owner releases"
    assert ask("steady-state", of("one")) == (200, "")
    assert ask("pre-reboot", of("two")) == (200, "")


@pytest.mark.parametrize(
    ("kind", "body", "more"),
    [
        ("no_protocol_header", of("one"), {"headers": {"Content-Type": "application/json"}}),
        ("no_protocol_header", of("one"), {"headers": {**GOOD, "fleet-lock-protocol": "True"}}),
        ("wrong_content_type", of("one"), {"headers": {**GOOD, "Content-Type": "text/plain"}}),
        ("wrong_method", of("one"), {"method": "GET"}),
        ("no_json", b"{", {}),
        ("no_client_params", {}, {}),
        ("no_client_id", of(""), {}),
        ("no_client_id", of(7), {}),
        ("no_client_group", of("one", "a b"), {}),
        ("no_client_group", of("one", ""), {}),
        ("unknown_keys", {**of("one"), "slot": 1}, {}),
    ],
)
def test_what_the_specification_does_not_allow_is_refused(ask: Ask, kind: str, body: Any, more: dict[str, Any]) -> None:
    status, told = ask("pre-reboot", body, **more)
    assert (status >= 400, told) == (True, kind)
    assert ask("pre-reboot", of("another")) == (200, ""), "no slot was taken"
