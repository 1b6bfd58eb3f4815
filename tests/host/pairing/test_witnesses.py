"""Probes of many users: parallel, bounded, and no more than needed. Over real HTTP, one address per user."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from t3flow.host.host import Host
from t3flow.host.pairing import last_pairings, parallel_probes, witnesses
from t3flow.host.pairing import probe as pairing_probe


class Answering(ThreadingHTTPServer):
    """Answers 302 for some users and 502 for others, each after a delay; counts the requests, and how many are parallel."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, pairs: set[str], seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pairs, self.seconds = pairs, seconds
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    server: Answering

    def do_GET(self) -> None:
        user, server = self.path.removeprefix("/"), self.server
        with server.lock:
            server.asked.append(user)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        time.sleep(server.seconds)
        with server.lock:
            server.at_once -= 1
        self.send_response(302 if user in server.pairs else 502)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def serve() -> Iterator[Callable[[set[str], float], Answering]]:
    made: list[Answering] = []

    def start(pairs: set[str], seconds: float) -> Answering:
        made.append(Answering(pairs, seconds))
        threading.Thread(target=made[-1].serve_forever, daemon=True).start()
        return made[-1]

    yield start
    for server in made:
        server.shutdown()
        server.server_close()


def probing(server: Answering) -> Callable[[Host, str], None]:
    """Return a probe that requests this server."""

    def probe(host: Host, user: str) -> None:
        status, _, _ = pairing_probe.get(f"http://127.0.0.1:{server.server_port}/{user}", {}, 5)
        if status != 302:
            raise pairing_probe.NotPaired(f"the dispatch answers {status}")

    return probe


MANY = [f"user{number}" for number in range(300)]


def test_one_of_300_who_pairs_is_found(
    bare: Callable[..., Host], serve: Callable[[set[str], float], Answering]
) -> None:
    server = serve({MANY[-1]}, 0.05)
    began = time.monotonic()
    paired, failed = parallel_probes.probe_users(bare(), MANY, 60, probe=probing(server))
    took = time.monotonic() - began
    print(f"300 users, the last pairs: {took:.1f} s, at most {server.most_at_once} at a time")
    assert paired == [MANY[-1]]
    assert len(failed) > len(MANY) - parallel_probes.PARALLEL_PROBES, (
        "but for those who were under way, all others have failed"
    )
    assert took < 20
    assert 1 < server.most_at_once <= parallel_probes.PARALLEL_PROBES


def test_whoever_pairs_first_is_the_only_one_asked(
    bare: Callable[..., Host], serve: Callable[[set[str], float], Answering]
) -> None:
    server = serve({*MANY}, 0.1)
    assert parallel_probes.probe_users(bare(), MANY, 60, probe=probing(server)) == ([MANY[0]], {})
    assert server.asked == [MANY[0]]


def test_a_dispatch_that_hangs_has_an_end(
    bare: Callable[..., Host], serve: Callable[[set[str], float], Answering]
) -> None:
    server = serve(set(), 4)
    began = time.monotonic()
    assert parallel_probes.probe_users(bare(), MANY, 2.5, probe=probing(server))[0] == []
    assert time.monotonic() - began < 3.5
    assert 1 < len(server.asked) <= parallel_probes.PARALLEL_PROBES


def test_a_few_are_asked_again(bare: Callable[..., Host], serve: Callable[[set[str], float], Answering]) -> None:
    """A minting that met a lock fails once and succeeds the next time."""
    server = serve(set(), 0.05)
    threading.Timer(1.0, server.pairs.add, ["user1"]).start()
    assert parallel_probes.probe_users(bare(), MANY[:2], 10, probe=probing(server))[0] == ["user1"]
    assert server.asked.count("user1") > 1


def test_one_failure_among_many_users_is_not_noted_as_theirs(
    bare: Callable[..., Host], serve: Callable[[set[str], float], Answering]
) -> None:
    """A user whose minting met a lock is probed once more after all others. A second failure is recorded."""
    host, users = bare(), MANY[:40]
    server = serve({*users} - {"user1", "user2"}, 0.7)
    threading.Timer(2.0, server.pairs.add, ["user1"]).start()
    assert list(witnesses.note_pairings_now(host, users, 60, probe=probing(server))) == ["user2"]
    assert {user for user, last in last_pairings.pairings(host.journal).items() if last["reason"]} == {"user2"}
