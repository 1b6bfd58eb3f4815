"""Checks of folders and files: owners, modes, free space, leftovers."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from t3flow.engine.files import is_on_tmpfs
from t3flow.host import slots, state_dir
from t3flow.host.backups import drop_box
from t3flow.host.host import Host
from t3flow.host.npm.staging import SANDBOX_SLOT_BYTES, SLOT_BYTES, stale_scratch
from t3flow.host.records import catalog
from t3flow.state.doctor.finding import Finding, finding

STATE_BYTES = 100 * 1024 * 1024


def modes_and_owners(host: Host) -> Iterator[Finding]:
    """Check that only root can write what controls a program of root, and only root can read what is secret."""
    paths = host.settings.paths
    files = {
        Path(source.removeprefix("file ")) for source in host.settings.sources.values() if source.startswith("file ")
    }
    controls = [
        *(paths.state_dir, paths.versions_dir, slots.slots_dir(paths.versions_dir), paths.versions_dir / "users"),
        *(paths.launcher, paths.user_map, paths.serve_env_dir, paths.backup_dir, paths.last_good_file, *sorted(files)),
    ]
    backups = [paths.backup_dir / entry.name for entry in host.user_map().users]
    for path in (*controls, *(folder for folder in backups if folder.exists())):
        yield from _writable_by_others(path)
    for entry, what in state_dir.wrong_entries(paths.state_dir):
        yield finding(f"{entry.path} has {what}", "t3flow doctor --fix")
    for path in backups:
        if path.exists() and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
            yield finding(f"{path} has mode {mode:o}, so other accounts can read it", f"chmod go= {path}")


def _writable_by_others(path: Path) -> Iterator[Finding]:
    """Check a path and the folders above it. A parent with the sticky bit is safe: others cannot rename entries in it."""
    for part in (path, *path.parents):
        try:
            status = part.stat()
        except FileNotFoundError:
            continue
        if status.st_uid not in (0, os.geteuid()):
            yield finding(
                f"{part} belongs to uid {status.st_uid}, which can control t3flow with it", f"chown root {part}"
            )
            return
        is_sticky = part != path and status.st_mode & stat.S_ISVTX
        if status.st_mode & 0o022 and not is_sticky:
            yield finding(
                f"{part} can be written by others (mode {stat.S_IMODE(status.st_mode):o})", f"chmod go-w {part}"
            )
            return


def disk_has_space(host: Host) -> Iterator[Finding]:
    """Check that each folder has the free space that the next bump needs, and scratch_dir is on a disk."""
    paths = host.settings.paths
    slot = SLOT_BYTES if host.settings.serve.backend == "systemd" else SANDBOX_SLOT_BYTES
    sizes = [entry.size_bytes for entry in catalog.backups(host.journal) if entry.exists]
    largest = max(sizes, default=0) + drop_box.MIN_FREE_BYTES
    needs = {"scratch_dir": slot + 3 * largest, "versions_dir": slot, "backup_dir": largest, "state_dir": STATE_BYTES}
    for key, needed in needs.items():
        folder: Path = getattr(paths, key)
        if not folder.is_dir():
            yield finding(f"paths.{key}: {folder} does not exist", f"create it: install -d {folder}")
        elif (free := shutil.disk_usage(folder).free) < needed:
            yield finding(
                f"{folder} has {free / 1e6:.0f} MB free, but a bump needs {needed / 1e6:.0f} MB",
                f"free space, or set paths.{key}",
            )
    if paths.scratch_dir.is_dir() and is_on_tmpfs(paths.scratch_dir):
        yield finding(
            f"{paths.scratch_dir} is in memory", "set paths.scratch_dir to a folder on a disk, such as /var/tmp"
        )


def no_leftovers(host: Host) -> Iterator[Finding]:
    """Check that no scratch folder, partial slot, or drop box outlives its run."""
    paths = host.settings.paths
    for folder in stale_scratch(host):
        yield finding(f"{folder} is left over from a run that has ended", "t3flow doctor --fix")
    if host.journal.query("select 1 from locks"):
        return
    for path in slots.slots_dir(paths.versions_dir).glob(".*.partial"):
        yield finding(f"{path} is left over from a partly created or removed slot", "t3flow doctor --fix")
    for path in paths.backup_dir.glob(f"{drop_box.INCOMING}/*"):
        yield finding(f"{path} is left over from a backup", "t3flow doctor --fix")
