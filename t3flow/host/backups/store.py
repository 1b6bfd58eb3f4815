"""Backups: the owner writes a copy into a box, root takes it by open descriptor and keeps it where the owner cannot reach it."""

import json
import os
import shutil
import stat
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from t3flow import T3flowError
from t3flow.engine.files import DiskError, make_folder, remove_tree, require_space, safe_name, sync_folder
from t3flow.engine.journal import JournalError
from t3flow.host import journal_reserve, records
from t3flow.host.accounts import Account
from t3flow.host.backups import disk
from t3flow.host.host import Host
from t3flow.host.owner import run_as_owner
from t3flow.host.owner_answers import OwnerProblem, require
from t3flow.host.records import Backup
from t3flow.t3 import files, ledger, rows

INCOMING = ".incoming"
TAKING = "taking:"
"""The fact that says where a user's newest snapshot is put: "taking:USER" → paths (one alone, where an earlier t3flow noted it)."""
RESTORED = "restored:"
"""The fact that says which snapshot was put in place last: "restored:USER" → path of its first file."""
MIN_FREE_BYTES = 32 * 1024 * 1024


class BackupError(T3flowError):
    """No backup of this user can be had."""


def database_path(host: Host, user: str) -> Path:
    """Where a user's first database is. Only its name: whatever is in a home is touched by its owner alone."""
    return files.userdata(host.base_dir(user)) / files.FIRST_DATABASE


def take(
    host: Host, user: str, *, wrote: str, target: str, run: str, folder: Path | None = None, kept: str = ""
) -> Backup:
    """A checked snapshot of a user's whole state, or of the one `kept` by that name, in `folder` (by default the user's own below `backup_dir`).

    `wrote` is the version that runs on it, `target` the one moved to. All files are of one moment and under one time in their names. If nothing
    was written since the last snapshot, that one serves again.
    Raises OwnerProblem, BackupError (the user is at fault), DiskError (the disk is), Interrupted. Killed half-way it leaves a part under
    another name, which the next try replaces, or files that are on no record, which the next try removes.
    """
    keep_on_record = folder is None
    top = folder or host.settings.paths.backup_dir
    last = _last(host, user) if keep_on_record and not kept else None
    who = host.account(user)
    box = _box(top, user, who)
    require_space(top, MIN_FREE_BYTES, f"the backup of {user}")
    try:
        if keep_on_record:
            _drop_unrecorded(host, user)
            records.set_fact(host.journal, RESTORED + user, None)
        mark = kept or (json.dumps(last.fingerprint) if last else "null")
        answer = run_as_owner(
            host,
            user,
            "backup-kept" if kept else "backup",
            str(box),
            mark,
            timeout_seconds=float(host.settings.backup.timeout_s),
        )
        is_unchanged = last is not None and answer.get("unchanged") is True
        if last is not None and is_unchanged and last.target == target:
            return last
        home = top / safe_name(user)
        if last is not None and is_unchanged:
            made = replace(last, wrote=wrote, target=target, run=run, files=_names([*last.files], target))
        else:
            made = _described(answer, user, wrote, target, run)
        made = replace(made, path=str(home / next(iter(made.files.values()))))
        if keep_on_record:
            records.set_fact(host.journal, TAKING + user, [str(path) for path in made.paths.values()])
        _keep_files(made, box, who, last if is_unchanged else None)
    except OwnerProblem as problem:
        disk.require_sound(host, top, top / INCOMING, user, problem)
        raise
    except OSError as error:
        raise DiskError(
            f"no backup of {user}: {top} cannot be written ({error.strerror}); mend paths.backup_dir"
        ) from error
    finally:
        with suppress(DiskError):
            remove_tree(box)
    made = replace(made, created=time.time(), fingerprint=None if kept else made.fingerprint)
    if keep_on_record:
        records.put_backup(
            host.journal, made, synced=False
        )  # TAKING is: should this be lost, the next try removes the files
    return made


def _keep_files(made: Backup, box: Path, who: Account, same: Backup | None) -> None:
    """Puts all files of a snapshot where it says, from the box or from one that is the same; what fails leaves none of them."""
    try:
        for name, path in made.paths.items():
            if same is None:
                take_copy(box, name, who, path)
            else:
                os.link(same.paths[name], path)
        sync_folder(Path(made.path).parent)
    except Exception:
        for path in made.paths.values():
            with suppress(OSError):
                path.unlink()
        raise


def _described(answer: dict[str, Any], user: str, wrote: str, target: str, run: str) -> Backup:
    """A snapshot as its owner describes it, of no place and time yet. Raises OwnerProblem."""
    require(answer, "files", "schema", "rows", "level", "fingerprint")
    if not answer["files"]:
        raise OwnerProblem("the answer from the home is not as it should be")
    schema = {name: records.as_schema(listed) for name, listed in answer["schema"].items()}
    named = _names(answer["files"], target)
    return Backup(
        "", user, wrote, target, answer["level"], answer["fingerprint"], 0.0, run, named, schema, answer["rows"]
    )


def _names(names: list[str], target: str) -> dict[str, str]:
    """File of the state → under which name it is kept: NAME-prebump-VERSION-TIME, one time for all."""
    ending = f"-prebump-{safe_name(target)}-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    return {name: f"{Path(name).stem}{ending}{Path(name).suffix}" for name in map(safe_name, names)}


def _last(host: Host, user: str) -> Backup | None:
    """The user's newest snapshot, if all of it is there and it is known what the state looked like when it was taken."""
    of_user = records.backups(host.journal, user)
    return of_user[-1] if of_user and of_user[-1].fingerprint and of_user[-1].is_there else None


def _drop_unrecorded(host: Host, user: str) -> None:
    """Removes the files that t3flow was killed over before they were on record: nobody else ever would."""
    noted = records.fact(host.journal, TAKING + user) or []
    on_record = {str(path) for entry in records.backups(host.journal, user) for path in entry.paths.values()}
    for path in [noted] if isinstance(noted, str) else noted:
        if path not in on_record:
            with suppress(FileNotFoundError):
                Path(path).unlink()


def _box(top: Path, user: str, who: Account) -> Path:
    """An empty folder that the owner may write to, below one that they may only pass through."""
    incoming = top / INCOMING
    box = incoming / safe_name(user)
    try:
        remove_tree(box)
    except DiskError as error:
        raise BackupError(f"the drop box of {user} cannot be emptied: {error}") from error
    try:
        incoming.mkdir(parents=True, exist_ok=True)
        os.chmod(incoming, 0o711)
        try:
            box.mkdir(mode=0o700)
        except FileExistsError as error:
            raise BackupError(
                f"the drop box of {user} cannot be emptied: see what they mounted there (findmnt)"
            ) from error
        if who.is_other:
            os.chown(box, who.uid, who.gid)
        return box
    except OSError as error:
        raise DiskError(
            f"no backup of {user}: {incoming} cannot be written ({error.strerror}); mend paths.backup_dir"
        ) from error


def take_copy(box: Path, name: str, who: Account, kept: Path) -> None:
    """Copies a file that the owner left in the box, trusting nothing about it: one regular file of theirs, opened without following links.

    Raises BackupError for anything else in its place, DiskError when it cannot be kept.
    """
    folder = os.open(box, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError as error:
            raise BackupError(f"the copy that {who.name} left is gone or no plain file ({error.strerror})") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != who.uid:
            os.close(descriptor)
            raise BackupError(f"the copy that {who.name} left is no plain file of theirs")
        with os.fdopen(descriptor, "rb") as source:
            free = shutil.disk_usage(kept.parent.parent).free
            if status.st_size + MIN_FREE_BYTES > free:
                is_hole = (
                    status.st_blocks * 512 * 2 < status.st_size
                )  # it takes no space, and is none of the disk's fault
                raise (BackupError if is_hole else DiskError)(
                    f"the copy that {who.name} left takes {status.st_size / 1e6:.0f} MB, and {kept.parent.parent} has "
                    f"{free / 1e6:.0f} MB free: make room"
                )
            _store(source.fileno(), status.st_size, kept)
            with suppress(OSError):  # theirs: only a name in their own box
                os.unlink(name, dir_fd=folder)
            if os.fstat(source.fileno()).st_size != status.st_size:
                with suppress(FileNotFoundError):
                    kept.unlink()
                raise BackupError(f"the copy that {who.name} left grew or shrank while it was taken")
    finally:
        os.close(folder)


def _store(source: int, size_bytes: int, kept: Path) -> None:
    partial = kept.with_name(".partial")
    try:
        make_folder(kept.parent, 0o700)
        if kept.parent.is_symlink() or kept.parent.stat().st_uid != os.geteuid():
            raise BackupError(f"{kept.parent} is somebody else's, so nothing is kept there: t3flow adopt takes it over")
        with suppress(FileNotFoundError):
            partial.unlink()
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as copy, os.fdopen(os.dup(source), "rb") as file:
            if size_bytes:
                os.posix_fallocate(copy.fileno(), 0, size_bytes)  # a disk without room fails here, with nothing written
            while size_bytes > 0 and (part := file.read(min(size_bytes, 1024 * 1024))):  # it may grow meanwhile
                copy.write(part)
                size_bytes -= len(part)
            copy.flush()
            os.fsync(copy.fileno())
        partial.rename(kept)
        sync_folder(kept.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise DiskError(
            f"the backup {kept} cannot be written ({error.strerror}): make room in paths.backup_dir"
        ) from error


def restore(host: Host, user: str, backup: Backup, kept_name: str) -> str:
    """Puts a snapshot in place of the user's state, which is kept aside as `kept_name`. The server must be stopped.

    Returns the folder with what was there. What is in place then is what the snapshot says; `check_restored` asks again once a server has run
    on it. Raises OwnerProblem, BackupError. Repeating it is harmless.

    A snapshot of the first database alone is one of an earlier t3flow, or of the shell tracker. What else is there stays, but for the database that
    later versions of t3 make of that one once and never again: it is of another moment, and a later bump would show it in place of what was
    restored and written since. Where the version that wrote the snapshot keeps its work in that database, the snapshot is not put in place.
    """
    aside: list[str] | None = None
    if not backup.is_whole:
        aside = [files.SECOND_DATABASE]
        if files.SECOND_DATABASE in (records.schema_of_version(host.journal, backup.wrote) or {}):
            raise BackupError(
                f"{Path(backup.path).name} is a snapshot of {files.FIRST_DATABASE} alone, and {backup.wrote} keeps its work in "
                f"{files.SECOND_DATABASE}: choose another (t3flow backups {user})"
            )
    with ExitStack() as stack:
        given = {}
        for name, path in backup.paths.items():
            try:
                given[name] = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError as error:
                raise BackupError(f"the backup {path} cannot be read ({error.strerror})") from error
            stack.callback(os.close, given[name])
        records.set_fact(host.journal, RESTORED + user, backup.path)
        answer = run_as_owner(
            host,
            user,
            "restore",
            safe_name(kept_name),
            json.dumps({"files": given, "aside": aside}),
            timeout_seconds=float(host.settings.backup.timeout_s),
            descriptors=list(given.values()),
        )
    require(answer, "schema", "kept")
    _check_schema(user, backup, {name: records.as_schema(listed) for name, listed in answer["schema"].items()})
    return str(answer["kept"])


def set_aside(host: Host, user: str, names: list[str], kept_name: str) -> None:
    """Moves databases out of a user's state, which is kept as `kept_name` with them. The server must be stopped.

    Raises OwnerProblem. Repeating it is harmless.
    """
    run_as_owner(
        host,
        user,
        "restore",
        safe_name(kept_name),
        json.dumps({"files": {}, "aside": names}),
        timeout_seconds=float(host.settings.backup.timeout_s),
    )


def on_record(host: Host, user: str, path: str) -> Backup:
    """The snapshot at a path. One whose record is gone is taken for what it is by its name: the first database alone, of an unknown schema."""
    return records.backup_at(host.journal, path) or Backup(path, user, "", "", 0, None, 0.0, "")


def _check_schema(user: str, backup: Backup, restored: records.Schemas) -> None:
    """Raises BackupError where what is in place is not what the record of the snapshot says."""
    if backup.schema:
        wrong = next((name for name in restored if restored[name] != backup.schema.get(name)), "")
        if wrong:
            raise BackupError(f"{wrong} of {user} is at another schema after the restore than the snapshot was")
        return
    level = max((ledger.level(schema) for schema in restored.values() if schema), default=0)
    if backup.level and level != backup.level:
        raise BackupError(f"the database of {user} is at level {level} after the restore, not at {backup.level}")


def check_restored(host: Host, user: str) -> None:
    """Compares the rows of what was restored last with those of its snapshot, now that a server may have run on it.

    Raises BackupError with table and counts when there are fewer; OwnerProblem. With nothing restored since the last
    snapshot was taken, or no rows on record, it finds nothing.
    """
    path = records.fact(host.journal, RESTORED + user)
    backup = records.backup_at(host.journal, path) if path else None
    if backup is None or not backup.rows:
        return
    answer = run_as_owner(host, user, "rows", timeout_seconds=float(host.settings.backup.timeout_s))
    require(answer, "rows")
    for name, before in backup.rows.items():
        if backup.schema.get(name) is None:
            continue  # not t3's: a cache may lose rows
        if fewer := rows.lost(before, answer["rows"].get(name, {})):
            raise BackupError(f"rows are missing in {name} of {user} after the restore of {Path(path).name}: {fewer}")


def drop(host: Host, backup: Backup) -> None:
    """Remove a snapshot, as `drop_all`."""
    drop_all(host, [backup])


def drop_all(host: Host, doomed: list[Backup]) -> list[str]:
    """Remove snapshots; return their paths. Idempotent.

    All files go first, which works on a full disk, and then all records at once: a kill in between, or a journal without room, leaves records
    that say the files are missing. Raises OSError, JournalError.
    """
    for entry in doomed:
        for path in entry.paths.values():
            with suppress(FileNotFoundError):
                path.unlink()
        with suppress(OSError):
            Path(entry.path).parent.rmdir()  # the last of a user who left
    gone = [entry.path for entry in doomed]
    if gone:
        try:
            records.drop_backup(host.journal, *gone)
        except JournalError:
            if not journal_reserve.release(host.settings.paths.state_dir):
                raise
            records.drop_backup(host.journal, *gone)
    return gone


def put_back(host: Host, user: str, kept_name: str) -> None:
    """Undoes a restore that kept the state as `kept_name`; one that never began is nothing to undo. The server must be stopped.

    Raises OwnerProblem. Repeating it is harmless.
    """
    run_as_owner(host, user, "put-back", safe_name(kept_name), timeout_seconds=float(host.settings.backup.timeout_s))
    records.set_fact(host.journal, RESTORED + user, None)
