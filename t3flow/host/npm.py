"""npm, the real client: what the registry offers, and an install that nothing of the registry's can use against the host.

An install has two phases. The download runs with the registry's settings and tokens but without any script, and ends with a look at where it
all came from (`origin.py`); the packages' own install scripts run after it, with neither settings nor tokens.
"""

import json
import os
import shutil
from pathlib import Path

from t3flow.files import read_plain
from t3flow.host import cells, origin
from t3flow.host.accounts import Account
from t3flow.host.host import Host
from t3flow.host.npm_client import (
    QUIET,
    UNREACHABLE,
    PackageError,
    RegistryUnreachable,
    error_line,
    npmrc_lines,
    run_npm,
    view,
)

SCRIPTS_BYTES, SCRIPTS_FILES = 3 * 1024**3, 100_000
"""What install scripts may make of the disk, the installed tree of some 15,000 files included; a compiler may be among them."""

__all__ = ["PackageError", "RegistryUnreachable", "install", "node_path", "published", "tagged"]


def tagged(host: Host, tag: str) -> str:
    """The version that a dist-tag points at. Raises RegistryUnreachable once `npm.retry_for_s` is over, PackageError for no such tag."""
    package = host.settings.track.package
    answer = view(host, [f"{package}@{tag}", "version"])
    if answer is None:
        raise PackageError(
            f"the registry has no dist-tag {tag} of {package}: check track.tag, track.package and npm's registry"
        )
    if not isinstance(answer, str):
        raise RegistryUnreachable(
            f"the registry's answer about {package}@{tag} is no version: it is not a registry; check npm's settings"
        )
    return answer


def published(host: Host, version: str) -> bool:
    """Whether the registry has exactly this version. Raises RegistryUnreachable."""
    answer = view(host, [f"{host.settings.track.package}@{version}", "version"])
    return bool(answer == version)


def install(host: Host, version: str, folder: Path) -> origin.Origin:
    """Installs a version into an empty folder, as the unprivileged account, and says where it comes from.

    Raises RegistryUnreachable, PackageError, ChildError, Interrupted.
    Repeating it is harmless: whatever an earlier try left in the folder is removed first.
    """
    found = download(host, version, folder)
    in_reach = run_scripts(host, version, folder)
    check_installed(host, version, folder / "prefix")
    return {**found, "in_reach_of_scripts": in_reach}


def download(host: Host, version: str, folder: Path) -> origin.Origin:
    """Phase one: everything into `folder/prefix`, with npm's settings and tokens; nothing of it is run.

    What is wrong with its origin raises PackageError; also RegistryUnreachable, ChildError, Interrupted.
    """
    who = host.gate_account()
    package = host.settings.track.package
    prefix, private = folder / "prefix", folder / "private"
    for part in (prefix, private):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700)
        if part is prefix:  # npm checks the signatures of what a package.json names, and of nothing else
            described = {"private": True, "dependencies": {package: version}}
            (prefix / "package.json").write_text(json.dumps(described) + "\n")
        if who.is_other:
            os.chown(part, who.uid, who.gid)
    settings = {
        "npm_config_cache": str(private / "cache"),
        **({"HOME": str(private), **_root_settings(host, private, who)} if who.is_other else {}),
    }
    limit = float(host.settings.npm.timeout_s)
    target = f"{package}@{version}"
    words = ["install", *_common(prefix), "--ignore-scripts", "--json", target]
    finished = run_npm(host, words, timeout_seconds=limit, who=who, environment=settings)
    if finished.code != 0:
        reason = error_line(finished)
        if UNREACHABLE.search(reason):
            raise RegistryUnreachable(f"npm cannot download {target}: {reason}")
        raise PackageError(f"npm does not install {target}: {reason}")
    words = ["audit", "signatures", *_common(prefix), "--json", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    signatures = origin.verify_signatures(
        host, target, lambda: run_npm(host, words, timeout_seconds=limit, who=who, environment=settings)
    )
    shutil.rmtree(private, ignore_errors=True)
    return origin.examine(host, version, prefix, signatures)


def run_scripts(host: Host, version: str, folder: Path) -> str:
    """Phase two: the packages' install scripts in `folder/prefix`, in a cell that has the host's network alone, with nothing of npm's settings.

    Returns what else of the host was in their reach ("": nothing). Raises PackageError, ChildError, CellError, Interrupted.
    """
    who = host.gate_account()
    prefix, private = folder / "prefix", folder / "private"
    private.mkdir(mode=0o700)
    if who.is_other:
        os.chown(private, who.uid, who.gid)
    given = cells.isolation(host)
    command = cells.find_program(host.settings.npm.command)
    cell = cells.words(
        host,
        given,
        own_network=False,
        visible=[*cells.program_paths(command), *cells.program_paths(cells.find_program("node"))],
        writable=[prefix, private],
        disk_bytes=SCRIPTS_BYTES,
        files=SCRIPTS_FILES,
        keeper=True,
    )
    finished = host.children.run(
        [*cell, command, "rebuild", "--ignore-scripts", *_common(prefix), "--offline", "--foreground-scripts"],
        environment={
            **QUIET,
            **cells.environment(),
            "HOME": str(private),
            "npm_config_cache": str(private / "cache"),
            "npm_config_userconfig": "/dev/null",
        },
        timeout_seconds=float(host.settings.npm.timeout_s),
    )
    if finished.code != 0:
        target = f"{host.settings.track.package}@{version}"
        raise PackageError(f"an install script of {target} fails: {finished.last_line}")
    return given.missing


def _common(prefix: Path) -> list[str]:
    return ["--prefix", str(prefix), "--global=false", "--no-save", "--loglevel=error"]


def _root_settings(host: Host, private: Path, who: Account) -> dict[str, str]:
    """Root's own npm settings, resolved by root and handed to the download in a file that goes with it."""
    target = private / "npmrc"
    descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("".join(f"{line}\n" for line in npmrc_lines(host)))
        os.fchown(file.fileno(), who.uid, who.gid)
    return {"npm_config_userconfig": str(target), "npm_config_globalconfig": "/dev/null"}


def check_installed(host: Host, version: str, prefix: Path) -> None:
    """The package says the version that was asked for, and its program is there. Raises PackageError. Its scripts may have left anything."""
    package = host.settings.track.package
    try:
        said = json.loads(read_plain(prefix / "node_modules" / package / "package.json")).get("version")
    except (OSError, ValueError, AttributeError) as error:
        raise PackageError(f"{package}@{version} installed no readable package.json: it is not tried") from error
    if said != version:
        raise PackageError(f"asked for {package}@{version}, the package says it is {said}: it is not tried")
    if not (prefix / "node_modules" / ".bin" / "t3").exists():
        raise PackageError(f"{package}@{version} brings no program t3: it is not tried")


def node_path() -> Path:
    """The Node that the gate tries candidates with, and that users then get. Raises PackageError when there is none."""
    found = shutil.which("node")
    if found is None:
        raise PackageError("there is no node on PATH: install Node.js 24 or newer and restart t3flow")
    return Path(found).resolve()
