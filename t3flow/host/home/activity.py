"""Read the live databases of a running server at one moment: work, times, schemas, and the fingerprint of the set."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from t3flow.host.home import database
from t3flow.host.home.database import Problem, being_written, connect, naming
from t3flow.t3 import activity, files, ledger
from t3flow.t3.unknown import Unknown

MOST_WORK = 100


def read_state(folder: Path, pids: list[int]) -> dict[str, Any]:
    """Read the databases that the processes have open. Raises Problem if anything cannot be read."""
    names = database.databases(folder)
    live = files.live_databases(pids, folder, names)
    if removed := files.removed_databases(pids, folder):
        raise Problem(
            f"the server works in {ascii(removed[0])[1:-1][:60]}, which was removed or replaced while it runs: "
            "a restart loses what it has written since; save that, then restart the server by hand"
        )
    if not live:
        raise Problem(f"the server has none of its databases open ({', '.join(names)})")
    writing = any(being_written(folder / name) for name in live)
    schemas: dict[str, ledger.Schema | None] = {}
    found: list[activity.Activity] = []
    unknown = ""
    with contextlib.ExitStack() as stack:
        for name in names:
            with naming(name):
                connection = stack.enter_context(contextlib.closing(connect(folder / name)))
                connection.execute("begin")
                schemas[name] = database.schema(connection, name)
            if name in live:
                try:
                    found.append(_activity(connection, name))
                except Unknown as error:
                    unknown = unknown or str(error)
    if writing:
        raise Problem("a process is writing to the database")
    work = [piece for each in found for piece in each.work]
    work.sort(key=lambda piece: (piece.since is not None, -(piece.since or 0.0)))  # the oldest are cut off
    return {
        "live": live,
        "schema": schemas,
        "level": database.level({name: schemas[name] for name in live}),
        "work": [[piece.kind, piece.detail, piece.since] for piece in work[:MOST_WORK]],
        "newest": max((each.newest for each in found if each.newest is not None), default=None),
        "ahead": max((each.ahead for each in found if each.ahead is not None), default=None),
        "due": min((each.due for each in found if each.due is not None), default=None),
        "fingerprint": database.fingerprint(folder),
        "unknown": unknown,
    }


def _activity(connection: sqlite3.Connection, name: str) -> activity.Activity:
    try:
        with naming(name):
            return activity.read(connection, name)
    except activity.UnreadableTime as error:
        raise Problem(str(error)) from error
