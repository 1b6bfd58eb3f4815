"""Backups: the owner writes a copy into a box, root takes it by open descriptor and keeps it where the owner cannot reach it."""

import json
import os
import shutil
import stat
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from t3flow.errors import T3flowError
from t3flow.files import DiskError, make_folder, remove_tree, require_space, safe_name, sync_folder
from t3flow.host import records
from t3flow.host.accounts import Account
from t3flow.host.host import Host
from t3flow.host.owned import OwnerProblem, run_as_owner
from t3flow.host.records import Backup

INCOMING = ".incoming"
TAKING = "taking:"
"""The fact that says where a user's newest snapshot is put: "taking:USER" → path."""
MIN_FREE_BYTES = 32 * 1024 * 1024


class BackupError(T3flowError):
    """No backup of this user can be had."""


def database_path(host: Host, user: str) -> Path:
    """Where a user's database is. Only its name: whatever is in a home is touched by its owner alone."""
    return host.base_dir(user) / "userdata" / "state.sqlite"


def take(
    host: Host, user: str, *, wrote: str, target: str, run: str, folder: Path | None = None, kept: str = ""
) -> Backup:
    """A checked snapshot of a user's database, or of the one `kept` by that name, in `folder` (by default the user's own below `backup_dir`).

    `wrote` is the version that runs on it, `target` the one moved to. If nothing was written since the last snapshot, that one serves again.
    Raises OwnerProblem, BackupError (the user is at fault), DiskError (the disk is), Interrupted. Killed half-way it leaves a part under
    another name, which the next try replaces, or a whole that is on no record, which the next try removes.
    """
    keep_on_record = folder is None
    top = folder or host.settings.paths.backup_dir
    last = _last(host, user) if keep_on_record and not kept else None
    who = host.account(user)
    box = _box(top, user, who)
    require_space(top, MIN_FREE_BYTES, f"the backup of {user}")
    try:
        _drop_unrecorded(host, user)
        mark = kept or (json.dumps(last.fingerprint) if last else "null")
        answer = run_as_owner(
            host,
            user,
            "backup-kept" if kept else "backup",
            str(box / "state.sqlite"),
            mark,
            timeout_seconds=float(host.settings.backup.timeout_s),
        )
        taken = top / safe_name(user) / f"state-prebump-{safe_name(target)}-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.sqlite"
        is_unchanged = last is not None and answer.get("unchanged") is True
        if last is not None and is_unchanged and last.target == target:
            return last
        if keep_on_record:
            records.set_fact(host.journal, TAKING + user, str(taken))
        if last is not None and is_unchanged:
            os.link(last.path, taken)
            sync_folder(taken.parent)
        else:
            take_copy(box, who, taken)
    except OSError as error:
        raise DiskError(
            f"no backup of {user}: {top} cannot be written ({error.strerror}); mend paths.backup_dir"
        ) from error
    finally:
        with suppress(DiskError):
            remove_tree(box)
    level, fingerprint = _level(answer), None if kept else answer.get("fingerprint")
    backup = Backup(str(taken), user, wrote, target, level, fingerprint, time.time(), run)
    if keep_on_record:
        records.put_backup(host.journal, backup)
    return backup


def _last(host: Host, user: str) -> Backup | None:
    """The user's newest snapshot, if it is there and it is known what the database looked like when it was taken."""
    of_user = records.backups(host.journal, user)
    return of_user[-1] if of_user and of_user[-1].fingerprint and Path(of_user[-1].path).is_file() else None


def _drop_unrecorded(host: Host, user: str) -> None:
    """Removes the snapshot that t3flow was killed over before it was on record: nobody else ever would."""
    path = records.fact(host.journal, TAKING + user)
    if path is not None and all(entry.path != path for entry in records.backups(host.journal, user)):
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


def take_copy(box: Path, who: Account, kept: Path) -> None:
    """Copies what the owner left in the box, trusting nothing about it: one regular file of theirs, opened without following links.

    Raises BackupError for anything else in its place, DiskError when it cannot be kept.
    """
    folder = os.open(box, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            descriptor = os.open(
                "state.sqlite", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
            )
        except OSError as error:
            raise BackupError(f"the copy that {who.name} left is gone or no plain file ({error.strerror})") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != who.uid:
            os.close(descriptor)
            raise BackupError(f"the copy that {who.name} left is no plain file of theirs")
        with os.fdopen(descriptor, "rb") as source:
            free = shutil.disk_usage(kept.parent.parent).free
            if status.st_size + MIN_FREE_BYTES > free:  # it may be a hole that takes no space
                raise BackupError(
                    f"the copy that {who.name} left takes {status.st_size / 1e6:.0f} MB, and there are {free / 1e6:.0f} MB free: make room"
                )
            _store(source.fileno(), status.st_size, kept)
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


def restore(host: Host, user: str, backup_path: Path, kept_name: str) -> tuple[int, Path]:
    """Puts a snapshot in place of the user's database, which is kept aside as `kept_name`. The server must be stopped.

    Returns the schema level now in place and the folder with what was there. Raises OwnerProblem, BackupError. Repeating it is harmless.
    """
    try:
        descriptor = os.open(backup_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise BackupError(f"the backup {backup_path} cannot be read ({error.strerror})") from error
    try:
        answer = run_as_owner(
            host,
            user,
            "restore",
            safe_name(kept_name),
            timeout_seconds=float(host.settings.backup.timeout_s),
            stdin=descriptor,
        )
    finally:
        os.close(descriptor)
    return _level(answer), Path(answer.get("kept", ""))


def _level(answer: dict[str, Any]) -> int:
    """The schema level that an owner answered. Raises OwnerProblem for an answer without one."""
    if "level" not in answer:
        raise OwnerProblem("the answer from the home is not as it should be")
    return int(answer["level"])


def drop(host: Host, backup: Backup) -> None:
    """Removes a snapshot: the file first, so that a kill in between leaves a record that says it is missing. Repeating it is harmless."""
    with suppress(FileNotFoundError):
        Path(backup.path).unlink()
    records.drop_backup(host.journal, backup.path)


def put_back(host: Host, user: str, kept_name: str) -> None:
    """Undoes a restore that kept the database as `kept_name`; one that never began is nothing to undo. The server must be stopped.

    Raises OwnerProblem. Repeating it is harmless.
    """
    run_as_owner(host, user, "put-back", safe_name(kept_name), timeout_seconds=float(host.settings.backup.timeout_s))


def prune(host: Host, accepted: list[str]) -> list[str]:
    """Drops the snapshots of all but the newest `backup.keep` accepted versions, and per user all but the newest of each way. Returns what went.

    `accepted` lists the versions accepted so far, oldest first. Those that a pending deferral may need are of its target, which is newer.
    Unaccepted targets' snapshots are dropped only when older than the oldest version kept.
    """
    kept_versions = accepted[-host.settings.backup.keep :]
    pending = {entry.target for entry in records.deferrals(host.journal)}
    oldest = min(
        (entry.created for entry in records.backups(host.journal) if entry.target in kept_versions), default=0.0
    )
    gone = []
    for entry in records.backups(host.journal):
        newest = max(
            (
                other.created
                for other in records.backups(host.journal, entry.user)
                if (other.target, other.wrote) == (entry.target, entry.wrote)
            ),
            default=0.0,
        )
        protected = entry.target in kept_versions or entry.target in pending or entry.created >= oldest
        if not protected or entry.created < newest:
            drop(host, entry)
            gone.append(entry.path)
    return gone
