"""Whether the file system that the slots are on lets programs run and files be written: found out before anything is made there."""

import os
from contextlib import suppress
from pathlib import Path

from t3flow.engine.files import DiskError, make_folder
from t3flow.host.host import Host

TRIAL = ".trial.partial"
"""Of the kind of name that is swept where a kill left it."""
PROGRAM = "#!/bin/sh\necho runs\n"
SECONDS = 20.0
SETTING = "paths.versions_dir"


def trouble(folder: Path, setting: str = SETTING) -> str:
    """Why no program can run from a folder or none be put there, by how its file system is mounted, with the remedy; "" for neither. Only looks."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    flags, mount = os.statvfs(there).f_flag, _mount_point(there)
    if flags & os.ST_RDONLY:
        return f"{folder} is mounted read-only: mount -o remount,rw {mount}, or set {setting}"
    if flags & os.ST_NOEXEC:
        return f"{folder} is mounted noexec, no t3 can run from it: mount -o remount,exec {mount}, or set {setting}"
    return ""


def require_running(host: Host, folder: Path, setting: str = SETTING, *, make: bool = True) -> None:
    """Runs a tiny program of our own from a folder, as the account that candidates run as. Raises DiskError with path and remedy.

    Repeating it is harmless: the program has one name, and is removed. Unless it is to `make` the folder, one that is not there is only looked at.
    """
    if why := trouble(folder, setting):
        raise DiskError(why)
    if not make and not folder.is_dir():
        return
    program = folder / TRIAL
    try:
        make_folder(folder)
        descriptor = os.open(program, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o755)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, 0o755)
            file.write(PROGRAM)
    except OSError as error:
        raise DiskError(f"{folder} cannot be written ({error.strerror}): mend {setting}") from error
    try:
        who = host.gate_account()
        finished = host.children.run([program], who=who, timeout_seconds=SECONDS)
        if finished.stdout.strip() != b"runs":
            raise DiskError(
                f"{who.name} cannot run a program from {folder} ({finished.last_line}): users could not either; "
                f"make the folders above it readable by all (chmod a+rx), or set {setting}"
            )
    finally:
        with suppress(OSError):
            program.unlink()


def _mount_point(folder: Path) -> Path:
    there = folder.resolve()
    while not there.is_mount() and there != there.parent:
        there = there.parent
    return there
