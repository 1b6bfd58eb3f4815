"""What hostile people send: markup in every text, more streams than there are, and clients that never finish."""

import resource
import socket
import statistics
import time
from collections import Counter
from contextlib import suppress

import pytest
from pages import ADMIN, HEADER, VIEWER, Events, PageHost, connect

from t3flow.host import freeze
from t3flow.host.records import actions
from t3flow.web import live, protocol

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
MEBIBYTE = 2**20


@pytest.mark.parametrize(
    "place",
    ["/", "/runs", "/actions", "/settings", "/snapshots", "run", "user", "/actions/rollback", "/actions/cancel"],
)
def test_markup_arrives_as_text(host: PageHost, place: str) -> None:
    """In the name of a user, a reason, a line of a log, a version, evidence, and a person's name: escaped on each page, and in the stream."""
    user = SCRIPT
    host.users.append(user)
    host.observe(**{user: {"why_unmanaged": f"{SCRIPT}: t3flow {SCRIPT}"}, "ada": {"running_version": SCRIPT}})
    run = host.begin(target=SCRIPT, without=[SCRIPT])
    host.step(run, "alert", f"a line of a log: {SCRIPT}")
    verdict = {"verdict": "fail", "version": SCRIPT, "seed": user, "failed": SCRIPT, "not_isolated": "", "checks": []}
    verdict["checks"] = [{"name": SCRIPT, "ok": False, "evidence": SCRIPT}]
    host.step(run, "run_trials", "slot", SCRIPT, [{"user": user}], 1, None, result=[verdict])
    ended = host.begin()
    fared = {"result": "failed", "version": SCRIPT, "downtime_s": None, "reason": SCRIPT}
    host.end(ended, SCRIPT, SCRIPT, "failed", users={user: fared}, notices=[SCRIPT])
    freeze.freeze(host.settings, host.journal, SCRIPT, by=SCRIPT)
    actions.begin(host.journal, "c" * 32, actions.Actor("page", SCRIPT), SCRIPT, {"reason": SCRIPT}, run)
    actions.finish(host.journal, "c" * 32, SCRIPT)
    addresses = {"run": f"/runs/{ended}", "user": "/users/ada", "/actions/cancel": f"/actions/cancel?run={run}"}
    pages = [host.ask(addresses.get(place, place), ADMIN).text, host.ask(f"/runs/{run}", ADMIN).text]
    for text in pages:
        assert "<script>alert" not in text
        assert "<img" not in text
    assert "&lt;script&gt;alert(1)" in "".join(pages)
    if place == "/":
        stream = Events(host)
        sent = "".join(part for change in stream.next() for part in change)
        stream.close()
        assert "&lt;script&gt;" in sent
        assert "<script" not in sent


def test_addresses_that_are_markup_are_text(host: PageHost) -> None:
    """What a message repeats of an address."""
    for path in (
        "/users/%3Cscript%3E",
        "/runs/%3Cscript%3E",
        "/actions/drain?user=%3Cscript%3E",
        "/runs?user=%3Cscript%3E",
    ):
        assert "<script>" not in host.ask(path, ADMIN).text.replace("<script src=", "")


def test_ten_thousand_streams_are_tried(host: PageHost) -> None:
    """There are so many in all and of one person, the others are told when to ask again, and the page answers quickly meanwhile."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    host.ask("/", VIEWER)
    before, answers, held = host.rss_bytes(), Counter[str](), []
    waited = []
    for number in range(10_000):
        connection = connect(host.socket)
        identity = f"{HEADER}: person{number // 50}\r\n"
        connection.sendall(f"GET /live HTTP/1.1\r\nHost: x\r\n{identity}\r\n".encode())
        head = connection.recv(4096).decode()
        answers[head.split()[1]] += 1
        if " 200 " in head:
            held.append(connection)
        else:
            assert "retry-after: 10" in head.lower()
            connection.close()
        if number % 1000 == 500:
            began = time.monotonic()
            assert host.ask("/", VIEWER).status == 200
            waited.append(time.monotonic() - began)
    assert answers == {"200": live.MAX_STREAMS, "503": 10_000 - live.MAX_STREAMS}
    assert statistics.median(waited) < 1
    assert host.rss_bytes() - before < 16 * MEBIBYTE
    of_one = Counter(number // live.MAX_OF_ONE for number in range(len(held)))
    assert max(of_one.values()) == live.MAX_OF_ONE
    for connection in held:
        connection.close()
    deadline = time.monotonic() + 10
    while (stream := Events(host)).response.status != 200:  # what was left is free again
        stream.close()
        assert time.monotonic() < deadline
    stream.close()


def test_connections_that_never_finish_a_request_make_room(host: PageHost) -> None:
    """More of them than there may be, each with half a request: the page answers at once, and they are cut in time."""
    held = []
    for number in range(protocol.MAX_CONNECTIONS + 100):
        connection = connect(host.socket)
        half = (
            b"GET / HTTP/1.1\r\nHost: x\r\nX-a: "
            if number % 2
            else b"POST /actions/freeze HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\na"
        )
        connection.sendall(half)
        held.append(connection)
        if number % 200 == 0:
            assert host.ask("/").status == 200
    assert host.ask("/").status == 200
    deadline = time.monotonic() + protocol.REQUEST_SECONDS + 5
    for connection in held:
        connection.settimeout(max(0.1, deadline - time.monotonic()))
        with suppress(ConnectionError):
            while connection.recv(4096):  # an answer that refuses, then the end
                pass
        connection.close()
    assert time.monotonic() < deadline


def test_a_viewer_who_reads_nothing_is_dropped(host: PageHost) -> None:
    """While others get every change; the memory of the page stays what it is."""
    connection = connect(host.socket)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(f"GET /live HTTP/1.1\r\nHost: x\r\n{HEADER}: {VIEWER}\r\n\r\n".encode())
    stream, before = Events(host, identity=VIEWER), host.rss_bytes()
    stream.next()
    run = host.begin()
    for number in range(24):  # some 20 KB each, of which a socket holds less than a dozen
        host.step(run, "await_server", "ada", result=f"{number} {'x' * 2000}")
        while f"{number} x" not in "".join(part for change in stream.next() for part in change):
            pass
    assert host.rss_bytes() - before < 16 * MEBIBYTE
    stream.close()
    taken, deadline = 0, time.monotonic() + 10
    while part := connection.recv(65536):  # what was under way, and then the end
        taken += len(part)
        assert time.monotonic() < deadline
    assert taken < MEBIBYTE
    connection.close()


def test_requests_that_are_no_requests_end(host: PageHost) -> None:
    """Rubbish, headers without end, an upgrade, two requests in one."""
    long_header = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000
    for sent in (
        b"\x16\x03\x01" * 50,
        b"GET / HTTP/9.9\r\n\r\n",
        long_header,
        b"GET http:// HTTP/1.1\r\n\r\n",
        b"\r\n" * 1000,
    ):
        connection = connect(host.socket)
        with suppress(ConnectionError):
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            assert b" 200 " not in connection.recv(4096)
        connection.close()
    connection = connect(host.socket)
    connection.sendall(b"GET /robots.txt HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n" * 2)
    assert b" 200 " in connection.recv(4096)
    connection.close()
    assert host.ask("/").status == 200


def test_long_texts_stay_in_bounds(host: PageHost) -> None:
    """A run of ten thousand events, and a reason of a megabyte."""
    run = host.begin()
    with host.journal.transaction() as connection:
        rows = [(run, number, 1.0, "signal", "freeze", None, "{}") for number in range(2, 10_002)]
        connection.executemany("insert into events values (?, ?, ?, ?, ?, ?, ?)", rows)
    answer = host.ask(f"/runs/{run}")
    assert "lines are left out" in answer.text
    assert len(answer.text) < MEBIBYTE
