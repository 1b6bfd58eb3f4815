"""The watchdog: fed while every thread is alive, whatever the queue does, and not while one is silent."""

import itertools
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import RedisServer

from t3flow.engine.runs import new_run
from t3flow.host.records import deferral_records
from t3flow.sandbox.host import Sandbox
from t3flow.service import heartbeat
from t3flow.service.heartbeat import MAX_SILENT_SECONDS, Heartbeats, feed_watchdog

WATCHED_SECONDS = 25.0
DEFERRED = 40


class Clock:
    """A clock under the test's control."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_thread_that_waits_must_beat_and_one_at_work_need_not() -> None:
    clock = Clock()
    heartbeats = Heartbeats(clock)
    heartbeats.beat("clock")
    heartbeats.beat()  # this thread
    heartbeats.work()
    clock.now += MAX_SILENT_SECONDS + 1
    assert heartbeats.silent_threads() == ["clock"]
    heartbeats.beat("clock")
    assert heartbeats.silent_threads() == []
    heartbeats.beat()
    clock.now += MAX_SILENT_SECONDS + 1
    assert heartbeats.silent_threads() == sorted(["clock", threading.current_thread().name]), (
        "its work ended with its last heartbeat"
    )


@pytest.fixture
def ear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Return systemd's end of the socket."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ear.bind(str(tmp_path / "notify"))
    ear.settimeout(0.2)
    yield ear
    ear.close()


def fed(ear: socket.socket, seconds: float) -> list[float]:
    """Return the times at which the watchdog was fed within so many seconds."""
    found: list[float] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if b"WATCHDOG=1" in ear.recv(4096):
                found.append(time.monotonic())
        except TimeoutError:
            continue
    return found


def test_the_watchdog_starves_with_a_silent_thread(ear: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "FEED_INTERVAL_SECONDS", 0.02)
    clock, stopping = Clock(), threading.Event()
    heartbeats = Heartbeats(clock)
    heartbeats.beat("clock")
    thread = threading.Thread(target=feed_watchdog, args=(heartbeats, stopping))
    thread.start()
    try:
        assert fed(ear, 1)
        clock.now += MAX_SILENT_SECONDS + 1
        fed(ear, 0.3)  # one may be in flight
        assert not fed(ear, 1)
        heartbeats.beat("clock")
        assert fed(ear, 1)
    finally:
        stopping.set()
        thread.join()


def test_a_redis_that_hangs_under_a_consumer(
    ear: socket.socket, make_box: Callable[..., Sandbox], redis_server: RedisServer
) -> None:
    """A hanging Redis does not starve the watchdog while forty messages are to be revoked, as after a freeze."""
    box = make_box(["ada"], queue_url=redis_server.url)
    for number in range(DEFERRED):
        run = new_run(box.journal, "drain", {"user": f"user{number}"}, wake_at=time.time() + 600)
        assert run is not None
        deferral_records.put_deferral(box.journal, f"user{number}", run, "0.0.25", "window", time.time() + 600)
    deferred = lambda: box.journal.query("select count(*) from runs where message is not null")[0][0]  # noqa: E731
    box.until(lambda: deferred() >= DEFERRED, "each has its message", 70)
    assert len(fed(ear, 5)) >= 2
    redis_server.child.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        box.settings.paths.freeze_file.touch()
        moments = [began, *fed(ear, WATCHED_SECONDS), time.monotonic()]
        held = box.journal.query("select count(*) from runs where held = 'frozen'")
    finally:
        redis_server.child.send_signal(signal.SIGCONT)
    silence = max(after - before for before, after in itertools.pairwise(moments))
    assert silence < 10, f"{silence:.0f} s"
    assert held == [(DEFERRED,)], "the journal revokes them all the same"
