"""One HTTP request within bounds of time and size, for servers that are not trusted. The only HTTP client of t3flow.

The timeout covers the whole exchange, since a server may send a byte now and then for days; it takes no thread. Redirects are not followed, nothing
is retried, and environment proxies are ignored. Needs the standard library alone: the gate's program imports it inside a cell.
"""

import http.client
import io
import json
import socket
import time
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, NamedTuple
from urllib.parse import urlsplit

MAX_BYTES = 1024 * 1024
CHUNK_BYTES = 65536


class MalformedAnswer(OSError):
    """The server sent something that is not HTTP."""


class Answer(NamedTuple):
    """An answer: its body is complete, or its first `max_bytes`."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json_object(self) -> dict[str, Any] | None:
        """Return the JSON object in the body, or None if it is anything else."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def cookies(self) -> dict[str, str]:
        """Return the cookies that the answer sets. Of two with the same name the last counts, as in a browser."""
        found: dict[str, str] = {}
        for header in self.headers.get_all("Set-Cookie", []):
            jar: SimpleCookie = SimpleCookie()
            try:
                jar.load(header)
            except CookieError:
                continue
            found |= {name: morsel.value for name, morsel in jar.items()}
        return found


def request(
    url: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_seconds: float,
    max_bytes: int = MAX_BYTES,
) -> Answer:
    """Send one request to an http or https URL and return the answer, whatever its status.

    Raise OSError when there is none: TimeoutError after `timeout_seconds`, MalformedAnswer when it is not HTTP. `reason` puts it into words.
    """
    deadline = time.monotonic() + timeout_seconds
    connection, target = _connection(url, timeout_seconds)
    try:
        connection.connect()
        with connection.sock as opened:
            connection.sock = _Bounded(opened, deadline)
            connection.request(method, target, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, _first(response, max_bytes))
    except TimeoutError as error:
        raise TimeoutError(f"no complete answer within {timeout_seconds:g} s") from error
    except (http.client.HTTPException, ValueError) as error:
        if isinstance(error, OSError):  # the server closed the connection, or its certificate is not valid
            raise
        raise MalformedAnswer("malformed answer") from error
    finally:
        connection.close()


def _connection(url: str, timeout_seconds: float) -> tuple[http.client.HTTPConnection, str]:
    """Return a connection, not yet open, to the server of a URL, and what to request there. Raise OSError."""
    try:
        where = urlsplit(url)
        host, port = where.hostname, where.port
    except ValueError:
        host, port = None, None
    if not host or where.scheme not in ("http", "https"):
        raise OSError("not an http or https URL")
    kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
    return kind(host, port, timeout=timeout_seconds), (where.path or "/") + (f"?{where.query}" if where.query else "")


def reason(error: OSError) -> str:
    """Return why there is no answer, for people."""
    text = error.strerror or str(error) or "no answer"
    return text[:1].lower() + text[1:]


def _first(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """Return the body, or its first `max_bytes`."""
    parts: list[bytes] = []
    left = max_bytes
    while left > 0 and (part := response.read1(min(CHUNK_BYTES, left))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


class _Bounded:
    """A connected socket as `http.client` uses one, all of whose operations end by a deadline."""

    def __init__(self, opened: socket.socket, deadline: float) -> None:
        self._opened, self._deadline = opened, deadline

    def in_time(self) -> socket.socket:
        """Return the socket with the time that is left as its timeout. Raise TimeoutError when none is."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._opened.settimeout(left)
        return self._opened

    def sendall(self, data: bytes) -> None:
        self.in_time().sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Received(self))

    def close(self) -> None:
        """Do nothing: `http.client` closes the connection before it reads the body of a last answer."""


class _Received(io.RawIOBase):
    """The bytes that a bounded socket receives."""

    def __init__(self, source: _Bounded) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._source.in_time().recv_into(buffer)
