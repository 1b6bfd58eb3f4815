"""The drop box: a folder into which a user writes the copy of their set, and from which t3flow takes it to a place that the user cannot reach."""

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from t3flow import T3flowError
from t3flow.engine.files import DiskError, make_folder, remove_tree, safe_name, sync_folder
from t3flow.host.accounts import Account

INCOMING = ".incoming"
MIN_FREE_BYTES = 32 * 1024 * 1024


class BackupError(T3flowError):
    """A backup of this user cannot be taken or restored."""


def make_box(top: Path, user: str, owner: Account) -> Path:
    """Create an empty folder that the owner may write to, below one that users can only pass through. Raises BackupError, DiskError."""
    incoming = top / INCOMING
    box = incoming / safe_name(user)
    try:
        remove_tree(box)
    except DiskError as error:
        raise BackupError(f"cannot empty the drop box of {user}: {error}") from error
    try:
        incoming.mkdir(parents=True, exist_ok=True)
        os.chmod(incoming, 0o711)
        try:
            box.mkdir(mode=0o700)
        except FileExistsError as error:
            raise BackupError(f"cannot empty the drop box of {user}: look for a mount in it (findmnt)") from error
        if owner.is_other:
            os.chown(box, owner.uid, owner.gid)
        return box
    except OSError as error:
        raise DiskError(
            f"no backup of {user}: {incoming} cannot be written ({error.strerror}); mend paths.backup_dir"
        ) from error


def take_copy(box: Path, name: str, owner: Account, destination: Path) -> None:
    """Copy a file out of the box without trusting it: one regular file of the owner's, opened without following links.

    Raises BackupError for anything else in its place, and DiskError if it cannot be stored.
    """
    folder = os.open(box, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError as error:
            raise BackupError(
                f"the copy from {owner.name} is missing or not a regular file ({error.strerror})"
            ) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != owner.uid:
            os.close(descriptor)
            raise BackupError(f"the copy from {owner.name} is not a regular file of theirs")
        with os.fdopen(descriptor, "rb") as source:
            free = shutil.disk_usage(destination.parent.parent).free
            if status.st_size + MIN_FREE_BYTES > free:
                is_sparse = status.st_blocks * 512 * 2 < status.st_size  # takes no space: not the fault of the disk
                raise (BackupError if is_sparse else DiskError)(
                    f"the copy from {owner.name} takes {status.st_size / 1e6:.0f} MB, and {destination.parent.parent} has "
                    f"{free / 1e6:.0f} MB free: make room"
                )
            _store(source.fileno(), status.st_size, destination)
            with suppress(OSError):  # the owner can change names in the box at any time
                os.unlink(name, dir_fd=folder)
            if os.fstat(source.fileno()).st_size != status.st_size:
                with suppress(FileNotFoundError):
                    destination.unlink()
                raise BackupError(f"the copy from {owner.name} changed its size while it was taken")
    finally:
        os.close(folder)


def _store(source: int, size_bytes: int, destination: Path) -> None:
    partial = destination.with_name(".partial")
    try:
        make_folder(destination.parent, 0o700)
        if destination.parent.is_symlink() or destination.parent.stat().st_uid != os.geteuid():
            raise BackupError(
                f"{destination.parent} belongs to another account, so no backup is stored there; to take it over: t3flow adopt"
            )
        with suppress(FileNotFoundError):
            partial.unlink()
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as copy, os.fdopen(os.dup(source), "rb") as file:
            if size_bytes:
                os.posix_fallocate(copy.fileno(), 0, size_bytes)  # a full disk fails here, before anything is written
            while size_bytes > 0 and (part := file.read(min(size_bytes, 1024 * 1024))):  # the owner may still append
                copy.write(part)
                size_bytes -= len(part)
            copy.flush()
            os.fsync(copy.fileno())
        partial.rename(destination)
        sync_folder(destination.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise DiskError(
            f"the backup {destination} cannot be written ({error.strerror}): make room in paths.backup_dir"
        ) from error
