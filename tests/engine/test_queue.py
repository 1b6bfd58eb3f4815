"""The queue: what it did not sign is dropped, at full speed; due times survive any zone."""

import pickle
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3flow.engine.queue import BadMessage, HintQueue, SignedJson, open_queue, queue_key

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
    """What an attacker would put into a pickle."""

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
    """1,000 pickled, forged, truncated and foreign messages before a good one."""
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
    assert time.monotonic() - began < 2
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
    queue.withdraw(message)
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
