"""`t3flow doctor --fix`: the remedies that stop nothing and change nothing of a user's.

The launcher is put back, modes are taken from others, accounts that are led by the default get links of their own, leftovers go. Each is
idempotent, and each is left out while a run has the host: that run may be about to do it, or to make what looks left over.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from t3flow import T3flowError
from t3flow.adoption import shell_tracker
from t3flow.engine.files import remove_tree
from t3flow.host import slots, t3_accounts
from t3flow.host.backups import drop_box
from t3flow.host.host import Host
from t3flow.host.npm.staging import SCRATCH_PATTERN, SCRATCH_PREFIX
from t3flow.host.slots import launcher, preflight
from t3flow.state.doctor.finding import Finding

Remedy = Callable[[Host], Iterator[str]]


def fix(host: Host) -> tuple[list[str], list[Finding]]:
    """Apply the remedies; return what was done, one line each, and what could not be done."""
    done: list[str] = []
    failed: list[Finding] = []
    if running := host.journal.query("select run from locks"):
        return [], [
            Finding(
                "fix",
                f"{running[0][0]} has the host, so nothing was mended",
                f"wait for it: t3flow show {running[0][0]}",
            )
        ]
    for remedy in REMEDIES:
        try:
            done.extend(remedy(host))
        except (T3flowError, OSError) as error:
            failed.append(Finding("fix", f"not mended: {error}", "t3flow doctor"))
    return done, failed


def launcher_is_put_back(host: Host) -> Iterator[str]:
    """The launcher, by one rename. What another program put there stays where its package manager has it; servers run on."""
    paths = host.settings.paths
    if not preflight.launcher_problems(host.settings):
        return
    sandbox = host.settings.serve.backend == "process"
    wanted = launcher.launcher_text(paths.versions_dir, sandbox=sandbox)
    with suppress(OSError):
        if launcher.is_launcher(paths.launcher) and paths.launcher.read_text() == wanted:
            if stat.S_IMODE(paths.launcher.stat().st_mode) != launcher.MODE:
                os.chmod(paths.launcher, launcher.MODE)
                yield f"{paths.launcher} has mode {launcher.MODE:o} again"
            return
    shell_tracker.note_servers(host)
    launcher.install_launcher(paths.launcher, paths.versions_dir, sandbox=sandbox)
    yield f"{paths.launcher} is the launcher again: everybody is led to their version; servers that were started meanwhile run on"


def accounts_have_links(host: Host) -> Iterator[str]:
    """A link to what the default leads them to now, for every account that has none."""
    default = slots.default_version(host.settings.paths.versions_dir)
    if default is not None:
        for user in t3_accounts.assign_unlinked(host, default):
            yield f"{user} has a link of their own to {default}"


def modes_are_tight(host: Host) -> Iterator[str]:
    """What steers t3flow can be written by its account alone, and what is secret be read by it alone; only of what belongs to that account."""
    paths = host.settings.paths
    sources = host.settings.sources.values()
    files = {Path(source.removeprefix("file ")) for source in sources if source.startswith("file ")}
    steering = [paths.versions_dir, slots.versions(paths.versions_dir), paths.versions_dir / "users", *sorted(files)]
    steering += [paths.user_map, paths.serve_env_dir, paths.backup_dir, paths.last_good_file]
    secret = [paths.state_dir, paths.state_dir / "queue.key", paths.state_dir / "journal.db"]
    for path, bits in [*((path, 0o022) for path in steering), *((path, 0o077) for path in secret)]:
        with suppress(FileNotFoundError):
            status = path.lstat()
            mode = stat.S_IMODE(status.st_mode)
            if mode & bits and status.st_uid == os.geteuid() and not stat.S_ISLNK(status.st_mode):
                os.chmod(path, mode & ~bits)
                yield f"{path} has mode {mode & ~bits:o} instead of {mode:o}"


def leftovers_go(host: Host) -> Iterator[str]:
    """Scratch folders of runs that have ended, half-made slots, drop boxes of backups."""
    paths = host.settings.paths
    live = {f"{SCRATCH_PREFIX}{run.id}" for run in host.journal.runs("status = 'running'")}
    left = [folder for folder in paths.scratch_dir.glob(SCRATCH_PATTERN) if folder.name not in live]
    if not any(run.workflow not in ("drain", "bake", "revive") for run in host.journal.runs("status = 'running'")):
        left += [
            *slots.versions(paths.versions_dir).glob(".*.partial"),
            *paths.backup_dir.glob(f"{drop_box.INCOMING}/*"),
        ]
    for path in left:
        remove_tree(path)
        yield f"{path} is removed"


REMEDIES: tuple[Remedy, ...] = (launcher_is_put_back, accounts_have_links, modes_are_tight, leftovers_go)
