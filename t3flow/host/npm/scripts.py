"""Install scripts: exactly those that `npm install` runs, in a cell, and a look at whether they did run.

`npm rebuild` alone would also run the scripts of bundled packages, which are built already, and newer npm would run none that is not allowed.
So each package is named by its place in the tree, and all that is named is allowed.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t3flow.engine.files import read_regular_file_below, remove_tree
from t3flow.host import gate_account
from t3flow.host.cells import cells
from t3flow.host.children import Finished
from t3flow.host.host import Host
from t3flow.host.npm import settings
from t3flow.host.npm.client import PackageError
from t3flow.host.npm.messages import script_line
from t3flow.host.npm.parts import Packages

SCRIPTS_BYTES, SCRIPTS_FILES = 3 * 1024**3, 100_000
"""What install scripts may make of the disk, the installed tree of some 15,000 files included; a compiler may be among them."""
REMOVE_SECONDS = 60.0
EVENTS = ("preinstall", "install", "postinstall")
RAN = re.compile(rb"^npm info run (\S+) (?:preinstall|install|postinstall) (\S+) ", re.MULTILINE)
WORDS = ("--ignore-scripts=false", "--rebuild-bundle=false", "--foreground-scripts", "--offline", "--loglevel=info")
ALLOWED = {"npm_config_dangerously_allow_all_scripts": "true", "npm_config_strict_allow_scripts": "false"}
"""All that is named in the command may run; npm before 11 knows no such settings and runs them anyhow."""


@dataclass(frozen=True)
class Scripted:
    """A package with install scripts: its place in the tree, name and version, and whether npm would do without it."""

    place: str
    target: str
    optional: bool


def scripted(prefix: Path, packages: Packages) -> list[Scripted]:
    """The packages of a fresh download whose install scripts `npm install` would run.

    None of bundled packages; where npm's list names scripts and there are none it runs none; a `binding.gyp` alone means `node-gyp rebuild`.
    """
    found = []
    for place, entry in sorted(packages.items()):
        if entry.get("inBundle") or entry.get("link") or not (prefix / place).is_dir():
            continue
        is_gyp = os.path.isfile(prefix / place / "binding.gyp")
        if not entry.get("hasInstallScript") and not is_gyp:
            continue
        described = _described(prefix, place)
        scripts = described.get("scripts")
        named = {event for event in EVENTS if isinstance(scripts, dict) and scripts.get(event)}
        is_gyp = is_gyp and described.get("gypfile") is not False and not named & {"preinstall", "install"}
        if is_gyp or (entry.get("hasInstallScript") and named):
            name = described.get("name") or place.rpartition("node_modules/")[2]
            optional = bool(entry.get("optional") or entry.get("devOptional"))
            found.append(Scripted(place, f"{name}@{described.get('version')}", optional))
    return found


def _described(prefix: Path, place: str) -> dict[str, Any]:
    try:
        described = json.loads(read_regular_file_below(prefix, f"{place}/package.json"))
    except (OSError, ValueError):
        return {}
    return described if isinstance(described, dict) else {}


def run(host: Host, version: str, folder: Path, packages: Packages) -> tuple[str, list[str]]:
    """Phase two: the packages' install scripts in `folder/prefix`, in a cell that has the host's network alone, with nothing of npm's settings.

    Returns what else of the host was in their reach ("": nothing), and the optional packages that were left out because their script failed,
    as npm leaves them out. Without any script nothing is run. Raises PackageError, ChildError, CellError, Interrupted.
    """
    prefix = folder / "prefix"
    wanted = scripted(prefix, packages)
    if not wanted:
        return "", []
    target = f"{host.settings.track.package}@{version}"
    given = cells.isolation(host)
    needed = [each for each in wanted if not each.optional]
    failed = []
    for group in [needed] * bool(needed) + [[each] for each in wanted if each.optional]:
        finished = _rebuild(host, given, folder, group)
        if finished.code == 0:
            _check_ran(target, finished, group)
        elif group is needed:
            raise PackageError(f"an install script of {target} fails: {script_line(finished)}")
        else:
            _remove(host, prefix / group[0].place)
            failed.append(group[0].target)
    return given.missing, failed


def _rebuild(host: Host, given: cells.Isolation, folder: Path, group: list[Scripted]) -> Finished:
    """Runs the scripts of some packages, in a private folder that is new each time."""
    who = host.gate_account()
    prefix, private = folder / "prefix", folder / "private"
    gate_account.end_all(host)  # without a cell, what the scripts before these have left
    remove_tree(private)
    private.mkdir(mode=0o700)
    if who.is_other:
        os.chown(private, who.uid, who.gid)
    command = cells.find_program(host.settings.npm.command)
    cell = cells.cell_command(
        host,
        given,
        own_network=False,
        visible=[*cells.program_paths(command), *cells.program_paths(cells.find_program("node"))],
        writable=[prefix, private],
        disk_bytes=SCRIPTS_BYTES,
        files=SCRIPTS_FILES,
        init=True,
    )
    places = [str(prefix / each.place) for each in group]
    return host.children.run(
        [*cell, command, "rebuild", *settings.words(prefix), *WORDS, *places],
        environment={
            **settings.QUIET,
            **cells.environment(),
            **ALLOWED,
            "HOME": str(private),
            "npm_config_cache": str(private / "cache"),
            "npm_config_userconfig": "/dev/null",
            "npm_config_globalconfig": str(private / "none"),
        },
        timeout_seconds=float(host.settings.npm.timeout_s),
    )


def _remove(host: Host, package: Path) -> None:
    """Removes a package as the account whose scripts may have put anything in the place of the folders above it."""
    words = ["rm", "-rf", "--one-file-system", "--", str(package)]
    host.children.run(words, who=host.gate_account(), timeout_seconds=REMOVE_SECONDS)


def _check_ran(target: str, finished: Finished, group: list[Scripted]) -> None:
    """Raises PackageError where npm ended well and did not run a script: the program would miss what it makes."""
    ran = {place.decode(errors="replace") for _, place in RAN.findall(finished.stderr)}
    if left := [each.target for each in group if each.place not in ran]:
        raise PackageError(
            f"npm did not run the install scripts of {', '.join(left)}, which {target} needs: it is not tried; "
            "check what npm on PATH is: npm --version"
        )
