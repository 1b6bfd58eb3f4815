"""Hints that an unavailable queue lost come back from the journal, and bad messages block no worker."""

import time
from pathlib import Path

import pytest
from conftest import RedisServer
from redis import Redis
from support import begin, deliver, open_engine

from t3flow.engine import queue as queues
from t3flow.engine.engine import Engine
from t3flow.engine.errors import NotYet
from t3flow.engine.queue import open_queue
from t3flow.engine.runs import Outcome
from t3flow.engine.step import step

KEY = b"k" * 32
LOOKS: list[float] = []


@step()
def look_hourly() -> None:
    """Poll each hour."""
    LOOKS.append(time.time())
    raise NotYet(time.time() + 3600, "the hour")


def hourly() -> Outcome:
    """Run a step that polls each hour."""
    look_hourly()
    return Outcome("done")


@pytest.fixture
def asleep(tmp_path: Path, queue_url: str) -> tuple[Engine, str]:
    """Return an engine, and a run that has polled once."""
    LOOKS.clear()
    engine = open_engine(tmp_path, {"hourly": hourly}, queue_url)
    run_id = begin(engine, "hourly")
    deliver(engine)
    assert len(LOOKS) == 1
    return engine, run_id


def test_a_run_that_was_released_without_a_queue_goes_on_with_it(asleep: tuple[Engine, str]) -> None:
    """Its former message is still in the schedule, revoked and due in an hour."""
    engine, run_id = asleep
    engine.revoke({run_id: "frozen"})
    engine.queue_unavailable.set()
    engine.restore([run_id], time.time())
    engine.probe_queue()
    assert not engine.queue_unavailable.is_set()
    deliver(engine)
    assert len(LOOKS) == 2


def test_a_run_that_was_woken_without_a_queue_goes_on_with_it(asleep: tuple[Engine, str]) -> None:
    """Its message is in the queue, due in an hour."""
    engine, run_id = asleep
    with engine.journal.transaction() as connection:
        connection.execute("update runs set wake_at = ? where id = ?", (time.time(), run_id))
    assert engine.recover() == 1
    assert engine.recover() == 0, "a run with a message gets no second one"
    deliver(engine)
    assert len(LOOKS) == 2
    assert engine.recover() == 0


def test_a_journal_that_cannot_be_written_is_no_fault_of_the_queue(asleep: tuple[Engine, str]) -> None:
    """The hints are restored once it can be written again, and the queue is used meanwhile."""
    engine, run_id = asleep
    engine.queue.storage.flush_all()
    engine.queue_unavailable.set()
    with engine.journal.transaction() as connection:
        connection.execute(
            "create trigger full before update on runs begin select raise(abort, 'database or disk is full'); end"
        )
    engine.probe_queue()
    assert (engine.queue_fault, engine.queue_unavailable.is_set()) == (None, False)
    with engine.journal.transaction() as connection:
        connection.execute("drop trigger full")
    engine.recover()
    assert engine.journal.run(run_id).message in engine.queue.message_ids()


def test_a_flood_of_bad_messages_lets_a_worker_give_signs_of_life(
    queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "MAX_DEQUEUE_SECONDS", 0.02)
    queue = open_queue(queue_url, KEY)
    for number in range(5000):
        queue.storage.enqueue(b"junk %d" % number)
    assert queue.dequeue() is None
    assert queue.storage.queue_size() > 0


@pytest.mark.parametrize(
    ("keys", "commands"),
    [("~huey.*", "+@read +@write +@scripting"), ("~huey.redis.{0} ~huey.schedule.{0} ~huey.results.{0}", "+@all")],
    ids=["few commands", "its keys alone"],
)
def test_an_account_of_little_power_has_a_queue(redis_server: RedisServer, keys: str, commands: str) -> None:
    """The Redis account may be denied the calls of a heartbeat, which once made the queue unavailable for ever."""
    words = ("on", ">secret", *keys.format(queues.queue_name(KEY)).split(), *commands.split())
    Redis.from_url(redis_server.url).execute_command("ACL", "SETUSER", "t3flow", *words)
    url = f"unix://t3flow@{redis_server.socket}?password=secret"
    queue = open_queue(url, KEY, consumer={"host": "a", "boot": "b", "pid": "1"})
    queue.register(lambda run_id: None, [])
    queue.unavailable.set()
    assert queue.storage.probe().others == []
    assert not queue.unavailable.is_set()
    assert queue.storage.keys_of_queue("t3flow") == []
    message = queue.send("run-1")
    assert queue.message_ids() == {message}
