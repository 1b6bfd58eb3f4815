"""The webhook and the pings, against real servers that are slow, refuse, redirect, answer errors, close, or never end."""

import base64
import time

import pytest
from receiver import Answer, hang, raw, receiving, status

from t3flow.service.notifications import http_channel, messages, pings
from t3flow.service.notifications.http_channel import NotSent, ping_url, send_ping, send_webhook

TOKEN = "a-token-of-this-webhook"
HEAD = b"HTTP/1.1 200 OK\r\n"
FAULTS: dict[str, tuple[Answer, str]] = {
    "not found": (status(404), r"answered 404 \(not found"),
    "not authorized": (status(401), r"answered 401 \(not authorized\)"),
    "broken": (status(500), "answered 500"),
    "busy": (status(429), r"answered 429 \(too many requests\)"),
    "redirect": (status(302, Location="/elsewhere"), "answered 302, a redirect, which is not followed"),
    "not modified": (status(304), "answered 304"),
    "silent": (hang, "no complete answer within"),
    "closes": (raw(b""), "closed"),
    "closes in its first line": (raw(b"HTTP/1.1 2"), "malformed answer|closed"),
    "no http": (raw(b"220 mail.example ESMTP\r\n"), "malformed answer"),
    "endless headers": (raw(HEAD, again=b"X-More: 1\r\n"), "malformed answer|no complete answer"),
    "drips": (raw(b"HTTP/1.1 ", again=b" "), "no complete answer within"),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_channel, "TIMEOUT_SECONDS", 0.7)


@pytest.mark.parametrize("fault", FAULTS)
def test_everything_but_2xx_is_a_failure_in_time_and_without_the_url(fault: str) -> None:
    """The cause is one line without the token, and a redirect is asked nothing."""
    answer, cause = FAULTS[fault]
    with receiving(answer) as receiver:
        began = time.monotonic()
        with pytest.raises(NotSent, match=cause) as failed:
            send_webhook(f"{receiver.url}/hook/{TOKEN}?{TOKEN}", "k", {})
        assert time.monotonic() - began < 3
    assert len(receiver.requests) == 1, "neither retried nor followed"
    assert TOKEN not in str(failed.value)
    assert str(failed.value).isprintable()


@pytest.mark.parametrize(
    "answer",
    [status(200), status(202), status(204), raw(HEAD + b"\r\n", again=b"x" * 999), raw(HEAD + b"Content-Length: 9\r\n\r\nx"),
     raw(HEAD + b"Content-Le")],
    ids=["ok", "accepted", "no content", "endless body", "closes in its body", "closes in its headers"],
)  # fmt: skip
def test_2xx_is_success_whatever_follows(answer: Answer) -> None:
    with receiving(answer) as receiver:
        began = time.monotonic()
        send_webhook(f"{receiver.url}/hook", "k", {})
        assert time.monotonic() - began < 0.6, "the body is not awaited"


def test_a_server_that_is_not_there() -> None:
    with receiving() as receiver:
        pass
    with pytest.raises(NotSent, match="connection refused"):
        send_webhook(f"{receiver.url}/{TOKEN}", "k", {})
    with pytest.raises(NotSent) as failed:
        send_webhook(f"http://no-such-host.invalid/{TOKEN}", "k", {})
    assert TOKEN not in str(failed.value)


def test_a_webhook_receives_one_document_with_its_key() -> None:
    message = messages.of_test("key-1", time.time())
    with receiving() as receiver:
        send_webhook(f"{receiver.url.replace('//', '//ada:p%40ss@')}/hook/é?a=1&b=%2F", message["key"], dict(message))
    [request] = receiver.requests
    assert (request.method, request.path) == ("POST", "/hook/%C3%A9?a=1&b=%2F")
    assert request.document == message
    assert request.key == request.document["key"] == "key-1"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("t3flow/")
    assert request.headers["authorization"] == f"Basic {base64.b64encode(b'ada:p@ss').decode()}"


@pytest.mark.parametrize(
    ("url", "action", "rid", "pinged"),
    [
        ("https://hc.example/ping/uuid", "success", "", "https://hc.example/ping/uuid"),
        ("https://hc.example/ping/uuid", "start", "1-2", "https://hc.example/ping/uuid/start?rid=1-2"),
        ("https://hc.example/ping/uuid/", "fail", "", "https://hc.example/ping/uuid/fail"),
        ("https://hc.example/ping/key/slug?create=1", "fail", "1-2", "https://hc.example/ping/key/slug/fail?create=1&rid=1-2"),
        ("http://[::1]:8000/x?a=b&c", "log", "", "http://[::1]:8000/x/log?a=b&c"),
    ],
)  # fmt: skip
def test_the_url_of_a_ping(url: str, action: str, rid: str, pinged: str) -> None:
    assert pinged == ping_url(url, action, rid)


def test_the_end_of_a_long_log_is_sent() -> None:
    body = "é" * 20_000 + "the last line"
    with receiving() as receiver:
        send_ping(f"{receiver.url}/p", "k", dict(pings.Ping(action="fail", rid="", body=body)))
    [request] = receiver.requests
    assert len(request.body) <= pings.MAX_BYTES
    assert request.body.decode().endswith("é" * 99 + "the last line")
