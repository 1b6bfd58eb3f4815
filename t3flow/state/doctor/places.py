"""The doctor on folders and files: whose they are, who may write, what space there is, what was left behind."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from t3flow.engine.files import is_on_tmpfs
from t3flow.host import slots
from t3flow.host.backups import drop_box
from t3flow.host.host import Host
from t3flow.host.npm.staging import SANDBOX_SLOT_BYTES, SCRATCH_PATTERN, SCRATCH_PREFIX, SLOT_BYTES
from t3flow.host.records import catalog
from t3flow.state.doctor.finding import Finding, finding

STATE_BYTES = 100 * 1024 * 1024


def modes_and_owners(host: Host) -> Iterator[Finding]:
    """What steers a program of root's can be written by root alone, and what is secret is read by it alone."""
    paths = host.settings.paths
    files = {
        Path(source.removeprefix("file ")) for source in host.settings.sources.values() if source.startswith("file ")
    }
    steering = [
        *(paths.state_dir, paths.versions_dir, slots.versions(paths.versions_dir), paths.versions_dir / "users"),
        *(paths.launcher, paths.user_map, paths.serve_env_dir, paths.backup_dir, paths.last_good_file, *sorted(files)),
    ]
    theirs = [paths.backup_dir / entry.name for entry in host.user_map().users]
    for path in (*steering, *(folder for folder in theirs if folder.exists())):
        yield from _others_may_write(path)
    secret = [paths.state_dir, *(paths.state_dir / name for name in ("queue.key", "journal.db"))]
    for path in (*secret, *theirs):
        if path.exists() and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
            yield finding(f"{path} has mode {mode:o}: others can reach it", f"chmod go= {path}")


def _others_may_write(path: Path) -> Iterator[Finding]:
    """For a path and the folders above it; a folder with the sticky bit is fine above, where names in it belong to their makers."""
    for place in (path, *path.parents):
        try:
            status = place.stat()
        except FileNotFoundError:
            continue
        if status.st_uid not in (0, os.geteuid()):
            yield finding(f"{place} belongs to user {status.st_uid}, who steers t3flow by it", f"chown root {place}")
            return
        is_sticky = place != path and status.st_mode & stat.S_ISVTX
        if status.st_mode & 0o022 and not is_sticky:
            yield finding(
                f"{place} can be written by others (mode {stat.S_IMODE(status.st_mode):o})", f"chmod go-w {place}"
            )
            return


def disk_has_space(host: Host) -> Iterator[Finding]:
    """Each folder has the space that the next bump needs; scratch is on a disk."""
    paths = host.settings.paths
    slot = SLOT_BYTES if host.settings.serve.backend == "systemd" else SANDBOX_SLOT_BYTES
    sizes = [entry.size_bytes for entry in catalog.backups(host.journal) if entry.exists]
    largest = max(sizes, default=0) + drop_box.MIN_FREE_BYTES
    needs = {"scratch_dir": slot + 3 * largest, "versions_dir": slot, "backup_dir": largest, "state_dir": STATE_BYTES}
    for key, needed in needs.items():
        folder: Path = getattr(paths, key)
        if not folder.is_dir():
            yield finding(f"paths.{key}: {folder} is not there", f"make it: install -d {folder}")
        elif (free := shutil.disk_usage(folder).free) < needed:
            yield finding(
                f"{folder} has {free / 1e6:.0f} MB free, a bump needs {needed / 1e6:.0f} MB",
                f"make room, or set paths.{key}",
            )
    if paths.scratch_dir.is_dir() and is_on_tmpfs(paths.scratch_dir):
        yield finding(
            f"{paths.scratch_dir} is kept in memory", "set paths.scratch_dir to a folder on a disk, such as /var/tmp"
        )


def nothing_is_left_over(host: Host) -> Iterator[Finding]:
    """No scratch folder, half-made slot or drop box outlives its run."""
    paths = host.settings.paths
    live = {f"{SCRATCH_PREFIX}{run.id}" for run in host.journal.runs("status = 'running'")}
    for folder in paths.scratch_dir.glob(SCRATCH_PATTERN):
        if folder.name not in live:
            yield finding(f"{folder} is left over from a run that has ended", "systemctl restart t3flow removes it")
    if host.journal.query("select 1 from locks"):
        return
    for path in slots.versions(paths.versions_dir).glob(".*.partial"):
        yield finding(f"{path} is left over from a slot half made or removed", f"rm -r {path}")
    for path in paths.backup_dir.glob(f"{drop_box.INCOMING}/*"):
        yield finding(f"{path} is left over from a backup", f"rm -r {path}")
