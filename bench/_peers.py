"""The cost of a step in other engines, each as it is delivered: DBOS, Absurd, and Huey alone.

Each source is a context manager that yields a function: it runs a number of steps that do nothing, and returns the seconds from the end of one to the
end of the next. A source that is not installed is None, with the command that installs it.
"""

import itertools
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common import wait_until

Steps = Callable[[int], list[float]]
POSTGRES_BIN = Path("/usr/lib/postgresql")
INSTALL = "pip install dbos absurd-sdk absurdctl, and Debian's postgresql"


def between(ended: list[float]) -> list[float]:
    """Return the seconds between moments."""
    return [after - before for before, after in itertools.pairwise(ended)]


@contextmanager
def postgres(top: Path) -> Iterator[str]:
    """Yield the URL of a fresh Postgres with default durability (fsync, synchronous_commit), on a Unix socket only."""
    folder = postgres_programs()
    assert folder is not None
    data = top / "postgres"
    environment = {**os.environ, "LC_ALL": "C"}
    words = [folder / "initdb", "-D", data, "-U", "bench", "--auth=trust", "--encoding=UTF8", "--no-instructions"]
    subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
    words = [folder / "postgres", "-D", data, "-k", top, "-h", ""]
    server = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ready = [folder / "pg_isready", "-q", "-h", top]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, "Postgres", 0.1)
        yield f"postgresql://bench@/postgres?host={top}"
    finally:
        server.terminate()
        server.wait()


def postgres_programs() -> Path | None:
    """Return the folder of Postgres's programs, if it is installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(POSTGRES_BIN.glob("*/bin"))
    return folders[-1] if folders else None


@contextmanager
def huey(top: Path) -> Iterator[Steps]:
    """Yield tasks of Huey alone: enqueued, taken, run, and their results stored, each on disk as SQLite's defaults have it."""
    from huey import SqliteHuey

    logging.getLogger("huey").setLevel(logging.WARNING)
    queue = SqliteHuey("bench", filename=str(top / "huey.db"))
    ended: list[float] = []

    @queue.task()
    def huey_tick(number: int) -> int:
        ended.append(time.perf_counter())
        return number

    def steps(count: int) -> list[float]:
        ended.clear()
        for number in range(count):
            huey_tick(number)
            queue.execute(queue.dequeue())
        return between(ended)

    yield steps


@contextmanager
def dbos(url: str) -> Iterator[Steps]:
    """Yield steps of one DBOS workflow, with its database at a URL."""
    from dbos import DBOS

    logging.disable(logging.INFO)
    DBOS(config={"name": "bench", "system_database_url": url})
    ended: list[float] = []

    @DBOS.step()
    def dbos_tick(number: int) -> int:
        ended.append(time.perf_counter())
        return number

    @DBOS.workflow()
    def dbos_many(count: int) -> None:
        for number in range(count):
            dbos_tick(number)

    def steps(count: int) -> list[float]:
        ended.clear()
        dbos_many(count)
        return between(ended)

    DBOS.launch()
    try:
        yield steps
    finally:
        DBOS.destroy(destroy_registry=True)


@contextmanager
def absurd(url: str) -> Iterator[Steps]:
    """Yield steps of one Absurd task, with its schema in the Postgres at a URL."""
    from absurd_sdk import Absurd
    from absurdctl import BUNDLED_SCHEMA_SQL
    from psycopg import Connection

    with Connection.connect(url, autocommit=True) as connection:
        connection.execute(BUNDLED_SCHEMA_SQL)
        app = Absurd(connection, queue_name="bench")
        app.create_queue()
        ended: list[float] = []

        @app.register_task("many")
        def many(params: dict[str, Any], context: Any) -> None:
            def tick() -> int:
                ended.append(time.perf_counter())
                return 1

            for _ in range(params["count"]):
                context.step("tick", tick)

        def steps(count: int) -> list[float]:
            ended.clear()
            app.spawn("many", {"count": count})
            app.work_batch()
            return between(ended)

        yield steps


def installed(top: Path, stack: ExitStack) -> dict[str, Steps]:
    """Return the sources that are installed, by name, and print what the others need."""
    found = {f"Huey {version('huey')} alone on SQLite: a task": stack.enter_context(huey(top))}
    has_postgres = postgres_programs() is not None
    url = stack.enter_context(postgres(top)) if has_postgres and find_spec("psycopg") else ""
    if find_spec("dbos"):
        on = [f"sqlite:///{top}/dbos.sqlite", *([url.replace("postgresql:", "postgresql+psycopg:")] if url else [])]
        found |= {f"DBOS {version('dbos')} on {_kind(each)}: a step": _once(dbos, each) for each in on}
    if find_spec("absurd_sdk") and find_spec("absurdctl") and url:
        found[f"Absurd {version('absurd-sdk')} on Postgres: a step"] = stack.enter_context(absurd(url))
    if len(found) < 4:
        print(f"not all peers are installed; to measure DBOS and Absurd: {INSTALL}")
    return found


def _kind(url: str) -> str:
    return "SQLite" if url.startswith("sqlite") else "Postgres"


def _once(source: Callable[[str], Any], url: str) -> Steps:
    """Open a source for each call: DBOS has one database at a time in a process."""

    def steps(count: int) -> list[float]:
        with source(url) as inner:
            inner(2)
            taken: list[float] = inner(count)
            return taken

    return steps
