"""The queue: unsigned messages are dropped at full speed, due times ignore the time zone, and several hosts or a hang do no harm."""

import json
import pickle
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import RedisServer
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import RedisError

from t3flow.engine import queue as queues
from t3flow.engine.queue import BadMessage, HintQueue, SignedJson, open_queue, queue_key
from t3flow.engine.storages import CALL_SECONDS, CONSUMERS, QueueUnavailable

KEY = b"k" * 32


def _queue(url: str, seen: list[str]) -> HintQueue:
    queue = open_queue(url, KEY)
    queue.register(seen.append, ["stage"])
    return queue


def _drain(queue: HintQueue) -> int:
    count = 0
    while (task := queue.dequeue()) is not None:
        queue.execute(task)
        count += 1
    return count


class Exploding:
    """What an attacker could put into a pickle."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (Path("/tmp/t3flow-test-exploded"), "boom")


def test_a_message_comes_out_as_it_went_in(queue_url: str) -> None:
    seen: list[str] = []
    queue = _queue(queue_url, seen)
    queue.send("run-1")
    queue.send("run-2", step="stage")
    assert _drain(queue) == 2
    assert seen == ["run-1", "run-2"]


def test_bad_messages_are_dropped_counted_and_cost_nothing(queue_url: str) -> None:
    """1,000 pickled, forged, truncated, and foreign messages precede a good one."""
    seen: list[str] = []
    queue = _queue(queue_url, seen)
    Path("/tmp/t3flow-test-exploded").unlink(missing_ok=True)
    good = SignedJson(KEY).serialize({"run": 1})
    foreign = SignedJson(b"z" * 32).serialize({"run": 1})
    bad = [pickle.dumps(Exploding()), b"0" * 64 + b' {"message":{}}', good[:-1], foreign, b"", b"\0" * 70_000]
    for number in range(1000):
        queue.storage.enqueue(bad[number % len(bad)])
    queue.send("run-1")
    began = time.monotonic()
    assert _drain(queue) == 1
    assert time.monotonic() - began < 10, "no backoff"
    assert seen == ["run-1"]
    assert queue.dropped == 1000
    assert not Path("/tmp/t3flow-test-exploded").exists()


def test_bad_messages_in_the_schedule_are_dropped_too(queue_url: str) -> None:
    from datetime import UTC, datetime

    seen: list[str] = []
    queue = _queue(queue_url, seen)
    queue.storage.add_to_schedule(pickle.dumps("x"), datetime(2020, 1, 1))
    queue.send("later", time.time() + 0.05)
    time.sleep(0.1)
    due = queue.read_schedule(datetime.now(UTC).replace(tzinfo=None))
    assert [list(task.args) for task in due] == [["later"]]
    assert queue.dropped == 1


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_due_times_do_not_depend_on_the_zone(queue_url: str, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import UTC, datetime

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        queue = _queue(queue_url, [])
        queue.send("soon", time.time() + 60)

        def due(seconds: float) -> int:
            moment = datetime.fromtimestamp(time.time() + seconds, UTC).replace(tzinfo=None)
            return len(queue.read_schedule(moment))

        assert due(50) == 0
        assert due(70) == 1
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_withdrawn_message_is_not_executed(queue_url: str) -> None:
    seen: list[str] = []
    queue = _queue(queue_url, seen)
    message = queue.send("run-1")
    queue.revoke_message(message)
    _drain(queue)
    assert seen == []


def test_message_ids_are_those_of_queue_and_schedule(queue_url: str) -> None:
    queue = _queue(queue_url, [])
    assert queue.message_ids() == set()
    assert queue.message_ids() | {queue.send("a"), queue.send("b", time.time() + 99)} == queue.message_ids()


@given(st.binary(max_size=300))
def test_no_bytes_but_signed_ones_are_read(data: bytes) -> None:
    with pytest.raises(BadMessage):
        SignedJson(KEY).deserialize(data)


@given(st.integers(min_value=0, max_value=10_000), st.integers(min_value=1, max_value=255))
def test_any_changed_byte_is_noticed(place: int, change: int) -> None:
    data = bytearray(SignedJson(KEY).serialize({"run": "bump-1", "n": [1, 2]}))
    data[place % len(data)] ^= change
    with pytest.raises(BadMessage):
        SignedJson(KEY).deserialize(bytes(data))


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "queue.key"
    key = queue_key(path)
    assert len(key) == 32
    assert key == queue_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["queue.key"]


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "queue.key").write_bytes(b"short")
    with pytest.raises(BadMessage, match="32 bytes"):
        queue_key(tmp_path / "queue.key")


# Priorities, and the messages in Huey's storage -----------------------------------------------------------------------------------


def _stored(url: str, queue: HintQueue, where: str) -> list[dict[str, Any]]:
    """Return the messages in Huey's table or sorted set, in order, read without t3flow: a signature, a space, JSON."""
    if url.startswith("sqlite://"):
        order = {"task": "priority desc, id", "schedule": "timestamp"}[where]
        with closing(sqlite3.connect(url.removeprefix("sqlite://"))) as connection:
            rows = connection.execute(f"select data from {where} where queue = ? order by {order}", (queue.name,))
            found = [bytes(data) for (data,) in rows]
    else:
        kind = {"task": "redis", "schedule": "schedule"}[where]
        found = Redis.from_url(url).zrange(f"huey.{kind}.{queue.name}", 0, -1)
        found = [data[8:] for data in found] if where == "task" else found
    messages: list[dict[str, Any]] = [json.loads(data.partition(b" ")[2])["message"] for data in found]
    return messages


def test_the_most_urgent_message_is_taken_first(queue_url: str) -> None:
    """A rollback overtakes three hundred drains, and those that are due later."""
    seen: list[str] = []
    queue = _queue(queue_url, seen)
    for number in range(300):
        queue.send(f"drain-{number}", step="stage", user=f"user{number}")
    queue.send("rollback-1", priority=10)
    queue.send("rollback-2", priority=10)
    assert _stored(queue_url, queue, "task")[0]["priority"] == 10
    for _ in range(4):
        queue.execute(queue.dequeue())
    assert seen == ["rollback-1", "rollback-2", "drain-0", "drain-1"], "the others in order of arrival"


def test_priority_survives_the_schedule(queue_url: str) -> None:
    from datetime import UTC, datetime

    queue = _queue(queue_url, [])
    queue.send("drain-1", time.time() + 0.05)
    queue.send("rollback-1", time.time() + 0.06, priority=10)
    time.sleep(0.1)
    for task in queue.read_schedule(datetime.now(UTC).replace(tzinfo=None)):
        queue.enqueue(task)
    first = queue.dequeue()
    assert first is not None
    assert list(first.args) == ["rollback-1"]


def test_a_delayed_message_says_step_run_and_user(queue_url: str) -> None:
    queue = _queue(queue_url, [])
    queue.send("drain-1", time.time() + 99, "stage", user="ada")
    [message] = _stored(queue_url, queue, "schedule")
    assert message["name"].endswith(".stage")
    assert (message["args"], message["kwargs"]) == (["drain-1"], {"user": "ada"})


def test_what_cannot_be_advanced_is_tried_again_by_huey(queue_url: str) -> None:
    """Huey retries, as while the journal's disk is full, so the message need not wait for recovery."""

    def fail(run_id: str) -> None:
        raise OSError("no space left on device")

    queue = open_queue(queue_url, KEY)
    queue.register(fail, [])
    queue.send("run-1")
    task = queue.dequeue()
    assert task is not None
    queue.execute(task)
    [again] = _stored(queue_url, queue, "schedule")
    assert again["args"] == ["run-1"]
    assert again["retries"] == 1


# Two hosts on one Redis -----------------------------------------------------------------------------------------------------------


def test_two_hosts_take_their_own_messages_alone(redis_server: RedisServer) -> None:
    """When all queues had one name, hosts dropped three quarters of each other's messages."""
    seen: dict[bytes, list[str]] = {KEY: [], b"z" * 32: []}
    queues = {key: open_queue(redis_server.url, key) for key in seen}
    for key, queue in queues.items():
        queue.register(seen[key].append, [])
        for number in range(100):
            queue.send(f"run-{number}")
    for queue in queues.values():
        _drain(queue)
        assert queue.dropped == 0
    assert [len(runs) for runs in seen.values()] == [100, 100]


def test_the_name_follows_the_key_and_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the state folder on another machine has its own queue; a restarted consumer has the same one."""
    (tmp_path / "machine-id").write_text("1" * 32)
    monkeypatch.setattr(queues, "MACHINE_ID", tmp_path / "machine-id")
    mine = queues.queue_name(KEY)
    assert mine == queues.queue_name(KEY)
    assert mine.startswith("t3flow_")
    (tmp_path / "machine-id").write_text("2" * 32)
    names = {mine, queues.queue_name(KEY), queues.queue_name(b"z" * 32)}
    monkeypatch.setattr(queues, "MACHINE_ID", tmp_path / "none")
    assert len(names | {queues.queue_name(KEY)}) == 4


def test_a_clone_is_seen_and_another_host_is_not(redis_server: RedisServer) -> None:
    """Two consumers have one queue, as after cloning a machine. A consumer that stopped earlier is not a clone."""
    consumer = {"host": "devvm1", "boot": "a", "pid": "1"}
    ended = open_queue(redis_server.url, KEY, consumer={**consumer, "pid": "0"})
    assert ended.storage.probe().others == []
    time.sleep(0.05)
    mine = open_queue(redis_server.url, KEY, consumer=consumer)
    other = open_queue(redis_server.url, b"z" * 32, consumer={**consumer, "host": "devvm2"})
    assert mine.storage.probe().others == []
    assert other.storage.probe().others == []
    assert mine.storage.probe().others == []
    clone = open_queue(redis_server.url, KEY, consumer={**consumer, "boot": "b"})
    assert clone.storage.probe().others == [], "the other has no heartbeat since"
    assert [(each["host"], each["boot"]) for each in mine.storage.probe().others] == [("devvm1", "b")]
    assert [(each["host"], each["boot"]) for each in clone.storage.probe().others] == [("devvm1", "a")]


def test_what_others_write_among_the_consumers_is_no_harm(redis_server: RedisServer) -> None:
    redis = Redis.from_url(redis_server.url)
    mine = open_queue(redis_server.url, KEY, consumer={"host": "a", "boot": "b", "pid": "1"})
    mine.storage.probe()
    redis.zadd(CONSUMERS, {b"\xff": 9e12, "{}": 9e12, "[1]": 9e12, "null": 9e12, '{"queue": 1}': 9e12})
    assert mine.storage.probe().others == []


def test_messages_under_an_earlier_name_are_forgotten(tmp_path: Path) -> None:
    """Messages under the former name of every host's queue would stay in the file for ever."""
    url = f"sqlite://{tmp_path}/queue.db"
    earlier = open_queue(url, KEY, name="t3flow")
    earlier.register(lambda run: None, [])
    earlier.send("run-1")
    earlier.send("run-2", time.time() + 99)
    queue = _queue(url, [])
    queue.send("run-3")
    assert len(queue.message_ids()) == 1
    queue.storage.delete_other_queues()
    assert len(queue.message_ids()) == 1
    assert earlier.message_ids() == set()


# A queue that does not answer -----------------------------------------------------------------------------------------------------


class Swallower:
    """A TCP proxy for Redis that can be told to swallow all data."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.swallows = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self.target))
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self.swallows.is_set():
                    target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture(params=["stopped", "swallowed"])
def hanging(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[tuple[str, Callable[[bool], None]]]:
    """Return the URL of a Redis, and a function that makes it hang or resume."""
    if request.param == "stopped":
        yield (
            redis_server.url,
            lambda hangs: redis_server.child.send_signal(signal.SIGSTOP if hangs else signal.SIGCONT),
        )
        redis_server.child.send_signal(signal.SIGCONT)
        return
    proxy = Swallower(redis_server.socket)
    yield f"redis://127.0.0.1:{proxy.port}/0", lambda hangs: proxy.swallows.set() if hangs else proxy.swallows.clear()
    proxy.listener.close()


def test_a_queue_that_hangs_costs_one_wait(hanging: tuple[str, Callable[[bool], None]]) -> None:
    """Three hundred messages cost one timeout, not three hundred."""
    url, hang = hanging
    failures: list[Exception] = []
    queue = _queue(url, [])
    queue.on_failure = failures.append
    queue.send("run-0")
    hang(True)
    began = time.monotonic()
    for number in range(300):
        with pytest.raises((RedisError, QueueUnavailable)):
            queue.send(f"run-{number}", time.time() + 60)
    with pytest.raises(QueueUnavailable):
        queue.message_ids()
    queue.revoke_message("some")
    assert time.monotonic() - began < CALL_SECONDS + 1.5
    assert len(failures) == 1
    with pytest.raises(RedisError):
        queue.storage.probe()
    assert queue.unavailable.is_set()
    hang(False)
    queue.storage.probe()
    assert not queue.unavailable.is_set()
    assert len(queue.message_ids()) in (1, 2), "a message may have arrived without an answer"


def test_a_worker_does_not_take_silence_for_an_empty_queue(hanging: tuple[str, Callable[[bool], None]]) -> None:
    url, hang = hanging
    queue = _queue(url, [])
    assert queue.dequeue() is None
    assert not queue.unavailable.is_set()
    hang(True)
    with pytest.raises(RedisError):
        queue.dequeue()
    assert queue.unavailable.is_set()
    began = time.monotonic()
    with pytest.raises(QueueUnavailable):
        queue.dequeue()
    assert time.monotonic() - began < 0.1


def test_a_locked_queue_file_costs_one_wait(tmp_path: Path) -> None:
    queue = _queue(f"sqlite://{tmp_path}/queue.db", [])
    queue.send("run-0")
    with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as other:
        other.execute("begin exclusive")
        began = time.monotonic()
        for _ in range(100):
            with pytest.raises((sqlite3.OperationalError, QueueUnavailable)):
                queue.send("run-1")
        assert time.monotonic() - began < CALL_SECONDS + 1.5
    queue.storage.probe()
    assert len(queue.message_ids()) == 1
