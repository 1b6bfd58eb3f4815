"""The HTTP server of the consumer: what it answers, and clients that are slow, many, or hostile."""

import http.client
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from t3flow.sandbox.host import free_port
from t3flow.service.metrics import listener
from t3flow.service.metrics.listener import Listener, ListenProblem, bind

TEXT = b"# TYPE t3flow_frozen gauge\nt3flow_frozen 0.0\n" * 5000


class Made:
    """The text of the metrics, and how often it was made."""

    def __init__(self) -> None:
        self.times = 0
        self.error: Exception | None = None

    def __call__(self) -> bytes:
        self.times += 1
        if self.error:
            raise self.error
        return TEXT


@pytest.fixture
def made() -> Made:
    return Made()


@pytest.fixture
def port(made: Made, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(listener, "CLIENT_SECONDS", 3.0)
    number = free_port()
    Listener(bind(f"127.0.0.1:{number}"), made)
    return number


def ask(port: int, method: str = "GET", path: str = "/metrics", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())


def connected(port: int, text: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(text)
    return client


def test_it_answers_a_scrape_and_nothing_else(port: int, made: Made) -> None:
    status, body, headers = ask(port)
    assert (status, body) == (200, TEXT)
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert ask(port, "HEAD")[:2] == (200, b"")
    assert ask(port, path="/metrics?x=1")[0] == 200
    assert ask(port, path="/")[0] == 404
    assert ask(port, path="/../etc/passwd")[0] == 404
    assert ask(port, "POST")[0] == 405
    assert made.times <= 2, "answers share a text that is a second old"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example", "localhost:1, evil.example"]
)
def test_a_browser_that_was_led_here_learns_nothing(port: int, host: str) -> None:
    """A page whose name was made to point at loopback sends its own name as the host."""
    assert ask(port, Host=host)[:2] == (403, b"Forbidden\n")


def test_no_host_at_all_and_two_of_them_are_refused(port: int) -> None:
    for head in (
        b"GET /metrics HTTP/1.0\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nhost: evil.example\r\n\r\n",
    ):
        with connected(port, head) as client:
            assert client.recv(100).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "text",
    [b"\x16\x03\x01\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1 more\r\n\r\n", "GET /ä HTTP/1.1\r\n\r\n".encode()],
)
def test_rubbish_is_refused(port: int, text: bytes) -> None:
    with connected(port, text) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def test_an_endless_head_is_cut_off(port: int) -> None:
    def send() -> None:
        for _ in range(10_000):
            client.sendall(b"X-Long: " + b"x" * 1000 + b"\r\n")
            time.sleep(0.001)

    with connected(port) as client, pytest.raises(OSError, match=r"reset|pipe"):
        send()
    assert ask(port)[0] == 200


def test_slow_and_many_clients_keep_nobody_out(port: int) -> None:
    """500 clients that say nothing, some that say a byte at a time, and some that read nothing: a scrape waits for none of them, in one thread."""
    threads = threading.active_count()
    clients = [connected(port) for _ in range(500)]
    clients += [connected(port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n") for _ in range(40)]
    slow = [connected(port) for _ in range(10)]
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.05):
            for client in slow:
                try:
                    client.send(b"G")
                except OSError:
                    return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        for _ in range(5):
            began = time.monotonic()
            assert ask(port)[0] == 200
            assert time.monotonic() - began < listener.CLIENT_SECONDS
        assert threading.active_count() == threads + 1
        assert ours_open(port) <= listener.MAX_CLIENTS + 10
        deadline = time.monotonic() + 30
        while ours_open(port) > 0:  # each client has its time
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        stop.set()
        dripping.join()
        for client in [*clients, *slow]:
            client.close()


def ours_open(port: int) -> int:
    """Return how many connections the server has open in this process."""
    inodes = {
        line.split()[9]
        for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "01"
    }
    return len(inodes & {os.readlink(link)[8:-1] for link in Path("/proc/self/fd").iterdir() if link.is_symlink()})


def test_what_cannot_be_read_is_said_and_tried_again(port: int, made: Made, log: list[str]) -> None:
    made.error = ValueError("the journal is away")
    assert [ask(port)[0] for _ in range(3)] == [503, 503, 503]
    assert [line for line in log if "the metrics cannot be read: ValueError: the journal is away" in line] == log[-1:]
    made.error = None
    assert ask(port)[0] == 200


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


def ask_unix(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: anything.example\r\n\r\n")
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_a_unix_socket_replaces_one_that_a_killed_consumer_left(folder: Path, made: Made) -> None:
    """Its folder decides who reaches it: it is open to all itself."""
    for _ in range(2):
        Listener(bind(f"unix://{folder}/m.sock"), made)
        assert ask_unix(folder / "m.sock").endswith(TEXT)
    assert stat.S_IMODE((folder / "m.sock").stat().st_mode) == 0o666
    assert os.listdir(folder) == ["m.sock"]


def test_metrics_that_take_longer_than_a_client_gets_arrive_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of hundreds of users on a loaded host: the time to make them counted as the client's, which got what fit the socket's buffer."""
    text = TEXT * 10

    def make() -> bytes:
        time.sleep(1.3)
        return text

    monkeypatch.setattr(listener, "CLIENT_SECONDS", 1.0)
    Listener(bind(f"unix://{folder}/m.sock"), make)
    assert ask_unix(folder / "m.sock").endswith(text)


def plant_file(path: Path) -> None:
    path.write_text("precious")


def plant_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize("plant", [plant_file, plant_link, Path.mkdir])
def test_a_unix_socket_replaces_nothing_else(folder: Path, plant: Callable[[Path], None]) -> None:
    plant(folder / "m.sock")
    before = (folder / "m.sock").lstat()
    with pytest.raises(ListenProblem, match=r"cannot listen on unix:///.*\(there is a file that is not a socket\)"):
        bind(f"unix://{folder}/m.sock")
    assert (folder / "m.sock").lstat() == before
    assert os.listdir(folder) == ["m.sock"]


def test_an_address_that_cannot_be_had_is_one_line(folder: Path, port: int) -> None:
    for address in (f"127.0.0.1:{port}", f"unix://{folder}/absent/m.sock", f"unix://{folder}/{'x' * 120}"):
        with pytest.raises(ListenProblem) as problem:
            bind(address)
        assert "\n" not in str(problem.value)
        assert "so no metrics are served" in str(problem.value)
    assert os.listdir(folder) == []
