"""A receiver of messages on loopback: real HTTP, as slow, rude or broken as a test wants it."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler"], None]


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    at: float
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def key(self) -> str:
        return self.headers["idempotency-key"]


@dataclass
class Receiver:
    """Where requests come in. `answer` is called with the handler of each, after it was recorded."""

    port: int
    answer: Answer
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, path: str) -> list[Request]:
        """Return the requests whose path begins so."""
        return [each for each in list(self.requests) if each.path.startswith(path)]

    def documents(self, path: str = "/hook") -> list[dict[str, Any]]:
        """Return the documents of a path, one for each key."""
        return list({each.key: each.document for each in self.of(path)}.values())

    def until(self, holds: Callable[[], Any], timeout_seconds: float = 20) -> None:
        """Wait until something came in."""
        deadline = time.monotonic() + timeout_seconds
        while not holds():
            assert time.monotonic() < deadline, [(each.path, each.body[:300]) for each in self.requests]
            time.sleep(0.02)


class Handler(BaseHTTPRequestHandler):
    """Records a request and lets the receiver answer."""

    receiver: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.receiver.requests.append(Request(time.time(), self.command, self.path, headers, body))
        with suppress(OSError):
            self.receiver.answer(self)

    do_GET = do_HEAD = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


def status(code: int, **headers: str) -> Answer:
    """Answer with a status."""

    def answer(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


def raw(data: bytes, *, again: bytes = b"") -> Answer:
    """Answer with these bytes, then with others for ever, or close."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(data)
        while again:
            handler.wfile.write(again)
            time.sleep(0.01)
        handler.connection.shutdown(socket.SHUT_RDWR)

    return answer


def hang(handler: Handler) -> None:
    """Never answer, until the sender goes away."""
    handler.connection.settimeout(60)
    handler.connection.recv(1)


@contextmanager
def receiving(answer: Answer = status(200), port: int = 0) -> Iterator[Receiver]:  # noqa: B008
    """Receive on a port of loopback."""

    class Mine(Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Mine)
    server.daemon_threads = True
    server.block_on_close = False
    receiver = Mine.receiver = Receiver(server.server_address[1], answer)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
