"""Answers of a FleetLock server to a host: which are no slot, and what the host says then."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from turns import NEW, MakeHost, begin

from t3flow.fleet.turn import ask
from t3flow.fleet.waiting import note_waiting
from t3flow.state.fleet import fleet as collect

Serve = Callable[[int, bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve one answer to all requests; return the URL."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:100_000])

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
