"""What must be so before anything is stopped: the launcher leads people to their versions, and programs in slots can be started.

Found here, it ends a run before it touches anybody: no build is to blame for it, so that nothing is rejected or frozen.
"""

import os
import shutil
import stat
from typing import NamedTuple

from t3flow.host import launcher, mounts, slots
from t3flow.host.host import Host
from t3flow.settings.load import Settings

HOST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Trouble(NamedTuple):
    """What is wrong, and how to mend it."""

    what: str
    mend: str


def trouble(host: Host, versions: list[str] | None = None) -> str:
    """The first thing that speaks against stopping any server, in one line with its remedy, or "". `versions`: those to be started now."""
    found = [*launcher_trouble(host.settings), *slots_trouble(host.settings, versions or [])]
    return f"nothing was stopped: {found[0].what}; {found[0].mend}" if found else ""


def launcher_trouble(settings: Settings) -> list[Trouble]:
    """What is wrong with the launcher of a host that was adopted: a minting or a start would lead its user to another version."""
    path, versions_dir = settings.paths.launcher, settings.paths.versions_dir
    if slots.default_version(versions_dir) is None and not launcher.is_launcher(path):
        return []  # as before the first `t3flow adopt`
    mend = "t3flow doctor --fix puts it back, stopping nobody"
    if not launcher.is_launcher(path):
        was = "is not there" if not os.path.lexists(path) else "was overwritten, as `npm install -g` does"
        return [Trouble(f"{path} {was}: nobody is led to their version", mend)]
    wanted = launcher.launcher_text(versions_dir, sandbox=settings.serve.backend == "process")
    found = []
    if path.read_text() != wanted or stat.S_IMODE(path.stat().st_mode) != launcher.MODE:
        found.append(Trouble(f"{path} was changed, or is of another t3flow", mend))
    first = shutil.which(path.name, path=HOST_PATH)
    if settings.serve.backend == "systemd" and first and os.path.realpath(first) != os.path.realpath(path):
        found.append(Trouble(f"{first} comes before {path} on PATH: the dispatch may mint with it", f"remove {first}"))
    return found


def slots_trouble(settings: Settings, versions: list[str]) -> list[Trouble]:
    """What keeps programs in slots from being started, or new slots from being made."""
    versions_dir = settings.paths.versions_dir
    found = mounts_trouble(settings)
    for version in versions:
        gated = slots.slot_path(versions_dir, version) / ".node"
        if slots.has_slot(versions_dir, version) and not os.access(gated, os.X_OK):
            noted = slots.manifest(versions_dir, version).get("node", "")
            found.append(Trouble(f"the Node of {version} is gone: {noted}", "install it there again; t3 cannot start"))
    return found


def mounts_trouble(settings: Settings) -> list[Trouble]:
    """Whether slots, or the scratch folder that candidates are staged in, are on a mount that runs no programs or takes no files."""
    paths = settings.paths
    folders = {slots.versions(paths.versions_dir): mounts.SETTING, paths.scratch_dir: "paths.scratch_dir"}
    said = [mounts.trouble(folder, setting).partition(": ") for folder, setting in folders.items()]
    return [Trouble(what, mend) for what, _, mend in said if what]
