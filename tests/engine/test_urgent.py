"""Urgent runs: the run with the lease yields to them, as often as asked, and they need neither a worker nor an available queue."""

import json
import signal
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import RedisServer
from redis import Redis
from support import begin, deliver, kinds, open_engine, settle, watching

from t3flow.engine.engine import Engine
from t3flow.engine.errors import Interrupted, NotYet
from t3flow.engine.flow import YIELD, current_flow
from t3flow.engine.journal import Run
from t3flow.engine.runs import HOST_LEASE, Outcome, new_run, send_signal
from t3flow.engine.step import pause, step
from t3flow.engine.storages import CALL_SECONDS

EFFECTS: list[str] = []
WAITS = """
select 1 from locks join runs on runs.status = 'running' and runs.wake_at is null where locks.run = ? and runs.priority > ?"""


@pytest.fixture(autouse=True)
def _no_effects() -> None:
    EFFECTS.clear()


@step()
def tidy(name: str) -> None:
    """Undo a preparation."""
    EFFECTS.append(f"-{name}")


@step(undo=tidy)
def make_ready(name: str) -> None:
    """Have an effect that must be undone before the lease is free."""
    EFFECTS.append(f"+{name}")


@step(interruptible=True)
def long_trial() -> None:
    """Work until interrupted."""
    EFFECTS.append("trial")
    pause(20 if EFFECTS.count("trial") < 4 else 0)


@step()
def first_aid() -> None:
    """Do the work of an urgent run."""
    EFFECTS.append("aid")


@step()
def await_quiet(user: str) -> None:
    """Poll, and never be ready."""
    raise NotYet(time.time() + 600, "quiet")


def patient() -> Outcome:
    """Have the lease for long, and yield as often as asked."""
    yielded = 0
    while True:
        try:
            with current_flow().lease(HOST_LEASE), current_flow().saga():
                make_ready("a")
                long_trial()
            return Outcome("done", f"yielded {yielded} times")
        except Interrupted as interrupted:
            yielded += interrupted.signal == YIELD


def urgent() -> Outcome:
    """Need the lease."""
    with current_flow().lease(HOST_LEASE):
        first_aid()
    return Outcome("done")


def waiting(user: str) -> Outcome:
    """Sleep for a user."""
    await_quiet(user)
    return Outcome("done")


WORKFLOWS: dict[str, Any] = {"patient": patient, "urgent": urgent, "waiting": waiting}


def yielding(top: Path, url: str = "") -> Engine:
    """Return an engine whose runs must yield while a more urgent one waits."""

    def standing(run: Run) -> str | None:
        return YIELD if engine.journal.query(WAITS, run.id, run.priority) else None

    engine = open_engine(top, WORKFLOWS, url, standing_signal=standing)
    return engine


def works(engine: Engine, stop: threading.Event) -> threading.Thread:
    """Run a worker beside the test's own."""

    def work() -> None:
        while not stop.wait(0.01):
            deliver(engine)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def begin_urgent(engine: Engine) -> str:
    """Create an urgent run without a hint."""
    run = new_run(engine.journal, "urgent", {}, priority=10)
    assert run is not None
    return run


def test_a_run_yields_each_time_that_it_is_asked(tmp_path: Path, queue_url: str) -> None:
    """Started steps are undone first, and the urgent run waits only for that."""
    engine = yielding(tmp_path, queue_url)
    run = begin(engine, "patient")
    stop = threading.Event()
    with watching(engine):
        workers = [works(engine, stop) for _ in range(2)]
        try:
            for times in (1, 2, 3):
                while EFFECTS.count("trial") < times:
                    time.sleep(0.01)
                asked = begin_urgent(engine)
                began = time.monotonic()
                engine.hint(asked)
                while engine.journal.run(asked).status == "running":
                    assert time.monotonic() - began < 5
                    time.sleep(0.01)
            while engine.journal.run(run).status == "running":
                time.sleep(0.01)
        finally:
            stop.set()
            for worker in workers:
                worker.join()
    assert engine.journal.run(run).result["reason"] == "yielded 3 times"
    assert kinds(engine, run).count("signal yield") == 3
    assert EFFECTS == [*["+a", "trial", "-a", "aid"] * 3, "+a", "trial"]


def test_an_urgent_run_needs_no_queue(tmp_path: Path, redis_server: RedisServer) -> None:
    """A rollback starts within seconds while Redis hangs, also after waiting for the lease."""
    engine = yielding(tmp_path, redis_server.url)
    holder = new_run(engine.journal, "waiting", {"user": "ada"})
    with engine.journal.transaction() as connection:
        connection.execute("insert into locks values (?, ?, ?)", (HOST_LEASE, holder, time.time()))
    redis_server.child.send_signal(signal.SIGSTOP)
    thread = threading.Thread(target=engine.advance_urgent)
    thread.start()
    try:
        asked = begin_urgent(engine)
        while engine.journal.run(asked).wake_at is not None:
            time.sleep(0.05)
        with engine.journal.transaction() as connection:
            connection.execute("delete from locks")
        began = time.monotonic()
        while engine.journal.run(asked).status == "running":
            assert time.monotonic() - began < CALL_SECONDS + 5
            time.sleep(0.05)
    finally:
        redis_server.child.send_signal(signal.SIGCONT)
        engine.stopping.set()
        thread.join()
    assert EFFECTS == ["aid"]


def test_a_run_that_is_not_urgent_waits_for_its_message(tmp_path: Path) -> None:
    engine = yielding(tmp_path)
    new_run(engine.journal, "urgent", {})
    thread = threading.Thread(target=engine.advance_urgent)
    thread.start()
    time.sleep(1.5)
    engine.stopping.set()
    thread.join()
    assert EFFECTS == []


def test_forty_signals_cost_the_watcher_one_wait(tmp_path: Path, redis_server: RedisServer) -> None:
    """Forty signaled runs cost one timeout while Redis hangs, not forty in which nothing else is watched."""
    engine = yielding(tmp_path, redis_server.url)
    for number in range(40):
        run = begin(engine, "waiting", user=f"user{number}")
        send_signal(engine.journal, run, "cancel")
    redis_server.child.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        engine.deliver_signals()
        assert engine.recover() == 0
        assert time.monotonic() - began < CALL_SECONDS + 1.5
        assert engine.queue_unavailable.is_set()
        began = time.monotonic()
        engine.deliver_signals()
        engine.recover()
        assert time.monotonic() - began < 0.5
    finally:
        redis_server.child.send_signal(signal.SIGCONT)


def test_each_sleeping_run_has_one_delayed_message_of_its_step(tmp_path: Path, queue_url: str) -> None:
    """An operator recognizes them in Huey's table or sorted set by step, run, and user. A replaced message is revoked."""
    engine = open_engine(tmp_path, WORKFLOWS, queue_url)
    users = [f"user{number}" for number in range(5)]
    runs = {user: begin(engine, "waiting", user=user) for user in users}
    deliver(engine)
    for user in users[:2]:  # as after a freeze, or new settings
        engine.hint(runs[user], time.time() + 60)
    name = engine.queue.name
    if queue_url.startswith("sqlite://"):
        with closing(sqlite3.connect(queue_url.removeprefix("sqlite://"))) as connection:
            rows = [bytes(data) for (data,) in connection.execute("select data from schedule")]
            revoked = {key for (key,) in connection.execute("select key from kv")}
    else:
        redis = Redis.from_url(queue_url)
        rows = redis.zrange(f"huey.schedule.{name}", 0, -1)
        revoked = {key.decode() for key in redis.hkeys(f"huey.results.{name}")}
    found = [json.loads(data.partition(b" ")[2])["message"] for data in rows]
    live = [message for message in found if f"r:{message['id']}" not in revoked]
    assert sorted((message["args"][0], message["kwargs"]["user"]) for message in live) == sorted(
        (run, user) for user, run in runs.items()
    )
    assert {message["name"].rpartition(".")[2] for message in live} == {"await_quiet"}
    assert {message["id"] for message in live} == {engine.journal.run(run).message for run in runs.values()}


def test_recovery_names_the_step_and_keeps_the_priority(tmp_path: Path) -> None:
    """Lost messages come back as they were."""
    engine = open_engine(tmp_path, WORKFLOWS)
    begin(engine, "waiting", user="ada")
    deliver(engine)
    begin_urgent(engine)
    engine.queue.storage.flush_all()
    assert engine.recover() == 2
    [sleeping], [ready] = engine.queue.scheduled(), engine.queue.pending()
    assert type(sleeping).__name__ == "await_quiet"
    assert ready.priority == 10


def test_a_yield_does_not_end_a_run_that_asks_again(tmp_path: Path) -> None:
    """Killed after it yielded, the run resumes from there, since the signal is in its history."""
    engine = yielding(tmp_path)
    run = begin(engine, "patient")
    EFFECTS.extend(["trial"] * 2)
    with watching(engine):
        stop = threading.Event()
        worker = works(engine, stop)
        while EFFECTS.count("trial") < 3:
            time.sleep(0.01)
        asked = begin_urgent(engine)
        other = open_engine(tmp_path, WORKFLOWS)  # another consumer, for the urgent run alone
        other.advance(asked)
        while "signal yield" not in kinds(engine, run):
            time.sleep(0.01)
        stop.set()
        worker.join()
    again = yielding(tmp_path)
    again.hint(run)
    assert settle(again, run).result["reason"] == "yielded 1 times"
