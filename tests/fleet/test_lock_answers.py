"""Answers of a FleetLock server to a host: which are no slot, and what the host says then."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from turns import NEW, MakeHost, begin

from t3flow.fleet import keeper, known
from t3flow.fleet.keeper import Keeper
from t3flow.fleet.turn import ask
from t3flow.fleet.waiting import note_waiting
from t3flow.host.records import rejections
from t3flow.sandbox.host import free_port
from t3flow.state.fleet import fleet as collect

Serve = Callable[[int, bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve one answer to all requests; return the URL."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:100_000])

            do_GET = do_POST

            def log_message(self, *arguments: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("status", "is_silent"), [(404, False), (500, False), (502, True), (0, True)])
def test_only_silence_counts_as_silence(
    make_host: MakeHost, serve: Serve, monkeypatch: pytest.MonkeyPatch, status: int, is_silent: bool
) -> None:
    """Two failures with a day in between, during which the server answers others, let no host go on alone."""
    monkeypatch.setattr(keeper, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(keeper, "LONGEST_PAUSE_SECONDS", 0.02)
    url = serve(status, b"") if status else f"http://127.0.0.1:{free_port()}"
    host, fleet = make_host("a", url=url, alone_after_hours=1)
    known.note_unreachable(host.journal, "it did not answer", 3000.0)
    stopping = threading.Event()
    thread = threading.Thread(target=Keeper(host, fleet, stopping).repeat)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while (seconds := known.read(host.journal).unreachable_for) == 3000.0 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        stopping.set()
        thread.join(30)
    assert (seconds > 3000.0) if is_silent else (seconds == 0.0)
    assert known.read(host.journal).problem == "it did not answer"


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (404, b'{"kind": "full", "value": "b holds it"}', "gives no slot: full: b holds it (HTTP 404)"),
        (301, b"", "answered 301: no reason given; check fleet.url"),
        (500, b"<html>no</html>", "answered 500: no reason given; check fleet.url"),
        (500, b'{"kind": 3, "value": ' + b"[" * 90_000, "answered 500: no reason given; check fleet.url"),
        (409, b"\xff\xfe", "gives no slot: no reason given (HTTP 409)"),
    ],
)
def test_a_host_without_a_slot_says_why_and_shows_no_turn(
    make_host: MakeHost, serve: Serve, status: int, body: bytes, says: str
) -> None:
    host, _ = make_host("a", url=serve(status, body))
    run = begin(host)
    answer = ask(host, NEW, run, is_bump=True)
    assert not answer.is_granted
    assert answer.reason.endswith(says)
    note_waiting(host, run, NEW, answer.reason)
    found = collect(host.settings, host.journal)
    assert found is not None
    assert (found["turn"], found["waiting"] and found["waiting"]["run"]) == (None, run)


def test_rejections_of_other_hosts_end_with_the_records(make_host: MakeHost, serve: Serve) -> None:
    """A host that changes from Redis to such a server never hears that another host takes a version back."""
    host, _ = make_host("a", url=serve(200, b""))
    rejections.note_of_host(host.journal, "b", {NEW: "it failed"})
    stopping = threading.Event()
    stopping.set()
    keeper.keep(host, stopping)
    assert rejections.rejected(host.journal) == {}
