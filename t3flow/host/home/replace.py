"""Replacing the state of a home by a snapshot, and the way back. The server is stopped, and nothing starts one meanwhile.

What is there is first kept, whole, in `userdata/replaced-TIME`: the folder gets that name once it has everything, so that a repetition after a
kill does not mix what was there with what has been put in place since. It says in a manifest what it kept.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from t3flow.host.home import database
from t3flow.host.home.database import SUFFIXES, connect, naming
from t3flow.t3 import files, ledger

MANIFEST = ".t3flow-kept.json"
LOGS = files.LOG_SUFFIXES
CHUNK_BYTES = 1024 * 1024


def restore(folder: Path, kept_name: str, given: dict[str, int], aside: Iterable[str] | None) -> dict[str, Any]:
    """Put files, given as open descriptors, in place of a folder's state, which is kept. Repeating it ends the same.

    All are written and checked beside the present ones before the first is replaced: a full disk changes nothing. The databases named in `aside`
    (None: all that are not given) are moved aside: an older t3 would not read them, and a newer one would go on from them.
    """
    kept = folder / kept_name
    keep(folder, kept)
    schemas: dict[str, ledger.Schema | None] = {}
    try:
        for name, descriptor in given.items():
            _write_beside(folder / name, descriptor)
            if not database.is_identity(name):
                with naming(name), contextlib.closing(connect(beside(folder / name))) as connection:
                    schemas[name] = database.schema(connection, name)
    except BaseException:
        remove_half_written(folder)  # on a full disk it may have taken the last room that there was
        raise
    for name in given:
        fresh = beside(folder / name)
        for suffix in LOGS:
            remove(Path(f"{folder / name}{suffix}"))
            remove(Path(f"{fresh}{suffix}"))
        os.rename(fresh, folder / name)
    for name in files.databases(folder):
        if name not in given and (aside is None or name in aside):
            _set_aside(folder, kept, name)
    sync_folder(folder)
    return {"kept": str(kept), "schema": schemas}


def put_back(folder: Path, kept_name: str) -> dict[str, Any]:
    """Undo a restore, whole or half-done, or its undo. Repeating it ends the same.

    A database first, then its log, each synced, so that a repetition knows how far it came. Where the kept file and the one in place are one
    and the same, the restore had not replaced it: only its log may have gone. What the restore put in place, and what came since, is kept in
    `userdata/replaced-TIME-undone`.
    """
    kept = folder / kept_name
    remove_half_written(folder)
    if not kept.is_dir():
        return {"kept": ""}
    had = _manifest(kept)
    names = had if had is not None else sorted({database.base_of(name) for name in os.listdir(kept)})
    undone = folder / f"{kept_name}-undone"
    extra = [name for name in _state(folder) if had is not None and name not in had]
    if extra or any(_was_replaced(folder, kept, name) for name in names):
        keep(folder, undone)
    for name in extra:
        _set_aside(folder, undone, name)
    for name in names:
        if (kept / name).exists():
            if not _same_file(kept / name, folder / name):
                for suffix in LOGS:
                    remove(Path(f"{folder / name}{suffix}"))
            _move(kept / name, folder / name)
            sync_folder(folder)
            sync_folder(kept)
        _move(kept / f"{name}-wal", folder / f"{name}-wal")
        remove(kept / f"{name}-shm")  # SQLite makes it anew from the log
    remove(kept / MANIFEST)
    with contextlib.suppress(OSError):
        os.rmdir(kept)
    sync_folder(folder)
    return {"kept": str(undone) if undone.is_dir() else ""}


def keep(folder: Path, kept: Path) -> None:
    """Keep the state of a folder by hard links. What was kept by that name stays as it is.

    A folder without a manifest is of an earlier t3flow, which kept the first database alone and may have been killed over it: it is completed, as
    that would have done.
    """
    if kept.is_dir() and _manifest(kept) is not None:
        return
    names = _state(folder)
    half = kept if kept.is_dir() else _beside_folder(kept)
    if half != kept:
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(mode=0o700)
    for name in names:
        for suffix in SUFFIXES:
            _link(Path(f"{folder / name}{suffix}"), half / f"{name}{suffix}")
    if half != kept:
        _write(half / MANIFEST, json.dumps({"files": names}).encode())
    sync_folder(half)
    if half != kept:
        os.rename(half, kept)
    sync_folder(folder)


def _state(folder: Path) -> list[str]:
    return [*files.databases(folder), *database.identity_files(folder)]


def _manifest(kept: Path) -> list[str] | None:
    """The names that a folder kept; None for one of an earlier t3flow."""
    try:
        said = json.loads((kept / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [name for name in said if isinstance(name, str) and "/" not in name]


def _was_replaced(folder: Path, kept: Path, name: str) -> bool:
    """Whether another file than the kept one is in place."""
    return (kept / name).exists() and (folder / name).exists() and not _same_file(kept / name, folder / name)


def _set_aside(folder: Path, kept: Path, name: str) -> None:
    """Remove a file and its logs from a folder, kept by links if they are not yet. The logs go first: a repetition finds them by their database."""
    for suffix in SUFFIXES:
        _link(Path(f"{folder / name}{suffix}"), kept / f"{name}{suffix}")
    sync_folder(kept)
    for suffix in reversed(SUFFIXES):
        remove(Path(f"{folder / name}{suffix}"))


def _link(source: Path, target: Path) -> None:
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        os.link(source, target, follow_symlinks=False)


def beside(path: Path) -> Path:
    """Return where a file is written before it is put in place."""
    return path.parent / f".{path.name}.t3flow"


def _beside_folder(kept: Path) -> Path:
    return beside(kept)


def remove_half_written(folder: Path) -> None:
    """Remove what a restore or its undo was killed over."""
    for left in folder.glob(".*.t3flow"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            remove(left)


def _write_beside(path: Path, descriptor: int) -> None:
    fresh = beside(path)
    remove(fresh)
    os.lseek(descriptor, 0, os.SEEK_SET)
    target = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    with os.fdopen(target, "wb") as file, os.fdopen(os.dup(descriptor), "rb") as source:
        shutil.copyfileobj(source, file, CHUNK_BYTES)
        file.flush()
        os.fsync(file.fileno())


def _write(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and os.path.samefile(one, other)


def _move(source: Path, target: Path) -> None:
    """Rename a file, if it is there; also where both names mean one file, which rename(2) would leave as they are."""
    with contextlib.suppress(FileNotFoundError):
        if _same_file(source, target):
            os.unlink(source)
        else:
            os.rename(source, target)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
