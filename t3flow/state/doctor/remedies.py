"""`t3flow doctor --fix`: apply the remedies that stop no server and change nothing of a user's.

Idempotent. Skipped while a run has the lease of the host: the run may be about to do the same, or be using what looks like a leftover.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from t3flow import T3flowError
from t3flow.adoption import shell_tracker
from t3flow.engine.files import remove_tree
from t3flow.host import slots, state_dir, t3_accounts
from t3flow.host.backups import drop_box
from t3flow.host.host import Host
from t3flow.host.npm.staging import stale_scratch
from t3flow.host.slots import launcher, preflight
from t3flow.state.doctor.finding import Finding

Remedy = Callable[[Host], Iterator[str]]


def fix(host: Host) -> tuple[list[str], list[Finding]]:
    """Apply the remedies. Return a line for each change, and a finding for each remedy that failed."""
    done: list[str] = []
    failed: list[Finding] = []
    if running := host.journal.query("select run from locks"):
        return [], [
            Finding(
                "fix",
                f"nothing was fixed, because {running[0][0]} has the lease of the host",
                f"wait until it ends: t3flow show {running[0][0]}",
            )
        ]
    for remedy in REMEDIES:
        try:
            done.extend(remedy(host))
        except (T3flowError, OSError) as error:
            failed.append(Finding("fix", f"not fixed: {error}", "see the other findings"))
    return done, failed


def reinstall_launcher(host: Host) -> Iterator[str]:
    """Put the launcher back by one rename; files that another package installed elsewhere stay. Stops no server."""
    paths = host.settings.paths
    if not preflight.launcher_problems(host.settings):
        return
    sandbox = host.settings.serve.backend == "process"
    text = launcher.launcher_text(paths.versions_dir, sandbox=sandbox)
    with suppress(OSError):
        if launcher.is_launcher(paths.launcher) and paths.launcher.read_text() == text:
            if stat.S_IMODE(paths.launcher.stat().st_mode) != launcher.MODE:
                os.chmod(paths.launcher, launcher.MODE)
                yield f"{paths.launcher} has mode {launcher.MODE:o} again"
            return
    shell_tracker.note_servers(host)
    launcher.install_launcher(paths.launcher, paths.versions_dir, sandbox=sandbox)
    yield f"{paths.launcher} is the launcher again and starts the assigned versions; running servers were not restarted"


def link_accounts(host: Host) -> Iterator[str]:
    """Assign the default version explicitly to each account that has no assignment."""
    default = slots.default_version(host.settings.paths.versions_dir)
    if default is not None:
        for user in t3_accounts.assign_unlinked(host, default):
            yield f"{user} is assigned {default} explicitly"


def tighten_modes(host: Host) -> Iterator[str]:
    """Remove write access of others to what controls t3flow, if this account owns the file, and correct the state folder."""
    paths = host.settings.paths
    sources = host.settings.sources.values()
    files = {Path(source.removeprefix("file ")) for source in sources if source.startswith("file ")}
    controls = [paths.versions_dir, slots.slots_dir(paths.versions_dir), paths.versions_dir / "users", *sorted(files)]
    controls += [paths.user_map, paths.serve_env_dir, paths.backup_dir, paths.last_good_file]
    for path in controls:
        with suppress(FileNotFoundError):
            status = path.lstat()
            mode = stat.S_IMODE(status.st_mode)
            if mode & 0o022 and status.st_uid == os.geteuid() and not stat.S_ISLNK(status.st_mode):
                os.chmod(path, mode & ~0o022)
                yield f"{path} has mode {mode & ~0o022:o} instead of {mode:o}"
    for correction in state_dir.prepare(paths.state_dir):
        yield f"{correction}; corrected"


def remove_leftovers(host: Host) -> Iterator[str]:
    """Remove scratch folders of runs that have ended, partial slots, and drop boxes."""
    paths = host.settings.paths
    left = list(stale_scratch(host))
    if not any(run.workflow not in ("drain", "bake", "revive") for run in host.journal.runs("status = 'running'")):
        left += [
            *slots.slots_dir(paths.versions_dir).glob(".*.partial"),
            *paths.backup_dir.glob(f"{drop_box.INCOMING}/*"),
        ]
    for path in left:
        remove_tree(path)
        yield f"removed {path}"


REMEDIES: tuple[Remedy, ...] = (reinstall_launcher, link_accounts, tighten_modes, remove_leftovers)
