"""A durable step beside a bare synced commit on the same disk, and beside DBOS, Absurd, and Huey alone where they are installed."""

import itertools
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from _peers import Steps, installed
from common import median_seconds, show, sized
from loguru import logger
from sandboxed import go_inside

from t3flow.engine.engine import Engine
from t3flow.engine.journal import Journal
from t3flow.engine.queue import open_queue
from t3flow.engine.runs import Outcome, new_run
from t3flow.engine.step import step
from t3flow.sandbox.folders import temporary_folder

STEPS, ROUNDS = sized((200, 10), (20, 2))
BARE = "bare synced commit to SQLite"
ENDED: list[float] = []


@step()
def tick(number: int) -> int:
    """Do nothing, and be journaled."""
    ENDED.append(time.perf_counter())
    return number


def many(count: int) -> Outcome:
    """Call the step many times."""
    for number in range(count):
        tick(number)
    return Outcome("done")


def durable_steps(engine: Engine, count: int) -> list[float]:
    """Return the seconds from each step's work to the next one's."""
    ENDED.clear()
    run = new_run(engine.journal, "many", {"count": count})
    assert run is not None
    engine.advance(run)
    assert engine.journal.run(run).outcome == "done"
    return [after - before for before, after in itertools.pairwise(ENDED)]


@contextmanager
def plain(top: Path, journal_mode: str) -> Iterator[Steps]:
    """Yield bare commits of one row to SQLite, each on disk when it returns."""
    bare = sqlite3.connect(top / f"bare-{journal_mode}.db", isolation_level=None)
    bare.execute(f"pragma journal_mode = {journal_mode}")
    bare.execute("pragma synchronous = full")
    bare.execute("create table events (run, seq, data)")

    def commit() -> None:
        bare.execute("begin immediate")
        bare.execute("insert into events values ('run', 1, ?)", ("x" * 100,))
        bare.execute("commit")

    yield lambda count: median_seconds(commit, count)


def main() -> None:
    """Alternate between all sources, so that all see the same load."""
    logger.remove()
    with temporary_folder("t3flow-bench-", Path("/var/tmp")) as top, ExitStack() as stack:
        engine = Engine(
            Journal(top / "journal.db", create=True), open_queue(f"sqlite://{top}/queue.db", b"k" * 32), {"many": many}
        )
        sources: dict[str, Steps] = {
            BARE: stack.enter_context(plain(top, "wal")),
            "durable step": lambda count: durable_steps(engine, count),
            **installed(top, stack),
        }
        taken: dict[str, list[float]] = {name: [] for name in sources}
        for _ in range(ROUNDS):
            for name, steps in sources.items():
                taken[name] += steps(STEPS)
        for name, seconds in taken.items():
            show(name, seconds, BARE, taken[BARE] if name != BARE else None)


if __name__ == "__main__":
    go_inside()
    main()
