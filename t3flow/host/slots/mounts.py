"""Mounts of the slots: check that programs run and files can be written there before anything is created."""

import os
from contextlib import suppress
from pathlib import Path

from t3flow.engine.files import DiskError, make_folder
from t3flow.host.host import Host

TRIAL_NAME = ".trial.partial"
"""The suffix makes `remove_partials` remove it after a kill."""
PROGRAM = "#!/bin/sh\necho runs\n"
SECONDS = 20.0
SETTING = "paths.versions_dir"


def problem(folder: Path, setting: str = SETTING) -> str:
    """Return why programs cannot run from a folder or be written there, by its mount options, with the remedy, or "". Read-only."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    flags, mount = os.statvfs(existing).f_flag, _mount_point(existing)
    if flags & os.ST_RDONLY:
        return f"{folder} is mounted read-only: mount -o remount,rw {mount}, or set {setting}"
    if flags & os.ST_NOEXEC:
        return f"{folder} is mounted noexec, so t3 cannot run from it: mount -o remount,exec {mount}, or set {setting}"
    return ""


def require_executable(host: Host, folder: Path, setting: str = SETTING, *, make: bool = True) -> None:
    """Run a tiny program from a folder as the gate's account. Raise DiskError with path and remedy.

    Idempotent: the program has a fixed name and is removed. Without `make`, a folder that does not exist is not created.
    """
    if reason := problem(folder, setting):
        raise DiskError(reason)
    if not make and not folder.is_dir():
        return
    program = folder / TRIAL_NAME
    try:
        make_folder(folder)
        descriptor = os.open(program, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o755)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, 0o755)
            file.write(PROGRAM)
    except OSError as error:
        raise DiskError(f"{folder} cannot be written ({error.strerror}): fix {setting}") from error
    try:
        account = host.gate_account()
        finished = host.children.run([program], account=account, timeout_seconds=SECONDS)
        if finished.stdout.strip() != b"runs":
            raise DiskError(
                f"account {account.name} cannot run a program from {folder} ({finished.last_line}), so users cannot either: "
                f"make the folders above it readable by all (chmod a+rx), or set {setting}"
            )
    finally:
        with suppress(OSError):
            program.unlink()


def _mount_point(folder: Path) -> Path:
    existing = folder.resolve()
    while not existing.is_mount() and existing != existing.parent:
        existing = existing.parent
    return existing
