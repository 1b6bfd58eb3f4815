"""The shell tracker's snapshots: `backup_dir/USER/state-prebump-VERSION-TIMESTAMP.sqlite`, written by the user into a folder of their own.

They are recorded with the migrations that their owner reads from them (root opens no user's file with SQLite). Which version wrote them is not
known, so `wrote` is "". Then folder and files are taken out of the owner's reach, as all snapshots are.
"""

import errno
import os
import re
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from t3flow import T3flowError
from t3flow.engine.files import safe_name
from t3flow.host.host import Host
from t3flow.host.owner.program import run_as_owner
from t3flow.host.records import catalog, version_schemas
from t3flow.host.records.catalog import Backup
from t3flow.t3 import files, ledger

NAME = re.compile(r"state-prebump-(.+?)-([0-9TZ:_-]+)\.sqlite")
"""Version moved to, and time."""
READ_SECONDS = 60.0
BATCH = 50


def folders(host: Host, users: list[str]) -> dict[str, list[int]]:
    """Return the users' folders that are not owned as t3flow keeps them: user → [uid, gid, mode]."""
    found = {}
    for user in users:
        with suppress(OSError):
            status = (host.settings.paths.backup_dir / safe_name(user)).lstat()
            if stat.S_ISDIR(status.st_mode) and (status.st_uid, stat.S_IMODE(status.st_mode)) != (os.geteuid(), 0o700):
                found[user] = [status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)]
    return found


def take_over(host: Host, run: str) -> list[str]:
    """Take users' folders out of their reach, and record the snapshots in them. Return what was left out, and why. Idempotent.

    Migrations are read first, while the owner still can.
    """
    known = {entry.path for entry in catalog.backups(host.journal)}
    notices = []
    for entry in host.user_map().users:
        user, folder = entry.name, host.settings.paths.backup_dir / safe_name(entry.name)
        names = _names(folder)
        found = _read(host, user, folder, names)
        try:
            owners = _secure_folder(host, user, folder)
        except OSError as error:
            if os.path.lexists(folder):
                notices.append(f"{folder} was left as it is, so {user} cannot be backed up: {error.strerror}")
            continue
        for name in names:
            problem = _secure_file(folder / name, owners) or found.get(name, "not read")
            if str(folder / name) in known:
                continue
            if isinstance(problem, list):
                schema = version_schemas.parse_schema(problem) or []
                match = NAME.fullmatch(name)
                assert match is not None
                taken = (folder / name).stat().st_mtime
                backup = Backup(str(folder / name), user, "", match[1], ledger.level(schema), None, taken, run)
                backup = replace(backup, schema={files.FIRST_DATABASE: schema})
                catalog.put_backup(host.journal, backup)
            else:
                notices.append(f"{folder / name} was left out: {problem}")
    return notices


def _read(host: Host, user: str, folder: Path, names: list[str]) -> dict[str, Any]:
    """Return the migrations of a user's snapshots, or why they cannot be read, as the owner reports."""
    found: dict[str, Any] = {}
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        try:
            found |= run_as_owner(host, user, "schemas", str(folder), *batch, timeout_seconds=READ_SECONDS)
        except T3flowError as error:
            found |= dict.fromkeys(batch, str(error))
    return found


def _names(folder: Path) -> list[str]:
    with suppress(OSError):
        if not folder.is_symlink():
            return sorted(name for name in os.listdir(folder) if NAME.fullmatch(name))
    return []


def _secure_folder(host: Host, user: str, folder: Path) -> tuple[int, int]:
    """Give the folder to this process's account; return whose its files may be. Raises OSError if it is not the user's folder."""
    allowed = (host.account(user).uid, os.geteuid())
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(top).st_uid not in allowed:
            raise OSError(errno.EPERM, "it belongs to another user")
        os.fchown(top, os.geteuid(), os.getegid())
        os.fchmod(top, 0o700)
    finally:
        os.close(top)
    return allowed


def _secure_file(path: Path, owners: tuple[int, int]) -> str:
    """Give a file in such a folder to this process's account; return why not, or ""."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid not in owners:
                return "it is not a plain file of its user"
            os.fchown(descriptor, os.geteuid(), os.getegid())
            os.fchmod(descriptor, 0o600)
            return ""
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"it is not a plain file ({error.strerror})"


def give_back(host: Host, former: dict[str, list[int]]) -> None:
    """Return folders, and the snapshots in them, to their former owners. Idempotent."""
    for user, (uid, gid, mode) in former.items():
        with suppress(OSError):
            top = os.open(
                host.settings.paths.backup_dir / safe_name(user), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            )
            try:
                for name in os.listdir(top):
                    os.chown(name, uid, gid, dir_fd=top, follow_symlinks=False)
                os.fchown(top, uid, gid)
                os.fchmod(top, mode)
            finally:
                os.close(top)
