"""A Redis that answers a byte at a time or without end keeps no run and no lease of the host."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from conftest import RedisServer

from t3flow.fleet import bounded
from t3flow.fleet.errors import FleetError, FleetUnreachable
from t3flow.fleet.redis_store import RedisStore

Serve = Callable[[bytes, float], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve Redis's protocol: each MGET is answered by a part again and again, with a pause in between. Return the URL."""
    listener, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def attend(client: socket.socket, part: bytes, pause: float) -> None:
        with client, suppress(OSError):
            while b"MGET" not in (got := client.recv(65536)):
                client.sendall(b"+OK\r\n" * max(1, got.count(b"*")))
            client.sendall(b"*2\r\n$900000000\r\n")
            while not ended.wait(pause):
                client.sendall(part)

    def accept(part: bytes, pause: float) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=attend, args=(client, part, pause), daemon=True).start()

    def start(part: bytes, pause: float) -> str:
        threading.Thread(target=accept, args=(part, pause), daemon=True).start()
        return f"redis://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    ended.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.parametrize(
    ("part", "pause", "says"),
    [(b"x", 0.02, "Timeout reading from socket"), (b"x" * 100_000, 0.0, "its answer is larger than 1 MB")],
)
def test_an_answer_without_end_is_no_answer(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, part: bytes, pause: float, says: str
) -> None:
    monkeypatch.setattr(bounded, "CALL_SECONDS", 0.5 if pause else 30.0)
    monkeypatch.setattr(bounded, "MOST_BYTES", 1 << 20)
    store = RedisStore(serve(part, pause), "default", 1)
    for _ in range(2):
        with pytest.raises(FleetUnreachable, match=says):
            store.read(["a"])


@pytest.mark.parametrize("options", ["foo=1", "socket_timeout=abc", "db=x", "connection_class=x"])
def test_options_that_cannot_be_used_are_one_line(redis_server: RedisServer, options: str) -> None:
    """In each command and run that asks, and no traceback. They are no silence of the fleet, after which a host could go on alone."""
    store = RedisStore(f"unix://u:geheim@{redis_server.socket}?{options}", "default", 1)
    for _ in range(2):
        with pytest.raises(FleetError) as caught:
            store.subscribe()
        assert "geheim" not in str(caught.value)


def test_options_do_not_change_how_texts_are_read(redis_server: RedisServer) -> None:
    store = RedisStore(
        f"{redis_server.url}?decode_responses=true&socket_timeout=9999&protocol=3&encoding=utf-16", "default", 1
    )
    assert store.take(0, b"\xff")
    assert store.read([]).slots == [b"\xff"]
