"""The databases on which builds are tried, derived from one that a real server wrote."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from conftest import LEVEL30

from t3flow.t3.files import ENVIRONMENT_ID, FIRST_DATABASE, SECOND_DATABASE

DATA = LEVEL30.parent
LEVEL32, LEVEL52, KILLED = (DATA / f"state-level{name}.sqlite" for name in ("32", "52", "52-killed-in-turn"))
LEVEL56, IN_FLIGHT = (DATA / f"statev2-level56{name}.sqlite" for name in ("", "-run-in-flight"))
SETS: dict[str, dict[str, Path]] = {
    "B": {FIRST_DATABASE: LEVEL32},
    "C": {FIRST_DATABASE: LEVEL52},
    "killed": {FIRST_DATABASE: KILLED},
    "D": {FIRST_DATABASE: LEVEL52, SECOND_DATABASE: LEVEL56},
    "running": {FIRST_DATABASE: LEVEL52, SECOND_DATABASE: IN_FLIGHT},
}
"""States as real servers left them: by generation, and in the midst of work."""

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


def _reused(database: sqlite3.Connection) -> None:
    names = [(number, "2026-08-01 00:00:00", f"Preview{number}") for number in range(33, 52)]
    database.executemany("insert into effect_sql_migrations (migration_id, created_at, name) values (?, ?, ?)", names)


def _went_on(database: sqlite3.Connection) -> None:
    columns = [row[1] for row in database.execute("pragma table_info(orchestration_events)")]
    changed = {
        "sequence": "(select max(sequence) + 1 from orchestration_events)",
        "event_id": "'later'",
        "stream_version": "9999",
    }
    values = ", ".join(changed.get(column, column) for column in columns)
    database.execute(
        f"insert into orchestration_events select {values} from orchestration_events order by sequence limit 1"
    )


def _big(database: sqlite3.Connection) -> None:
    database.execute(
        "insert into projection_thread_messages (message_id, thread_id, role, text, is_streaming, created_at, updated_at) "
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < 600) "
        "select 'big-' || i, (select min(thread_id) from projection_threads), 'user', hex(randomblob(50000)), 0, '', '' from n"
    )


CHANGES: dict[str, Callable[[sqlite3.Connection], None]] = {
    "orphans": _orphans, "turns": _turns, "unicode": _unicode, "deleted": _deleted, "big": _big,
    "reused": _reused, "stale": _went_on,
}  # fmt: skip


def seed(name: str, folder: Path) -> dict[str, Path]:
    """Create the files of a snapshot in the folder and return them by original name; empty for an empty base dir."""
    if name == "fresh":
        return {}
    if name in SETS:
        return SETS[name]
    if name == "identified":
        (folder / ENVIRONMENT_ID).write_text("5a2c9a52-7f3c-4f6c-9d4e-2f8d2a0c7b11\n")
        return {FIRST_DATABASE: LEVEL52, ENVIRONMENT_ID: folder / ENVIRONMENT_ID}
    path = folder / f"{name}.sqlite"
    if name == "empty":
        path.write_bytes(b"")
        return {FIRST_DATABASE: path}
    shutil.copyfile({"reused": LEVEL32, "stale": LEVEL52}.get(name, LEVEL30), path)
    if name in CHANGES:
        with closing(sqlite3.connect(path)) as database, database:
            CHANGES[name](database)
    return {FIRST_DATABASE: path, **({SECOND_DATABASE: LEVEL56} if name == "stale" else {})}
