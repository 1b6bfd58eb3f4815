"""The HTTP server for Prometheus, on a Unix socket or a port on loopback: one thread, which slow or many clients cannot multiply or block.

A client gets CLIENT_SECONDS for its request, and as long for the response. The listener drops the oldest of more than MAX_CLIENTS, so that
clients that only wait do not shut out others. It makes the metrics at most once in FRESH_SECONDS.
"""

import asyncio
import os
import re
import secrets
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from loguru import logger

from t3flow import T3flowError
from t3flow.service.metrics.collector import CONTENT_TYPE

UNIX = "unix://"
CLIENT_SECONDS = 5.0
MAX_CLIENTS = 32
MAX_HEAD_BYTES = 8192
FRESH_SECONDS = 1.0
LOOPBACK = re.compile(r"(127\.0\.0\.1|\[::1\]|localhost)(:[0-9]+)?")
MAX_SOCKET_BYTES = 107
STATUSES = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


class ListenProblem(T3flowError):
    """The address cannot be listened on. The text says why, and what to do."""


def bind(address: str) -> socket.socket:
    """Return a socket that listens on `metrics.listen`. Raises ListenProblem.

    A Unix socket is as open as the textfile: the folder decides which accounts reach it. It replaces one that a former consumer left, and no other
    kind of file.
    """
    try:
        if address.startswith(UNIX):
            return _bind_unix(Path(address.removeprefix(UNIX)))
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if host == "[::1]" else socket.AF_INET
        listening = socket.create_server((host.strip("[]"), int(port)), family=family)
        listening.setblocking(False)
        return listening
    except OSError as error:
        reason = error.strerror or str(error)
        raise ListenProblem(
            f"metrics.listen: cannot listen on {address} ({reason}), so no metrics are served"
        ) from error


def _bind_unix(path: Path) -> socket.socket:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(0, "there is a file that is not a socket")
    fresh = path.with_name(f".{secrets.token_hex(3)}")
    if len(os.fsencode(path)) > MAX_SOCKET_BYTES:
        raise OSError(0, "its path is too long for a socket")
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(str(fresh))
        os.chmod(fresh, 0o666)
        listening.listen(MAX_CLIENTS)
        os.rename(fresh, path)
    except OSError:
        listening.close()
        with suppress(OSError):
            fresh.unlink()
        raise
    listening.setblocking(False)
    return listening


class Listener:
    """Serves `GET /metrics` with what `text` returns, from a thread of its own that ends with the process."""

    def __init__(self, listening: socket.socket, text: Callable[[], bytes]) -> None:
        self._listening = listening
        self._text = text
        self._made, self._made_at = b"", -FRESH_SECONDS
        self._clients: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._failure = ""
        threading.Thread(target=lambda: asyncio.run(self._serve()), name="metrics-http", daemon=True).start()

    async def _serve(self) -> None:
        start = asyncio.start_unix_server if self._listening.family == socket.AF_UNIX else asyncio.start_server
        server = await start(self._accept, sock=self._listening, limit=MAX_HEAD_BYTES)
        async with server:
            await server.serve_forever()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients[task] = None
        if len(self._clients) > MAX_CLIENTS:
            oldest = next(iter(self._clients))
            del self._clients[oldest]  # now, as many clients may come before it ends
            oldest.cancel()
        try:
            async with asyncio.timeout(CLIENT_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            answer = self._answer(head)  # on a large or loaded host this takes longer than a client gets
            async with asyncio.timeout(CLIENT_SECONDS):
                writer.write(answer)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            self._clients.pop(task, None)
            writer.transport.abort()

    def _answer(self, head: bytes) -> bytes:
        """Return the response to a request."""
        try:
            first, *fields = head.decode("ascii").split("\r\n")
            method, target, _ = first.split(" ")
        except ValueError:
            return _response(400)
        if self._listening.family != socket.AF_UNIX and not _is_for_loopback(fields):
            return _response(403)
        if target.partition("?")[0] != "/metrics":
            return _response(404, b"the metrics are at /metrics\n")
        if method not in ("GET", "HEAD"):
            return _response(405)
        if (text := self._fresh()) is None:
            return _response(503, b"the metrics cannot be read now; see the log of t3flow\n")
        return _response(200, text, is_head=method == "HEAD")

    def _fresh(self) -> bytes | None:
        """Return the metrics, at most FRESH_SECONDS old; None if they cannot be read, which is logged once."""
        if time.monotonic() - self._made_at >= FRESH_SECONDS:
            try:
                self._made, self._made_at, self._failure = self._text(), time.monotonic(), ""
            except Exception as error:
                if self._failure != (text := f"{type(error).__name__}: {error}"):
                    logger.error("the metrics cannot be read: {}", text)
                self._failure = text
                return None
        return self._made


def _is_for_loopback(fields: list[str]) -> bool:
    """Return whether a request names this host as loopback. A page in a browser that was led here by another name learns nothing."""
    named = [value.strip() for name, _, value in (field.partition(":") for field in fields) if name.lower() == "host"]
    return len(named) == 1 and LOOPBACK.fullmatch(named[0]) is not None


def _response(status: int, body: bytes = b"", *, is_head: bool = False) -> bytes:
    body = body or f"{STATUSES[status]}\n".encode()
    kind = CONTENT_TYPE if status == 200 else "text/plain; charset=utf-8"
    head = f"HTTP/1.1 {status} {STATUSES[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + (b"" if is_head else body)
