"""The databases that builds are tried on, made from the one that a real server wrote."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from conftest import LEVEL30

from t3flow.t3.files import FIRST_DATABASE

WORDS = "ünïcode 🦊", "\u202eright to left", "a\u0000b", "𝔘𝔫𝔦", "line\nline", "'; drop table x; --"


def _orphans(database: sqlite3.Connection) -> None:
    database.execute(
        "create table old_child (id integer primary key, parent text references projection_projects(project_id))"
    )
    database.executemany("insert into old_child (parent) values (?)", [("gone",)] * 3)


def _turns(database: sqlite3.Connection) -> None:
    database.execute("update projection_thread_sessions set status = 'running', active_turn_id = 'turn-' || rowid")


def _unicode(database: sqlite3.Connection) -> None:
    for number, word in enumerate(WORDS):
        database.execute("update projection_projects set title = ? where rowid = ?", (word, number + 1))
        database.execute(
            "update projection_thread_messages set text = ? where rowid % ? = ?", (word, len(WORDS), number)
        )


def _deleted(database: sqlite3.Connection) -> None:
    database.execute("update projection_threads set deleted_at = updated_at where rowid % 3 = 0")
    database.execute("update projection_projects set deleted_at = updated_at where rowid = 1")


def _big(database: sqlite3.Connection) -> None:
    database.execute(
        "insert into projection_thread_messages (message_id, thread_id, role, text, is_streaming, created_at, updated_at) "
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < 600) "
        "select 'big-' || i, (select min(thread_id) from projection_threads), 'user', hex(randomblob(50000)), 0, '', '' from n"
    )


CHANGES: dict[str, Callable[[sqlite3.Connection], None]] = {
    "orphans": _orphans, "turns": _turns, "unicode": _unicode, "deleted": _deleted, "big": _big,
}  # fmt: skip


def seed(name: str, folder: Path) -> dict[str, Path]:
    """The files of a state's snapshot by their original names, made in the folder; none for a base dir without a state."""
    if name == "fresh":
        return {}
    path = folder / f"{name}.sqlite"
    if name == "empty":
        path.write_bytes(b"")
        return {FIRST_DATABASE: path}
    shutil.copyfile(LEVEL30, path)
    if name in CHANGES:
        with closing(sqlite3.connect(path)) as database, database:
            CHANGES[name](database)
    return {FIRST_DATABASE: path}
