"""Replace the set in a home by a snapshot, and undo that. The server is stopped, and nothing starts one meanwhile.

The present set is first preserved in `userdata/replaced-TIME`. The folder gets that name once it is complete, so that a repetition after a kill
does not mix the former set with files that were put in place since. A manifest in it lists the preserved files.
"""

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any

from t3flow.host.home import database
from t3flow.host.home.copies import SPARE_BYTES
from t3flow.host.home.database import SUFFIXES, Problem, connect, naming
from t3flow.t3 import files, ledger

MANIFEST = ".t3flow-kept.json"
LOGS = files.LOG_SUFFIXES
CHUNK_BYTES = 1024 * 1024
NO_LINK = (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)
"""Errors of a link to a file that belongs to another account (fs.protected_hardlinks), or on a file system without links."""


def restore(folder: Path, replaced_name: str, given: dict[str, int], aside: Collection[str] | None) -> dict[str, Any]:
    """Put files, given as open descriptors, in place of a folder's set, which is preserved as `replaced_name`. Idempotent.

    All files are written and checked beside the present ones before the first is replaced: a full disk changes nothing. The databases in `aside`
    (None: all that are not given) are removed from the set: an older t3 would not read them, and a newer one would continue from them.
    A folder that was lost with everything in it is created.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    replaced = folder / replaced_name
    leaving = [name for name in files.databases(folder) if name not in given and (aside is None or name in aside)]
    schemas: dict[str, ledger.Schema | None] = {}
    try:
        preserve(folder, replaced, _set_files(folder), linked={*given, *leaving})
        for name, descriptor in given.items():
            _write_beside(folder / name, descriptor)
            if not database.is_identity(name):
                with naming(name), contextlib.closing(connect(beside(folder / name))) as connection:
                    schemas[name] = database.schema(connection, name)
    except BaseException:
        remove_partials(folder)  # on a full disk it may occupy the last free blocks
        raise
    for name in given:
        fresh = beside(folder / name)
        for suffix in LOGS:
            remove(Path(f"{folder / name}{suffix}"))
            remove(Path(f"{fresh}{suffix}"))
        os.rename(fresh, folder / name)
    for name in leaving:
        _set_aside(folder, replaced, name)
    sync_folder(folder)
    return {"replaced": str(replaced), "schema": schemas}


def undo_restore(folder: Path, replaced_name: str) -> dict[str, Any]:
    """Undo a complete or partial restore, or a partial undo. Idempotent.

    Each database moves before its log, and both are synced, so that a repetition knows where to resume. If the preserved file and the one in place
    are the same file, the restore had not replaced it: only its log may be missing. The files that the restore put in place, and those written
    since, are preserved in `userdata/replaced-TIME-undone`.
    """
    replaced = folder / replaced_name
    remove_partials(folder)
    if not replaced.is_dir():
        return {"replaced": ""}
    preserved = _manifest(replaced)
    names = preserved if preserved is not None else sorted({database.base_of(name) for name in os.listdir(replaced)})
    undone = folder / f"{replaced_name}-undone"
    extra = [name for name in _set_files(folder) if preserved is not None and name not in preserved]
    if lost := [*extra, *(name for name in names if _was_replaced(folder, replaced, name))]:
        preserve(folder, undone, lost, linked=lost)
    for name in extra:
        _set_aside(folder, undone, name)
    for name in names:
        if (replaced / name).exists():
            if not _same_file(replaced / name, folder / name):
                for suffix in LOGS:
                    remove(Path(f"{folder / name}{suffix}"))
            _move(replaced / name, folder / name)
            sync_folder(folder)
            sync_folder(replaced)
        for suffix in LOGS:
            if suffix == files.LOG_INDEX:
                remove(replaced / f"{name}{suffix}")  # SQLite rebuilds it from the log
            else:
                _move(replaced / f"{name}{suffix}", folder / f"{name}{suffix}")
    remove(replaced / MANIFEST)
    with contextlib.suppress(OSError):
        os.rmdir(replaced)
    sync_folder(folder)
    return {"replaced": str(undone) if undone.is_dir() else ""}


def preserve(folder: Path, replaced: Path, names: list[str], linked: Collection[str]) -> None:
    """Preserve files of a folder: those that leave their place by hard links, the others as copies, since a server writes to them afterwards.

    A complete set that was preserved under that name stays unchanged. A folder without a manifest was written by an earlier release, which preserved
    the first database alone and may have been killed meanwhile: it is completed as that release would have done.
    """
    if replaced.is_dir() and _manifest(replaced) is not None:
        return
    partial = replaced if replaced.is_dir() else beside(replaced)
    if partial != replaced:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
    for name in names:
        for suffix in SUFFIXES:
            _preserve_file(Path(f"{folder / name}{suffix}"), partial / f"{name}{suffix}", may_link=name in linked)
    if partial != replaced:
        _write(partial / MANIFEST, json.dumps({"files": names}).encode())
    sync_folder(partial)
    if partial != replaced:
        os.rename(partial, replaced)
    sync_folder(folder)


def _set_files(folder: Path) -> list[str]:
    return [*files.databases(folder), *database.identity_files(folder)]


def _manifest(replaced: Path) -> list[str] | None:
    """Return the files that a folder preserves; None for a folder of an earlier release."""
    try:
        names = json.loads((replaced / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [name for name in names if isinstance(name, str) and "/" not in name]


def _was_replaced(folder: Path, replaced: Path, name: str) -> bool:
    """Return whether the file in place is not the preserved one."""
    return (replaced / name).exists() and (folder / name).exists() and not _same_file(replaced / name, folder / name)


def _set_aside(folder: Path, replaced: Path, name: str) -> None:
    """Remove a file and its logs from a folder, preserved by links. The logs are removed first: a repetition finds them by their database."""
    for suffix in SUFFIXES:
        _preserve_file(Path(f"{folder / name}{suffix}"), replaced / f"{name}{suffix}")
    sync_folder(replaced)
    for suffix in reversed(SUFFIXES):
        remove(Path(f"{folder / name}{suffix}"))


def _preserve_file(source: Path, target: Path, *, may_link: bool = True) -> None:
    """Link or copy a file to a second name. A no-op if the file is missing or was preserved before."""
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        if may_link:
            try:
                os.link(source, target, follow_symlinks=False)
                return
            except OSError as error:
                if error.errno not in NO_LINK:
                    raise
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not target.exists():
                status = os.fstat(descriptor)
                _require_copyable(source.name, status, os.statvfs(source.parent))
                _write_beside(target, descriptor, status.st_mode & 0o777)
                os.rename(beside(target), target)
        finally:
            os.close(descriptor)


def _require_copyable(name: str, status: os.stat_result, disk: os.statvfs_result) -> None:
    """Raise Problem unless a file is a regular one that fits on the disk, which may be that of all homes."""
    if not stat.S_ISREG(status.st_mode):
        raise Problem(f"{name} is not a regular file")
    if status.st_size + SPARE_BYTES > (free := disk.f_bavail * disk.f_frsize):
        raise Problem(f"{name} has {status.st_size / 1e6:.0f} MB and cannot be preserved: {free / 1e6:.0f} MB are free")


def beside(path: Path) -> Path:
    """Return the path at which a file is written before it is put in place."""
    return path.parent / f".{path.name}.t3flow"


def remove_partials(folder: Path) -> None:
    """Remove partial files of a restore or an undo that was killed."""
    for left in (each for suffix in SUFFIXES for each in folder.glob(f".*.t3flow{suffix}")):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            remove(left)


def _write_beside(path: Path, descriptor: int, mode: int = 0o600) -> None:
    fresh = beside(path)
    remove(fresh)
    os.lseek(descriptor, 0, os.SEEK_SET)
    target = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, mode)
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
    """Remove a file if it exists."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and os.path.samefile(one, other)


def _move(source: Path, target: Path) -> None:
    """Rename a file if it exists; also if both names are links to one file, which rename(2) would leave unchanged."""
    with contextlib.suppress(FileNotFoundError):
        if _same_file(source, target):
            os.unlink(source)
        else:
            os.rename(source, target)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that its entries survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
