"""What was kept when it was replaced, in `userdata/replaced-*`: listed, and dropped."""

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

from t3flow.host.home import database
from t3flow.host.home.database import Problem, base_of, connect
from t3flow.t3 import files

PREFIX = "replaced-"
MOST_KEPT = 200
MOST_FILES = 40


def kept_folder(folder: Path, name: str) -> Path:
    """Return the folder of a kept set. Raises Problem for what is none."""
    kept = folder / name
    if not name.startswith(PREFIX) or "/" in name or kept.is_symlink() or not kept.is_dir():
        raise Problem(f"there is no kept database {name}")
    return kept


def list_kept(folder: Path) -> dict[str, Any]:
    """Return the newest MOST_KEPT kept sets: name, bytes, time, schema level (None: cannot be read), and file → bytes, logs included."""
    names: list[str] = []
    if folder.is_dir():
        names = sorted((name for name in os.listdir(folder) if name.startswith(PREFIX)), reverse=True)
    found = []
    for name in names[:MOST_KEPT]:
        with contextlib.suppress(Problem, OSError):
            there = kept_folder(folder, name)
            sizes: dict[str, int] = {}
            for entry in os.scandir(there):
                if not entry.name.startswith("."):
                    key = base_of(entry.name)[:100]
                    sizes[key] = sizes.get(key, 0) + entry.stat(follow_symlinks=False).st_size
            levels = [level_or_none(there / each) for each in files.databases(there)]
            known = [level for level in levels if level]
            level = max(known) if known and None not in levels else None
            shown = dict(sorted(sizes.items())[:MOST_FILES])
            found.append([name[:100], sum(sizes.values()), there.stat().st_mtime, level, shown])
    return {"kept": found}


def level_or_none(path: Path) -> int | None:
    """Return the schema level of a database, 0 for one that is not t3's, None for one that cannot be read."""
    try:
        with contextlib.closing(connect(path)) as connection:
            return database.level({path.name: database.schema(connection, path.name)})
    except (Problem, sqlite3.Error, OSError):
        return None


def schema_or_reason(path: Path) -> Any:
    """Return the applied migrations of a snapshot, or the reason why it has none."""
    try:
        with contextlib.closing(connect(path, at_rest=True)) as connection:
            found = database.schema(connection, path.name)
            return found or f"{path.name} went through no migration of t3's"
    except (Problem, sqlite3.Error, OSError) as error:
        return str(error)[:100]


def drop_kept(folder: Path, name: str) -> dict[str, Any]:
    """Remove a kept set; one that is gone is no problem."""
    with contextlib.suppress(Problem):
        shutil.rmtree(kept_folder(folder, name))
    return {}
