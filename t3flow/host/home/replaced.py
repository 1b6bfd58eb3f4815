"""List and drop the sets that were replaced and preserved in `userdata/replaced-*`."""

import contextlib
import os
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

from t3flow.host.home import database
from t3flow.host.home.database import Problem, base_of, connect
from t3flow.t3 import files

PREFIX = "replaced-"
_NAME = re.compile(PREFIX + r"[A-Za-z0-9-]{1,90}")
MOST_SETS = 200
MOST_FILES = 40


def replaced_folder(folder: Path, name: str) -> Path:
    """Return the folder of a replaced set, in which each database can be read. Raises Problem if there is none."""
    path = folder / name
    if not name.startswith(PREFIX) or "/" in name or path.is_symlink() or not path.is_dir():
        raise Problem(f"there is no replaced database {name}")
    for each in files.databases(path):
        if (path / f"{each}-journal").is_file():
            _roll_back(path / each)
    return path


def _roll_back(database: Path) -> None:
    """Roll back what a killed server left in a rollback journal. SQLite reads the database only then, and does so itself if it may write."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("select 1 from sqlite_master").fetchone()


def list_replaced(folder: Path) -> dict[str, Any]:
    """Return the newest MOST_SETS replaced sets: name, bytes, time, schema level (None: unreadable), and file → bytes, logs included.

    Folders of the user's whose names t3flow does not give, such as `replaced-TIME (copy)`, do not count.
    """
    names: list[str] = []
    if folder.is_dir():
        names = sorted((name for name in os.listdir(folder) if _NAME.fullmatch(name)), reverse=True)
    found = []
    for name in names[:MOST_SETS]:
        with contextlib.suppress(Problem, OSError):
            path = replaced_folder(folder, name)
            sizes: dict[str, int] = {}
            for entry in os.scandir(path):
                if not entry.name.startswith("."):
                    key = base_of(entry.name)[:100]
                    sizes[key] = sizes.get(key, 0) + entry.stat(follow_symlinks=False).st_size
            levels = [level_or_none(path / each) for each in files.databases(path)]
            known = [level for level in levels if level]
            level = max(known) if known and None not in levels else None
            shown = dict(sorted(sizes.items())[:MOST_FILES])
            found.append([name, sum(sizes.values()), path.stat().st_mtime, level, shown])
    return {"replaced": found}


def level_or_none(path: Path) -> int | None:
    """Return the schema level of a database, 0 if it is not t3's, None if it cannot be read."""
    try:
        with contextlib.closing(connect(path)) as connection:
            return database.level({path.name: database.schema(connection, path.name)})
    except (Problem, sqlite3.Error, OSError):
        return None


def schema_or_reason(path: Path) -> Any:
    """Return the applied migrations of a snapshot, or the reason why they cannot be told."""
    try:
        with contextlib.closing(connect(path, at_rest=True)) as connection:
            found = database.schema(connection, path.name)
            return found or f"{path.name} has no migration of t3's"
    except (Problem, sqlite3.Error, OSError) as error:
        return str(error)[:100]


def drop_replaced(folder: Path, name: str) -> dict[str, Any]:
    """Remove a replaced set. Idempotent."""
    with contextlib.suppress(Problem):
        shutil.rmtree(replaced_folder(folder, name))
    return {}
