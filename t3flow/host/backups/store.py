"""The store of snapshots: take one, find one, drop one.

The owner writes a copy of the set into a drop box; t3flow takes each file by an open descriptor and stores it where the owner cannot reach it.
"""

import json
import os
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from t3flow.engine.files import DiskError, remove_tree, require_space, safe_name, sync_folder
from t3flow.engine.journal import JournalError
from t3flow.host.accounts import Account
from t3flow.host.backups import disk, durations
from t3flow.host.backups.drop_box import INCOMING, MIN_FREE_BYTES, make_box, take_copy
from t3flow.host.backups.restoring import RESTORED
from t3flow.host.host import Host
from t3flow.host.owner.answers import MALFORMED, OwnerProblem, require
from t3flow.host.owner.program import run_as_owner
from t3flow.host.records import catalog, facts, journal_reserve, version_schemas
from t3flow.host.records.catalog import Backup
from t3flow.t3 import files

STEP_SECONDS = 0.001
TAKING = "taking:"
"""Fact "taking:USER": the paths of the user's newest snapshot, recorded before they exist (a single path from an earlier release)."""


def database_path(host: Host, user: str) -> Path:
    """Return the path of a user's first database. Only a name: t3flow accesses files in a home only as the owner."""
    return files.userdata(host.base_dir(user)) / files.FIRST_DATABASE


def take(
    host: Host, user: str, *, written_by: str, version: str, run: str, folder: Path | None = None, replaced: str = ""
) -> Backup:
    """Take a checked snapshot of a user's set, or of the replaced set of that name, and store it in `folder` (default: below `backup_dir`).

    `written_by` is the version in use, `version` the one that the user is to move to. All files are of one moment and have one time in their
    names. If nothing was written since the last snapshot, that snapshot is returned, or linked under a new name for other versions.
    Raises OwnerProblem and BackupError (the user's fault), DiskError (the disk's fault), Interrupted. A kill leaves a partial file, which the next
    call overwrites, or files without a record, which the next call removes.
    """
    is_recorded = folder is None
    top = folder or host.settings.paths.backup_dir
    last = _last(host, user) if is_recorded and not replaced else None
    owner = host.account(user)
    began = time.monotonic()
    box = make_box(top, user, owner)
    require_space(top, MIN_FREE_BYTES, f"the backup of {user}")
    try:
        if is_recorded:
            _drop_unrecorded(host, user)
            facts.write(host.journal, RESTORED + user, None)
        mark = replaced or (json.dumps(last.fingerprint) if last else "null")
        try:
            answer = run_as_owner(host, user, "backup-replaced" if replaced else "backup", str(box), mark)
        except OwnerProblem as problem:
            disk.require_sound(host, top, top / INCOMING, user, problem)
            raise
        same = last if last is not None and answer.get("unchanged") is True else None
        if same is not None and (same.written_by, same.version) == (written_by, version):
            return same
        if same is not None:
            names = _names([*same.files], version)
            made = replace(same, written_by=written_by, version=version, run=run, files=names)
        else:
            made = _described(answer, user, written_by, version, run)
        made = replace(made, path=str(top / safe_name(user) / next(iter(made.files.values()))))
        if is_recorded:
            facts.write(host.journal, TAKING + user, [str(path) for path in made.paths.values()])
        _store_files(made, box, owner, same)
    except OSError as error:
        raise DiskError(
            f"no backup of {user}: {top} cannot be written ({error.strerror}); mend paths.backup_dir"
        ) from error
    finally:
        with suppress(DiskError):
            remove_tree(box)
    made = replace(made, created=_next_moment(host, user), fingerprint=None if replaced else made.fingerprint)
    if is_recorded:
        catalog.put_backup(host.journal, made, synced=False)  # if it is lost, the next call removes the files by TAKING
        if same is None and not replaced:
            durations.note_snapshot(host.journal, user, time.monotonic() - began)
    return made


def _store_files(made: Backup, box: Path, owner: Account, same: Backup | None) -> None:
    """Store all files of a snapshot, from the box or as links to an identical snapshot. On failure, remove all of them."""
    try:
        for name, path in made.paths.items():
            if same is None:
                take_copy(box, name, owner, path)
            else:
                os.link(same.paths[name], path)
        sync_folder(Path(made.path).parent)
    except Exception:
        for path in made.paths.values():
            with suppress(OSError):
                path.unlink()
        raise


def _described(answer: dict[str, Any], user: str, written_by: str, version: str, run: str) -> Backup:
    """Return a snapshot as the owner's program describes it, still without path and time. Raises OwnerProblem."""
    require(answer, "files", "schema", "rows", "level", "fingerprint")
    if not answer["files"]:
        raise OwnerProblem(MALFORMED)
    return Backup(
        path="",
        user=user,
        written_by=written_by,
        version=version,
        level=answer["level"],
        fingerprint=answer["fingerprint"],
        created=0.0,
        run=run,
        files=_names(answer["files"], version),
        schema={name: version_schemas.parse_schema(listed) for name, listed in answer["schema"].items()},
        rows=answer["rows"],
    )


def _names(names: list[str], version: str) -> dict[str, str]:
    """Return file of the set → name of its copy: NAME-prebump-VERSION-TIME, with one time for all."""
    ending = f"-prebump-{safe_name(version)}-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    return {name: f"{Path(name).stem}{ending}{Path(name).suffix}" for name in map(safe_name, names)}


def is_last(host: Host, user: str, fingerprint: dict[str, Any] | None) -> bool:
    """Return whether the user's newest snapshot is still there and has this fingerprint."""
    last = _last(host, user)
    return last is not None and last.fingerprint == fingerprint


def _last(host: Host, user: str) -> Backup | None:
    """Return the user's newest snapshot if all of its files exist and the fingerprint of its set is known."""
    of_user = catalog.backups(host.journal, user)
    return of_user[-1] if of_user and of_user[-1].fingerprint and of_user[-1].exists else None


def _next_moment(host: Host, user: str) -> float:
    """Return the time of a new snapshot (epoch seconds), later than that of the user's other snapshots even if the clock was set back.

    A rollback restores the newest one, and pruning removes those before it.
    """
    newest = max((entry.created for entry in catalog.backups(host.journal, user)), default=0.0)
    return max(time.time(), newest + STEP_SECONDS)


def _drop_unrecorded(host: Host, user: str) -> None:
    """Remove files that an earlier call stored before it was killed and could record them."""
    paths = facts.read(host.journal, TAKING + user) or []
    recorded = {str(path) for entry in catalog.backups(host.journal, user) for path in entry.paths.values()}
    for path in [paths] if isinstance(paths, str) else paths:
        if path not in recorded:
            with suppress(FileNotFoundError):
                Path(path).unlink()


def on_record(host: Host, user: str, path: str) -> Backup:
    """Return the snapshot at a path. Without a record, return what the path alone tells: the first database, with an unknown schema."""
    return catalog.backup_at(host.journal, path) or Backup(path, user, "", "", 0, None, 0.0, "")


def drop(host: Host, backup: Backup) -> None:
    """Remove one snapshot, as `drop_all` does."""
    drop_all(host, [backup])


def drop_all(host: Host, doomed: list[Backup]) -> list[str]:
    """Remove snapshots and return their paths. Idempotent. Raises OSError, JournalError.

    All files are removed first, which works on a full disk, and then all records at once: a kill in between, or a journal without room, leaves
    records that say that the files are missing.
    """
    for entry in doomed:
        for path in entry.paths.values():
            with suppress(FileNotFoundError):
                path.unlink()
        with suppress(OSError):
            Path(entry.path).parent.rmdir()  # succeeds once the user's last snapshot is removed
    paths = [entry.path for entry in doomed]
    if paths:
        try:
            catalog.drop_backups(host.journal, *paths)
        except JournalError:
            if not journal_reserve.release(host.settings.paths.state_dir):
                raise
            catalog.drop_backups(host.journal, *paths)
    return paths
