"""Checks before the first stop: the launcher starts the assigned versions, and programs in slots can be executed.

A problem found here ends a run before it changes anything. No version is at fault, so nothing is rejected or frozen.
"""

import os
import shutil
import stat
from typing import NamedTuple

from t3flow.host import slots
from t3flow.host.host import Host
from t3flow.host.slots import launcher, mounts
from t3flow.settings.load import Settings

HOST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Problem(NamedTuple):
    """What is wrong, and the remedy."""

    text: str
    remedy: str


def problem(host: Host, versions: list[str] | None = None) -> str:
    """Return the first reason not to stop any server, with its remedy, or "". `versions` are those to be started now."""
    found = [*launcher_problems(host.settings), *slots_problems(host.settings, versions or [])]
    return f"no server was stopped: {found[0].text}; {found[0].remedy}" if found else ""


def launcher_problems(settings: Settings) -> list[Problem]:
    """Return what is wrong with the launcher of an adopted host: a minting or a start would run another version than the assigned one."""
    path, versions_dir = settings.paths.launcher, settings.paths.versions_dir
    if slots.default_version(versions_dir) is None and not launcher.is_launcher(path):
        return []  # not adopted yet
    remedy = "t3flow doctor --fix (stops no server)"
    if not launcher.is_launcher(path):
        state = "is missing" if not os.path.lexists(path) else "was overwritten, as `npm install -g` does"
        return [Problem(f"{path} {state}: users do not get their assigned versions", remedy)]
    wanted = launcher.launcher_text(versions_dir, sandbox=settings.serve.backend == "process")
    found = []
    if path.read_text() != wanted or stat.S_IMODE(path.stat().st_mode) != launcher.MODE:
        found.append(Problem(f"{path} was changed, or is from another version of t3flow", remedy))
    first = shutil.which(path.name, path=HOST_PATH)
    if settings.serve.backend == "systemd" and first and os.path.realpath(first) != os.path.realpath(path):
        found.append(
            Problem(f"{first} comes before {path} on PATH, so the dispatch may mint with it", f"remove {first}")
        )
    return found


def slots_problems(settings: Settings, versions: list[str]) -> list[Problem]:
    """Return what prevents the start of programs in slots, or the creation of new slots."""
    versions_dir = settings.paths.versions_dir
    found = mounts_problems(settings)
    for version in versions:
        gated = slots.slot_path(versions_dir, version) / ".node"
        if slots.has_slot(versions_dir, version) and not os.access(gated, os.X_OK):
            node = slots.manifest(versions_dir, version).get("node", "")
            found.append(
                Problem(f"the Node of {version} is gone, so t3 cannot start: {node}", "install it there again")
            )
    return found


def mounts_problems(settings: Settings) -> list[Problem]:
    """Return whether the slots, or the scratch folder for staging, are on a mount that is noexec or read-only."""
    paths = settings.paths
    folders = {slots.slots_dir(paths.versions_dir): mounts.SETTING, paths.scratch_dir: "paths.scratch_dir"}
    problems = [mounts.problem(folder, setting).partition(": ") for folder, setting in folders.items()]
    return [Problem(text, remedy) for text, _, remedy in problems if text]
