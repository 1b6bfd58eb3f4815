"""A small engine for tests, and functions that deliver its messages without a consumer."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from t3flow.engine.engine import Engine
from t3flow.engine.journal import Journal, Run
from t3flow.engine.queue import HintQueue, open_queue
from t3flow.engine.runs import Outcome, new_run

KEY = b"k" * 32


def open_engine(top: Path, workflows: dict[str, Callable[..., Outcome]], url: str = "", **more: Any) -> Engine:
    """Return an engine with its journal and queue in a folder."""
    journal = Journal(top / "journal.db", create=True)
    return Engine(journal, open_queue(url or f"sqlite://{top}/queue.db", KEY), workflows, **more)


def deliver(engine: Engine, *, until: float = 0.0) -> int:
    """Execute due messages as Huey's workers do, and return how many. `until`: pretend that it is so many seconds later."""
    from datetime import UTC, datetime

    queue = engine.queue
    count = 0
    now = datetime.fromtimestamp(time.time() + until, UTC).replace(tzinfo=None)
    for task in queue.read_schedule(now):
        queue.enqueue(task)
    while (task := take(queue)) is not None:
        queue.execute(task, now)
        count += 1
    return count


def take(queue: HintQueue) -> Any:
    """Return the next message, without waiting for one."""
    return queue.dequeue() if queue.storage.queue_size() else None


def settle(engine: Engine, run_id: str, timeout_seconds: float = 10.0) -> Run:
    """Deliver messages until the run ends."""
    deadline = time.monotonic() + timeout_seconds
    while (run := engine.journal.run(run_id)).status == "running":
        assert time.monotonic() < deadline, engine.journal.events(run_id)
        deliver(engine)
        time.sleep(0.005)
    return run


def begin(engine: Engine, workflow: str, **args: Any) -> str:
    """Create a run and send its hint."""
    run_id = new_run(engine.journal, workflow, args)
    assert run_id is not None
    engine.hint(run_id)
    return run_id


def kinds(engine: Engine, run_id: str) -> list[str]:
    """Return the run's events as `kind step`."""
    return [f"{event.kind} {event.step}" if event.step else event.kind for event in engine.journal.events(run_id)]


@contextmanager
def watching(engine: Engine) -> Iterator[None]:
    """Run the engine's watcher threads, as the consumer does."""
    threads = [threading.Thread(target=work) for work in (engine.watch, engine.watch_queue)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        engine.stopping.set()
        for thread in threads:
            thread.join(5)


def queue_of(url: str, key: bytes = KEY) -> HintQueue:
    """Return a queue as another process would open it."""
    return open_queue(url, key)
