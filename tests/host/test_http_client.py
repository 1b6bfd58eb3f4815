"""The bounds of one HTTP exchange: time, size, redirects, form. The servers write to a socket, so that they can be as wrong as they like."""

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from t3flow.host import http_client

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
Serve = Callable[..., str]


@pytest.fixture
def server() -> Iterator[Serve]:
    """Start a server that sends a beginning at once, then a piece every 50 ms for ever; returns its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked: list[bytes] = []

    def serve(beginning: bytes, piece: bytes = b"") -> str:
        def answer() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    asked.append(connection.recv(65536))
                    connection.sendall(beginning)
                    while piece:
                        connection.sendall(piece)
                        time.sleep(0.05)

        threading.Thread(target=answer, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/page"

    serve.asked = asked  # type: ignore[attr-defined]
    yield serve
    listener.close()


def get(url: str, timeout_seconds: float = 5, max_bytes: int = http_client.MAX_BYTES) -> http_client.Answer:
    return http_client.request(url, timeout_seconds=timeout_seconds, max_bytes=max_bytes)


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [(b"", b"H"), (HEAD, b"X-More: 1\r\n"), (HEAD + b"Content-Length: 200000\r\n\r\n", b"{"), (HEAD + b"\r\n", b" "),
     (CHUNKED, b"1\r\nx\r\n"), (CHUNKED + b"0\r\n", b"X-More: 1\r\n"), (b"", b"HTTP/1.1 100 Continue\r\n\r\n")],
    ids=["status", "headers", "body", "endless", "chunks", "trailers", "continue"],
)  # fmt: skip
def test_the_time_is_that_of_the_whole_answer(server: Serve, beginning: bytes, piece: bytes) -> None:
    """Each piece comes in time, the whole never would."""
    began, threads = time.monotonic(), threading.active_count()
    with pytest.raises(TimeoutError, match=r"no complete answer within 0\.4 s"):
        get(server(beginning, piece), 0.4)
    assert 0.3 < time.monotonic() - began < 2
    assert threading.active_count() <= threads + 1, "no thread but the server's"


def test_a_server_that_takes_nothing() -> None:
    """Sending is in the time too: a full buffer would block for ever."""
    listener = socket.create_server(("127.0.0.1", 0))
    began = time.monotonic()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    with listener, pytest.raises(TimeoutError):
        http_client.request(url, method="POST", body=bytes(64 * 1024 * 1024), timeout_seconds=0.4)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("length", [b"Content-Length: 200000\r\n\r\n", b"\r\n"], ids=["told", "untold"])
def test_only_the_beginning_of_a_long_answer_is_read(server: Serve, length: bytes) -> None:
    """The rest stays unread, however much there is."""
    answer = get(server(HEAD + length + b"x" * 150_000, b"x" * 10_000), max_bytes=1000)
    assert (answer.status, answer.body) == (200, b"x" * 1000)


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [(CHUNKED + b"-5\r\nabc\r\n", b" "), (CHUNKED + b"zz\r\n", b""), (b"HTTP/9.9 2000 \xff\r\n\r\n", b""), (b"SSH-2.0\r\n", b""),
     (HEAD + b"X: 1\r\n" * 200 + b"\r\n", b""), (HEAD + b"X: " + b"x" * 70_000 + b"\r\n\r\n", b"")],
    ids=["negative-chunk", "chunk", "version", "ssh", "many-headers", "long-header"],
)  # fmt: skip
def test_an_answer_that_is_not_http(server: Serve, beginning: bytes, piece: bytes) -> None:
    """It is one kind of error, in words that hold nothing of what was sent."""
    with pytest.raises(OSError, match=r"^(malformed answer|no complete answer within 0\.4 s)$"):
        get(server(beginning, piece), 0.4)


def test_a_negative_chunk_takes_no_memory(server: Serve) -> None:
    """`http.client` would read such a chunk to its end."""
    with suppress(OSError):
        assert len(get(server(CHUNKED + b"-1\r\n", b"x" * 100_000), 0.4, 1000).body) < 100_000


def test_a_redirect_is_an_answer(server: Serve) -> None:
    """It is not followed: the place that it names may be anywhere."""
    answer = get(server(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"))
    assert (answer.status, answer.headers["Location"]) == (302, "http://127.0.0.1:1/")


def test_no_proxy_of_the_environment_is_asked(server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cookies and tokens go to the server that is named, and nowhere else."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1/")
    assert get(server(HEAD + b"Content-Length: 2\r\n\r\n{}")).json_object() == {}


def test_what_is_sent(server: Serve) -> None:
    """Method, path with its query, headers and body."""
    url = server(HEAD + b"Content-Length: 0\r\n\r\n")
    http_client.request(f"{url}?a=b", method="POST", body=b"{}", headers={"X-One": "1"}, timeout_seconds=5)
    [asked] = server.asked  # type: ignore[attr-defined]
    lines = asked.split(b"\r\n")
    assert lines[0] == b"POST /page?a=b HTTP/1.1"
    assert {b"X-One: 1", b"Content-Length: 2"} <= set(lines)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:1/", "connection refused"),
        ("", "not an http or https URL"),
        ("/-/keys", "not an http or https URL"),
        ("ftp://127.0.0.1/", "not an http or https URL"),
        ("http://[::1/", "not an http or https URL"),
        ("http://127.0.0.1:x/", "not an http or https URL"),
    ],
)
def test_why_there_is_no_answer(url: str, why: str) -> None:
    """In words for people, without a Python type."""
    with pytest.raises(OSError) as refused:  # noqa: PT011
        get(url)
    assert http_client.reason(refused.value) == why


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_a_certificate_that_nothing_vouches_for(tmp_path: Path) -> None:
    """It is refused, and the reason says so."""
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "key",
        "-out",
        "cert",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
    ]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as connection:
            connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")

    with listener:
        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(OSError, match="certificate verify failed") as refused:
            get(f"https://127.0.0.1:{listener.getsockname()[1]}/")
    assert "certificate" in http_client.reason(refused.value)


def test_a_connection_that_is_closed_without_an_answer(server: Serve) -> None:
    """As when a server is killed."""
    with pytest.raises(ConnectionResetError, match="closed connection without response"):
        get(server(b""))


@pytest.mark.parametrize("body", [b"[]", b"", b"{", b'"x"', b"[" * 100_000, b"\xff", b"1"])
def test_a_body_that_is_not_a_json_object(server: Serve, body: bytes) -> None:
    """Deep nesting and bad UTF-8 are no other error."""
    assert get(server(HEAD + b"\r\n" + body)).json_object() is None


def test_cookies_as_a_browser_has_them(server: Serve) -> None:
    """Of two with a name the last counts, and an invalid one spoils no other."""
    lines = b"Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nSet-Cookie: \x01=3\r\nSet-Cookie: a=4; HttpOnly\r\n"
    assert get(server(HEAD + lines + b"\r\n")).cookies() == {"a": "4", "b": "2"}
