"""Run exactly those install scripts that `npm install` would run, in a cell, and check that they ran.

A plain `npm rebuild` would also run the scripts of bundled packages, which are built already, and newer npm runs only scripts that are allowed.
Therefore each package is named by its place in the tree, and all named packages are allowed.
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
from t3flow.host.npm.command import PackageError
from t3flow.host.npm.messages import script_error
from t3flow.host.npm.parts import Packages

SCRIPTS_BYTES, SCRIPTS_FILES = 3 * 1024**3, 100_000
"""Bounds for install scripts, which may use a compiler, including the installed tree of some 15,000 files."""
REMOVE_SECONDS = 60.0
EVENTS = ("preinstall", "install", "postinstall")
RAN = re.compile(rb"^npm info run (\S+) (?:preinstall|install|postinstall) (\S+) ", re.MULTILINE)
WORDS = ("--ignore-scripts=false", "--rebuild-bundle=false", "--foreground-scripts", "--offline", "--loglevel=info")
ALLOWED = {"npm_config_dangerously_allow_all_scripts": "true", "npm_config_strict_allow_scripts": "false"}
"""Allow all packages that the command names. npm before 11 ignores these settings and runs the scripts anyway."""


@dataclass(frozen=True)
class ScriptedPackage:
    """A package with install scripts: place in the tree, name and version, and whether npm treats it as optional."""

    place: str
    spec: str
    optional: bool


def find_scripts(prefix: Path, packages: Packages) -> list[ScriptedPackage]:
    """Return the packages of a fresh download whose install scripts `npm install` would run.

    npm runs no script of a bundled package, and none that its list names but package.json lacks; a `binding.gyp` alone means `node-gyp rebuild`.
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
            found.append(ScriptedPackage(place, f"{name}@{described.get('version')}", optional))
    return found


def _described(prefix: Path, place: str) -> dict[str, Any]:
    try:
        described = json.loads(read_regular_file_below(prefix, f"{place}/package.json"))
    except (OSError, ValueError):
        return {}
    return described if isinstance(described, dict) else {}


def run(host: Host, version: str, folder: Path, packages: Packages) -> tuple[str, list[str]]:
    """Phase two: run the packages' install scripts in `folder/prefix`, in a cell with the host's network, without npm's settings.

    Return what else of the host was within their reach ("": nothing), and the optional packages that were removed because their script failed, as
    npm would do. A no-op without scripts. Raises PackageError, ChildError, CellError, Interrupted.
    """
    prefix = folder / "prefix"
    scripted = find_scripts(prefix, packages)
    if not scripted:
        return "", []
    spec = f"{host.settings.track.package}@{version}"
    isolation = cells.isolation(host)
    needed = [each for each in scripted if not each.optional]
    failed = []
    for group in [needed] * bool(needed) + [[each] for each in scripted if each.optional]:
        finished = _rebuild(host, isolation, folder, group)
        if finished.code == 0:
            _check_ran(spec, finished, group)
        elif group is needed:
            raise PackageError(f"an install script of {spec} fails: {script_error(finished)}")
        else:
            _remove(host, prefix / group[0].place)
            failed.append(group[0].spec)
    return isolation.missing, failed


def _rebuild(host: Host, isolation: cells.Isolation, folder: Path, group: list[ScriptedPackage]) -> Finished:
    """Run the scripts of some packages, with a new private folder."""
    account = host.gate_account()
    prefix, private = folder / "prefix", folder / "private"
    gate_account.end_processes(host)  # without a cell, earlier scripts may have left processes
    remove_tree(private)
    private.mkdir(mode=0o700)
    if account.is_other:
        os.chown(private, account.uid, account.gid)
    command = cells.find_program(host.settings.npm.command)
    cell = cells.cell_command(
        host,
        isolation,
        own_network=False,
        visible=[*cells.program_paths(command), *cells.program_paths(cells.find_program("node"))],
        writable=[prefix, private],
        disk_bytes=SCRIPTS_BYTES,
        files=SCRIPTS_FILES,
        init=True,
    )
    places = [str(prefix / each.place) for each in group]
    return host.children.run(
        [*cell, command, "rebuild", *settings.install_options(prefix), *WORDS, *places],
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
    """Remove a package as the gate's account, because scripts may have replaced the folders above it."""
    words = ["rm", "-rf", "--one-file-system", "--", str(package)]
    host.children.run(words, account=host.gate_account(), timeout_seconds=REMOVE_SECONDS)


def _check_ran(spec: str, finished: Finished, group: list[ScriptedPackage]) -> None:
    """Raise PackageError if npm succeeded without running a script: the program would lack what the script creates."""
    ran = {place.decode(errors="replace") for _, place in RAN.findall(finished.stderr)}
    if left := [each.spec for each in group if each.place not in ran]:
        raise PackageError(
            f"{spec} is refused: npm did not run the install scripts of {', '.join(left)}, which it needs; "
            "check what npm on PATH is: npm --version"
        )
