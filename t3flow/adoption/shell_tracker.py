"""What the earlier shell tracker left on a host: a global install of t3, deferral markers, timers, and servers that run from the old place.

The install is behind `paths.launcher`, else in npm's global folder. The markers are beside `paths.last_good_file`.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from t3flow import T3flowError
from t3flow.engine.files import make_folder, sync_folder
from t3flow.host.children import ChildError
from t3flow.host.host import Host, HostError
from t3flow.host.npm.command import run_npm
from t3flow.host.pairing import probe
from t3flow.host.processes import proc
from t3flow.host.records import facts
from t3flow.host.slots import running_version
from t3flow.settings.user_map import USER_NAME
from t3flow.t3.versions import InvalidVersion, parse

TIMERS = ("t3-autoupdate.timer", "t3-migrate-idle.timer")
SERVICES = ("t3-autoupdate.service", "t3-migrate-idle.service")
NPM_SECONDS = 30.0


class OldTrackerError(T3flowError):
    """The host is not as the shell tracker leaves it and cannot be adopted. The text says what to do."""


@dataclass(frozen=True)
class GlobalInstall:
    """A t3 installed with `npm install -g`: its folder, its version, the path of its program in the folder."""

    tree: Path
    version: str
    program: str


def find_global(host: Host, behind: Path | None = None) -> GlobalInstall | None:
    """Return the global install `behind` a launcher (by default the present one), else npm's, or None.

    Raises OldTrackerError if it is unreadable, or a user of the host could write to it.
    """
    package, launcher = host.settings.track.package, behind or host.settings.paths.launcher
    real = Path(os.path.realpath(launcher))
    tree = next((above for above in real.parents if _is_package(above, package)), None)
    if tree is None:
        tree = _npm_root(host)
        tree = tree / package if tree is not None and _is_package(tree / package, package) else None
    if tree is None:
        return None
    description = json.loads((tree / "package.json").read_text())
    programs = description.get("bin")
    program = programs.get("t3", "") if isinstance(programs, dict) else programs
    try:
        version = str(parse(str(description.get("version"))))
    except InvalidVersion as error:
        raise OldTrackerError(f"{tree}/package.json: {error}; reinstall t3") from error
    if not isinstance(program, str) or not (tree / program).is_file():
        raise OldTrackerError(f"{tree} has no program t3; reinstall t3")
    if (owner := tree.stat().st_uid) not in (0, os.geteuid()):
        raise OldTrackerError(f"{tree} belongs to user {owner}, who could change what all users run: chown it to root")
    return GlobalInstall(tree, version, os.path.normpath(program))


def _is_package(folder: Path, name: str) -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return bool(json.loads((folder / "package.json").read_text()).get("name") == name)
    return False


def _npm_root(host: Host) -> Path | None:
    """Return npm's global folder, asked as the unprivileged account."""
    with suppress(ChildError):
        asked = run_npm(host, ["root", "-g"], timeout_seconds=NPM_SECONDS, account=host.gate_account())
        text = asked.stdout.decode(errors="replace").strip()
        if asked.code == 0 and text.startswith("/"):
            return Path(text)
    return None


# Markers ------------------------------------------------------------------------------------------------------------


def markers_dir(host: Host) -> Path:
    """Return the folder of the shell tracker's deferral markers: one file per user, with the version in it."""
    return host.settings.paths.last_good_file.parent / "deferred"


def markers_aside(host: Host) -> Path:
    """Return the folder that keeps the markers once they are deferrals."""
    return markers_dir(host).with_name("deferred-before-t3flow")


def read_markers(host: Host) -> dict[str, str]:
    """Return the markers: user → text. Only plain files named after a user count."""
    found = {}
    with suppress(FileNotFoundError):
        for path in sorted(markers_dir(host).iterdir()):
            if USER_NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                with path.open(errors="replace") as file:
                    found[path.name] = file.read(300).strip()
    return found


def move_markers(source: Path, target: Path, users: list[str]) -> None:
    """Move users' markers from one folder to the other. Idempotent."""
    make_folder(target)
    for user in users:
        with suppress(FileNotFoundError):
            (source / user).rename(target / user)
    sync_folder(target)
    if source.is_dir():
        sync_folder(source)


# Servers ------------------------------------------------------------------------------------------------------------


def is_from_old_place(host: Host, pid: int) -> bool:
    """Return whether the former launcher started a process: an interpreter runs `paths.launcher`, but not a shell that runs t3flow's."""
    words = proc.command_line(pid)
    return (
        running_version.of_process(pid, host.settings.paths.versions_dir) is None
        and str(host.settings.paths.launcher) in words
        and Path(words[0]).name not in proc.SHELLS
    )


def note_servers(host: Host) -> list[str]:
    """Record which servers run from the old place, and which version each reports. Return their users."""
    found: dict[str, tuple[int, str]] = {}
    for entry in host.user_map().users:
        with suppress(probe.NotPaired, HostError):
            pid = host.services.state(entry.name).main_pid
            if pid is not None and is_from_old_place(host, pid):
                found[entry.name] = (pid, probe.serving_version(host, entry.name))
    facts.write(host.journal, running_version.TRACKER_SERVERS, found or None)
    return list(found)
