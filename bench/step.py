"""A durable step (journaled, synced), compared with a bare synced commit on the same disk, and with DBOS's step if DBOS is installed."""

import itertools
import sqlite3
import time
from importlib.util import find_spec
from pathlib import Path

from common import end_on_signals, median_seconds, show, sized
from loguru import logger

from t3flow.engine.engine import Engine
from t3flow.engine.journal import Journal
from t3flow.engine.queue import open_queue
from t3flow.engine.runs import Outcome, new_run
from t3flow.engine.step import step
from t3flow.sandbox.folders import temporary_folder

STEPS, ROUNDS = sized((200, 10), (20, 2))
ENDED: list[float] = []


@step()
def tick(number: int) -> int:
    """Do nothing, and be journaled."""
    ENDED.append(time.perf_counter())
    return number


def many() -> Outcome:
    """Call the step many times."""
    for number in range(STEPS):
        tick(number)
    return Outcome("done")


def durable_steps(engine: Engine) -> list[float]:
    """Return the seconds from each step's work to the next one's."""
    ENDED.clear()
    run = new_run(engine.journal, "many", {})
    assert run is not None
    engine.advance(run)
    assert engine.journal.run(run).outcome == "done"
    return [after - before for before, after in itertools.pairwise(ENDED)]


def main() -> None:
    """Alternate with the reference, so that both see the same load."""
    logger.remove()
    end_on_signals()
    with temporary_folder("t3flow-bench-", Path("/var/tmp")) as top:
        engine = Engine(
            Journal(top / "journal.db", create=True), open_queue(f"sqlite://{top}/queue.db", b"k" * 32), {"many": many}
        )
        bare = sqlite3.connect(top / "bare.db", isolation_level=None)
        bare.execute("pragma journal_mode = wal")
        bare.execute("pragma synchronous = full")
        bare.execute("create table events (run, seq, data)")

        def commit() -> None:
            bare.execute("begin immediate")
            bare.execute("insert into events values ('run', 1, ?)", ("x" * 100,))
            bare.execute("commit")

        commits: list[float] = []
        steps: list[float] = []
        for _ in range(ROUNDS):
            commits += median_seconds(commit, STEPS)
            steps += durable_steps(engine)
        show("synced SQLite commit", commits)
        show("durable step", steps, "synced SQLite commit", commits)
        if find_spec("dbos"):
            show("DBOS step on SQLite", dbos_steps(top), "durable step", steps)
        else:
            print("DBOS is not installed; to compare its step: pip install dbos")


def dbos_steps(top: Path) -> list[float]:
    """Return the same figures for DBOS."""
    import logging

    from dbos import DBOS

    logging.disable(logging.INFO)
    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{top}/dbos.sqlite"})
    ended: list[float] = []

    @DBOS.step()
    def dbos_tick(number: int) -> int:
        ended.append(time.perf_counter())
        return number

    @DBOS.workflow()
    def dbos_many() -> None:
        for number in range(STEPS):
            dbos_tick(number)

    DBOS.launch()
    dbos_many()
    dbos_many()
    DBOS.destroy()
    return [after - before for before, after in itertools.pairwise(ended)]


if __name__ == "__main__":
    main()
