"""Answers of a user's server and of the dispatch, and their time limits; and what an install script may leave in place of a file."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from t3flow.host.host import Host
from t3flow.host.npm import command, packages
from t3flow.host.pairing import probe

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.fixture
def server() -> Iterator[Callable[[bytes, bytes], str]]:
    """Start a server that sends a first part at once and then a piece every 50 ms without end; return its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(beginning: bytes, piece: bytes) -> str:
        def answer() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(beginning)
                    while piece:
                        connection.sendall(piece)
                        time.sleep(0.05)

        threading.Thread(target=answer, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/page"

    yield serve
    listener.close()


def test_a_server_that_does_not_answer(server: Callable[[bytes, bytes], str]) -> None:
    """Each piece is in time, but the whole never ends: a run with the host lock must not wait for it."""
    for url, why in (("http://127.0.0.1:1/", "connection refused"), (server(HEAD, b"X-More: 1\r\n"), "no complete")):
        with pytest.raises(probe.NotReady, match=rf"^{url} does not answer \({why}"):
            probe.get(url, {}, 0.4)


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [
        (CHUNKED + b"-5\r\nabc\r\n", b" "), (CHUNKED + b"-1\r\n", b"x" * 100_000), (CHUNKED + b"zz\r\n", b""),
        (HEAD + b"Content-Length: 200000\r\n\r\n" + b"[" * 200_000, b""),
        (b"HTTP/9.9 2000 \xff\r\n\r\n", b""),
    ],
)  # fmt: skip
def test_an_answer_that_is_none(server: Callable[[bytes, bytes], str], beginning: bytes, piece: bytes) -> None:
    """Any answer of a user's own server is only a reason why that user cannot pair, and takes no memory."""
    with pytest.raises(probe.NotPaired):
        probe.get_json(server(beginning, piece), {}, 0.4)


@pytest.mark.parametrize("what", ["fifo", "link", "huge", "folder"])
def test_a_package_json_that_scripts_have_replaced(bare: Callable[..., Host], tmp_path: Path, what: str) -> None:
    """root reads it: a FIFO would block for ever, an endless file would take all memory."""
    host = bare()
    file = tmp_path / "node_modules" / host.settings.track.package / "package.json"
    file.parent.mkdir(parents=True)
    if what == "fifo":
        os.mkfifo(file)
    elif what == "link":
        file.symlink_to("/dev/zero")
    elif what == "huge":
        with file.open("wb") as opened:
            opened.truncate(2**40)
    else:
        file.mkdir()
    with pytest.raises(command.PackageError, match=r"no readable package\.json"):
        packages.check_installed(host, "1.0.0", tmp_path)
