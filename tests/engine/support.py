"""A small engine to test with: its workflows append to a file what they do, so that effects can be counted."""

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
    """An engine on a journal and a queue in a folder."""
    journal = Journal(top / "journal.db", create=True)
    return Engine(journal, open_queue(url or f"sqlite://{top}/queue.db", KEY), workflows, **more)


def deliver(engine: Engine, *, until: float = 0.0) -> int:
    """Takes due messages from the queue and acts on them as Huey's workers do; how many. `until`: as if it were so much later."""
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
    """The next message, without waiting for one."""
    return queue.dequeue() if queue.storage.queue_size() else None


def settle(engine: Engine, run_id: str, timeout_seconds: float = 10.0) -> Run:
    """Delivers until the run has ended."""
    deadline = time.monotonic() + timeout_seconds
    while (run := engine.journal.run(run_id)).status == "running":
        assert time.monotonic() < deadline, engine.journal.events(run_id)
        deliver(engine)
        time.sleep(0.005)
    return run


def begin(engine: Engine, workflow: str, **args: Any) -> str:
    """Journals a run and hints at it."""
    run_id = new_run(engine.journal, workflow, args)
    assert run_id is not None
    engine.hint(run_id)
    return run_id


def kinds(engine: Engine, run_id: str) -> list[str]:
    """The run's history as `kind step`."""
    return [f"{event.kind} {event.step}" if event.step else event.kind for event in engine.journal.events(run_id)]


@contextmanager
def watching(engine: Engine) -> Iterator[None]:
    """The engine's watcher, as the consumer runs it."""
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
    """A queue as another process would open it."""
    return open_queue(url, key)
