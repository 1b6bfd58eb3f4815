"""The steps that take snapshots: of all users before the gate, in parallel, and of one user before a restart."""

from pathlib import Path

from loguru import logger

from t3flow.engine.files import DiskError
from t3flow.engine.step import current_run, step
from t3flow.host import parallel, pruning
from t3flow.host.accounts import AccountError
from t3flow.host.backups import drop_box, store
from t3flow.host.home.copies import DISK_IS_FULL, NO_ROOM
from t3flow.host.host import current_host
from t3flow.host.npm.staging import scratch_folder
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.records import catalog, rejections
from t3flow.tasks import NO_DATABASE, Snapshot


@step(interruptible=True, syncs_first=False)
def back_up(user: str, previous: str, version: str, in_scratch: bool) -> Snapshot:
    """Take a snapshot of a user's databases. A repeat takes another, or reuses the last one. A full disk fails it; unsound databases are reported.

    It may begin before the last user's restart is synced: it touches nothing of that restart, and records its file names in a synced commit first.
    """
    return _taken(user, previous, version, _folder(in_scratch), alone=True)


@step(interruptible=True, syncs_first=False)
def back_up_users(previous: dict[str, str], version: str, in_scratch: bool) -> list[Snapshot]:
    """Take a snapshot of each user's databases (user → version in use), in parallel. Fails as `back_up` does; a repeat reuses what was taken.

    Copies at the same time need room at the same time: a user whose copy did not fit is backed up once more alone, after the others.
    """
    folder = _folder(in_scratch)

    def take(user: str) -> Snapshot | None:
        try:
            taken = _taken(user, previous[user], version, folder, alone=False)
        except DiskError as error:
            logger.warning("{}; retrying after the others", error)
            return None
        return None if taken["problem"].startswith((NO_ROOM, DISK_IS_FULL)) else taken

    first = dict(zip(previous, parallel.for_each(take, previous), strict=True))
    return [taken or _taken(user, previous[user], version, folder, alone=True) for user, taken in first.items()]


def _folder(in_scratch: bool) -> Path | None:
    """Return the folder for the snapshots of a dry run, else None."""
    if not in_scratch:
        return None
    folder = scratch_folder(current_run()) / "backups"
    folder.mkdir(mode=0o711, exist_ok=True)
    return folder


def _taken(user: str, previous: str, version: str, folder: Path | None, *, alone: bool) -> Snapshot:
    """Take one snapshot. A full disk raises DiskError; a problem of the user's own databases or account is in the result."""
    try:
        backup = _take(user, previous, version, folder, alone=alone)
    except (OwnerProblem, drop_box.BackupError, AccountError) as error:
        missing = str(error) == NO_DATABASE
        if missing and folder is None:  # databases that appear later have not been tried
            rejections.note_untried(current_host().journal, version, [user])
        return {
            "user": user,
            "path": "",
            "bytes": 0,
            "level": 0,
            "fingerprint": None,
            "problem": str(error),
            "missing": missing,
            "files": {},
            "schema": {},
        }
    return {
        "user": user, "path": backup.path, "bytes": backup.size_bytes, "level": backup.level,
        "fingerprint": backup.fingerprint, "problem": "", "missing": False,
        "files": {name: str(path) for name, path in backup.paths.items()}, "schema": backup.schema,
    }  # fmt: skip


def _take(user: str, previous: str, version: str, folder: Path | None, *, alone: bool) -> catalog.Backup:
    """Take a snapshot after removing the user's old ones; if the disk is too full, and no other is taken now, remove everything old and retry once.

    A dry run removes nothing. Nor does a rollback or restore, which has chosen a snapshot already.
    """
    host = current_host()
    goes_back = current_run().startswith(pruning.GOING_BACK)
    if folder is None and not goes_back:
        pruning.make_room(host, user)
    try:
        return store.take(host, user, written_by=previous, version=version, run=current_run(), folder=folder)
    except DiskError as error:
        if not alone or folder is not None or goes_back or not (gone := pruning.prune(host, version)):
            raise
        logger.warning("{}: removed {} old snapshots and slots; retrying", error, len(gone))
        return store.take(host, user, written_by=previous, version=version, run=current_run(), folder=folder)
