"""What is done inside a home, as its owner: a program of its own, of the standard library only, that root never runs as itself.

usage: owner.py COMMAND BASE_DIR [ARGUMENT...]   → one JSON document on stdout; `{"problem": TEXT}` when it cannot be done.

  state BASE_DIR              waits for a line on stdin, then reads turns, schema level and fingerprint
  backup BASE_DIR TARGET MARK a consistent copy of the database into TARGET, checked; none if its fingerprint is still MARK (JSON)
  restore BASE_DIR KEPT       puts the database that comes on stdin in place, the present one kept in userdata/KEPT
  put-back BASE_DIR KEPT      moves a database kept in userdata/KEPT back into place, the present one kept in userdata/KEPT-undone
  levels BASE_DIR FOLDER NAME...  the schema levels of snapshots that the owner once wrote into a folder
  kept BASE_DIR               the databases kept in userdata/replaced-*: name, size, time, schema level
  backup-kept BASE_DIR TARGET KEPT  a consistent copy of such a one into TARGET, checked
  drop-kept BASE_DIR KEPT     removes such a one
"""

import contextlib
import errno
import fcntl
import json
import os
import resource
import shutil
import sqlite3
import struct
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

DATABASE = Path("userdata/state.sqlite")
SUFFIXES = ("", "-wal", "-shm")
WRITE_LOCK_BYTE = 120
KEPT = "replaced-"
MOST_KEPT = 200
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_IS_FULL = "the disk is full: make room, then run it again"
SPARE_BYTES = 32 * 1024 * 1024


class Problem(Exception):
    """Why it cannot be done, for people."""


def fingerprint(database: Path) -> list[Any]:
    """What changes with every write: inode, size and time of change of the database and of its write-ahead log."""
    marks: list[Any] = []
    for suffix in ("", "-wal"):
        try:
            status = os.stat(f"{database}{suffix}", follow_symlinks=False)
            marks.append([status.st_ino, status.st_size, status.st_mtime_ns])
        except FileNotFoundError:
            marks.append(None)
    if marks[1] and marks[1][1] == 0:
        marks[1] = None
    return marks


def connect(database: Path, *, at_rest: bool = False) -> sqlite3.Connection:
    """Opens the database read-only, waiting for no lock. One `at_rest` has no log, and is given none."""
    for suffix in SUFFIXES:
        path = Path(f"{database}{suffix}")
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise Problem(f"{path.name} is not a plain file")
    if not database.exists():
        raise Problem("there is no database")
    if database.stat().st_size == 0 and not Path(f"{database}-wal").exists():
        raise Problem("the database is an empty file")
    mode = "mode=ro&immutable=1" if at_rest else "mode=ro"
    connection = sqlite3.connect(f"{database.as_uri()}?{mode}", uri=True, timeout=0.2, isolation_level=None)
    connection.execute("pragma trusted_schema = off")
    return connection


def table_exists(connection: sqlite3.Connection, name: str) -> bool:
    """Whether a table (not a view) of that name is there."""
    return (
        connection.execute("select 1 from sqlite_master where type = 'table' and name = ?", (name,)).fetchone()
        is not None
    )


def being_written(database: Path) -> bool:
    """Whether a process is in the middle of a write.

    One that is held still between the commit to its log and the note in the log's index would show the state before, and be found to have
    committed once it is ended. SQLite's lock on the log for writing is byte 120 of the index (WALINDEX_LOCK_OFFSET in its wal.c).
    """
    try:
        descriptor = os.open(f"{database}-shm", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, WRITE_LOCK_BYTE, 1, 0)
        found: int = struct.unpack("hhqqi4x", fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[0]
        return found != fcntl.F_UNLCK
    finally:
        os.close(descriptor)  # before SQLite opens the file: closing it later would drop SQLite's own locks


def schema_level(connection: sqlite3.Connection) -> int:
    """The newest migration that the database has been through."""
    if not table_exists(connection, "effect_sql_migrations"):
        raise Problem("the database is not one of t3 (no table effect_sql_migrations)")
    level = connection.execute("select max(migration_id) from effect_sql_migrations").fetchone()[0]
    if not isinstance(level, int):
        raise Problem("the database has no schema level")
    return level


def seconds(text: Any) -> float:
    """Seconds since the epoch of t3's own time text."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError(text)
        return moment.timestamp()
    except (TypeError, ValueError) as error:
        raise Problem(f"a time in the database cannot be read: {str(text)[:40]!r}") from error


def state(base_dir: Path) -> dict[str, Any]:
    """Turns and times, as projection_thread_sessions has them."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    database = base_dir / DATABASE
    writing = being_written(database)
    with contextlib.closing(connect(database)) as connection:
        connection.execute("begin")
        level = schema_level(connection)
        if not table_exists(connection, "projection_thread_sessions"):
            raise Problem("the database has no table projection_thread_sessions")
        rows = connection.execute(
            "select active_turn_id is not null, updated_at from projection_thread_sessions"
        ).fetchall()
        connection.execute("rollback")
    if writing:
        raise Problem("the database is being written to at this moment")
    moments = [(bool(active), seconds(updated)) for active, updated in rows]
    return {
        "level": level,
        "newest": max((moment for _, moment in moments), default=None),
        "newest_with_turn": max((moment for active, moment in moments if active), default=None),
        "fingerprint": fingerprint(database),
    }


def backup(base_dir: Path, target: Path, known: Any) -> dict[str, Any]:
    """VACUUM INTO, then a check of what was written; nothing if the database still has the `known` fingerprint."""
    return copy_checked(base_dir / DATABASE, target, known)


def copy_checked(database: Path, target: Path, known: Any) -> dict[str, Any]:
    """A consistent, checked copy of a database; what it looked like is in the answer, if it did not change meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        target.unlink()
    before = fingerprint(database)
    disk = os.statvfs(target.parent)  # a sparse file of a few kB may become any number of them
    most = max(0, disk.f_bavail * disk.f_frsize - SPARE_BYTES)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    with contextlib.closing(connect(database)) as connection:
        level = schema_level(connection)
        if before == known:
            return {"level": level, "fingerprint": before, "unchanged": True}
        try:
            connection.execute("vacuum into ?", (str(target),))
        except sqlite3.OperationalError as error:
            if target.exists() and target.stat().st_size + 2 * 1024 * 1024 > most:
                raise Problem(DISK_IS_FULL) from error
            raise
    os.chmod(target, 0o600)
    with contextlib.closing(connect(target)) as copy:
        verdict = copy.execute("pragma quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise Problem(f"the copy fails its check: {verdict}")
    after = fingerprint(database)
    return {"level": level, "bytes": target.stat().st_size, "fingerprint": before if before == after else None}


def level_or_reason(database: Path, *, at_rest: bool) -> Any:
    """The schema level of a database, or the reason why it has none."""
    try:
        with contextlib.closing(connect(database, at_rest=at_rest)) as connection:
            return schema_level(connection)
    except (Problem, sqlite3.Error, OSError) as error:
        return str(error)[:100]


def kept_folder(base_dir: Path, name: str) -> Path:
    """The folder of a kept database. Raises Problem for what is none."""
    folder = (base_dir / DATABASE).parent / name
    if not name.startswith(KEPT) or "/" in name or folder.is_symlink() or not folder.is_dir():
        raise Problem(f"there is no kept database {name}")
    return folder


def list_kept(base_dir: Path) -> dict[str, Any]:
    """The kept databases, the newest MOST_KEPT of them."""
    folder = (base_dir / DATABASE).parent
    names = (
        sorted((name for name in os.listdir(folder) if name.startswith(KEPT)), reverse=True) if folder.is_dir() else []
    )
    found = []
    for name in names[:MOST_KEPT]:
        with contextlib.suppress(Problem, OSError):
            there = kept_folder(base_dir, name)
            files = [entry.stat(follow_symlinks=False) for entry in os.scandir(there)]
            level = level_or_reason(there / DATABASE.name, at_rest=False)
            size = sum(status.st_size for status in files)
            found.append([name[:100], size, there.stat().st_mtime, level if isinstance(level, int) else None])
    return {"kept": found}


def backup_kept(base_dir: Path, target: Path, name: str) -> dict[str, Any]:
    """As a backup, of a kept database."""
    return copy_checked(kept_folder(base_dir, name) / DATABASE.name, target, None)


def drop_kept(base_dir: Path, name: str) -> dict[str, Any]:
    """Removes a kept database; one that is gone is no problem."""
    with contextlib.suppress(Problem):
        shutil.rmtree(kept_folder(base_dir, name))
    return {}


def keep(database: Path, kept: Path) -> Path:
    """Keeps a database with its log in a folder, by hard links. What was kept there first stays."""
    kept.mkdir(mode=0o700, exist_ok=True)
    for suffix in SUFFIXES:
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            os.link(f"{database}{suffix}", kept / f"{database.name}{suffix}", follow_symlinks=False)
    sync_folder(kept)
    sync_folder(kept.parent)
    return kept


def half_restored(database: Path) -> Path:
    """Where a database is written before it is put in place."""
    return database.parent / f".{database.name}.t3flow"


def remove(path: Path) -> None:
    """Removes a file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def restore(base_dir: Path, kept_name: str) -> dict[str, Any]:
    """Keeps what is there by hard links, writes the new file beside it, syncs, drops the log of the old one, renames. Repeating it is harmless."""
    database = base_dir / DATABASE
    folder = database.parent
    kept = keep(database, folder / kept_name)
    fresh = half_restored(database)
    remove(fresh)
    try:
        descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, 1024 * 1024)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.closing(connect(fresh)) as connection:
            level = schema_level(connection)
    except BaseException:
        remove(fresh)  # on a full disk it may have taken the last room that there was
        raise
    for suffix in ("-wal", "-shm"):
        for name in (f"{database}{suffix}", f"{fresh}{suffix}"):
            remove(Path(name))
    os.rename(fresh, database)
    sync_folder(folder)
    return {"level": level, "kept": str(kept)}


def put_back(base_dir: Path, kept_name: str) -> dict[str, Any]:
    """Undoes a restore, whole or half-done: the database first, then its log, each synced, so that a repetition knows how far it came.

    Where the kept file and the one in place are one and the same, the restore had not replaced it: only its log may have gone.
    """
    database = base_dir / DATABASE
    folder, kept = database.parent, database.parent / kept_name
    remove(half_restored(database))
    if not kept.is_dir():
        return {"kept": ""}
    undone = ""
    if (kept / database.name).exists():
        if not same_file(kept / database.name, database):
            undone = str(keep(database, folder / f"{kept_name}-undone"))
            for suffix in ("-wal", "-shm"):
                remove(Path(f"{database}{suffix}"))
        move(kept / database.name, database)
        sync_folder(folder)
        sync_folder(kept)
    move(kept / f"{database.name}-wal", Path(f"{database}-wal"))
    remove(kept / f"{database.name}-shm")  # SQLite makes it anew from the log
    with contextlib.suppress(OSError):
        os.rmdir(kept)
    sync_folder(folder)
    return {"kept": undone}


def same_file(one: Path, other: Path) -> bool:
    """Whether both names are there and mean one file."""
    return one.exists() and other.exists() and os.path.samefile(one, other)


def move(source: Path, target: Path) -> None:
    """A rename, if the source is there; also where both names mean one file, which rename(2) would leave as they are."""
    with contextlib.suppress(FileNotFoundError):
        if same_file(source, target):
            os.unlink(source)
        else:
            os.rename(source, target)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main(arguments: list[str]) -> int:
    """Runs one command; every failure is a `problem` in the answer."""
    command, base_dir = arguments[0], Path(arguments[1])
    try:
        if command == "state":
            answer = state(base_dir)
        elif command == "backup":
            answer = backup(base_dir, Path(arguments[2]), json.loads(arguments[3]))
        elif command == "restore":
            answer = restore(base_dir, arguments[2])
        elif command == "put-back":
            answer = put_back(base_dir, arguments[2])
        elif command == "levels":
            answer = {name: level_or_reason(Path(arguments[2]) / name, at_rest=True) for name in arguments[3:]}
        elif command == "kept":
            answer = list_kept(base_dir)
        elif command == "backup-kept":
            answer = backup_kept(base_dir, Path(arguments[2]), arguments[3])
        else:
            answer = drop_kept(base_dir, arguments[2])
    except (Problem, sqlite3.Error, OSError, OverflowError) as error:
        code = getattr(error, "sqlite_errorcode", None), getattr(error, "errno", None)
        is_full = code[0] == sqlite3.SQLITE_FULL or code[1] in FULL
        where = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        answer = {"problem": DISK_IS_FULL if is_full else where}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
