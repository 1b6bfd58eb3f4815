"""Install a version with npm, so that nothing from the registry can be used against the host.

An install has two phases. The download runs with the registry's settings and tokens but without any script, and ends with a check of its origin
(`signatures.py`, `origin.py`). The packages' install scripts run afterwards, with neither settings nor tokens (`scripts.py`).
"""

import json
import os
import shutil
from pathlib import Path

from t3flow.engine.files import read_regular_file_below, remove_tree
from t3flow.host import gate_account
from t3flow.host.children import Finished
from t3flow.host.host import Host
from t3flow.host.npm import origin, parts, scripts, settings, signatures
from t3flow.host.npm.command import (
    NOT_IN_REGISTRY,
    UNREACHABLE,
    IncompleteRelease,
    PackageError,
    RegistryUnreachable,
    require_programs,
)
from t3flow.host.npm.messages import parse_error
from t3flow.host.npm.registry import run_with_registry, view


def install(host: Host, version: str, folder: Path) -> origin.Origin:
    """Install a version into an empty folder as the unprivileged account, and return its origin.

    Raises RegistryUnreachable, IncompleteRelease, PackageError, ChildError, Interrupted.
    Idempotent: what an earlier call left in the folder is removed first.
    """
    found, tree = download(host, version, folder)
    in_reach, failed = scripts.run(host, version, folder, tree.installed)
    gate_account.end_processes(host)
    check_installed(host, version, folder / "prefix")
    return {**found, "in_reach_of_scripts": in_reach, "left_out": sorted({*found["left_out"], *failed})}


def download(host: Host, version: str, folder: Path) -> tuple[origin.Origin, parts.Tree]:
    """Phase one: download everything into `folder/prefix`, with the settings and tokens that lead to the registry, and run nothing of it.

    Raises IncompleteRelease if the registry does not have a part yet, PackageError if the origin is wrong, RegistryUnreachable, ChildError,
    Interrupted.
    """
    require_programs(host)
    account = host.gate_account()
    package = host.settings.track.package
    prefix, private = folder / "prefix", folder / "private"
    for part in (prefix, private):
        remove_tree(part)
        part.mkdir(mode=0o700)
    # npm checks the signatures of the packages that a package.json names, and writes into it what it installed
    manifest = json.dumps({"private": True, "dependencies": {package: version}}) + "\n"
    (prefix / "package.json").write_text(manifest)
    # the innermost first: in a folder that the account owns already, it could replace them
    for path in (prefix / "package.json", prefix, private):
        if account.is_other:
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
    spec = f"{package}@{version}"

    def npm(*words: str) -> Finished:
        return run_with_registry(
            host,
            list(words),
            private,
            timeout_seconds=float(host.settings.npm.timeout_s),
            account=account,
            environment={"HOME": str(private)} if account.is_other else {},
        )

    options = settings.install_options(prefix)
    finished = npm(
        "install", *options, "--ignore-scripts", "--save=true", "--save-exact", "--save-prod", "--json", spec
    )
    if finished.code != 0:
        raise _failure(finished, spec, spec)
    tree = parts.read(prefix)
    if tree is None:
        raise PackageError(f"{spec} is refused: npm left no readable list of what it installed")
    (prefix / parts.LOCK).unlink()  # unlink follows no link, and only t3flow can change the folder of the prefix
    platform = parts.this_platform()
    for name, wanted in tree.parts(package).items():
        if tree.place(tree.installed, name, package) is not None:
            continue
        place = tree.place(tree.locked, name, package)
        if place is None and _is_for(host, platform, name):
            raise IncompleteRelease(
                f"{spec} is not complete in the registry yet: its part for {platform}, {name}@{wanted}, is missing"
            )
        if place is not None and platform.supports(tree.locked[place]):
            tarball = f"{name}@{tree.locked[place].get('version', wanted)}"
            asked = npm("pack", *options, "--ignore-scripts", "--pack-destination", str(private), "--json", tarball)
            raise _failure(asked, f"{tarball}, the part of {spec} for {platform}", spec)
    described = folder / "described"  # not in a folder of the gate's account: this process writes there
    remove_tree(described)
    described.mkdir(mode=0o755)
    (described / "package.json").write_text(manifest)
    parts.write_skeleton(tree.installed, described)
    checks = (
        "audit",
        "signatures",
        *settings.install_options(described),
        "--json",
        "--fetch-retries=1",
        "--fetch-retry-mintimeout=1000",
    )
    checked = signatures.verify_signatures(host, spec, lambda: npm(*checks))
    remove_tree(private)
    remove_tree(described)
    return origin.verify_origin(host, version, tree, checked), tree


def _failure(finished: Finished, package: str, spec: str) -> RegistryUnreachable | IncompleteRelease | PackageError:
    """Return the error for a package that npm could not get. If npm can get it now, it was published a moment too late."""
    code, line = parse_error(finished)
    if finished.code == 0:
        return IncompleteRelease(f"{spec} was not complete in the registry: npm left out {package}, which is there now")
    if code in NOT_IN_REGISTRY:
        return IncompleteRelease(f"{spec} is not complete in the registry yet: {code} {line}")
    reason = f"{code} {line}".strip()
    if UNREACHABLE.search(reason):
        return RegistryUnreachable(f"npm cannot download {package}: {reason}")
    return PackageError(f"npm cannot install {package}: {reason}")


def _is_for(host: Host, platform: parts.Platform, name: str) -> bool:
    """Return whether a part that is not in the registry in this version is for this platform, by its other versions, otherwise by its name."""
    others = view(host, [name, "name", "os", "cpu", "libc"], patiently=False)
    if isinstance(others, dict):
        return platform.supports(others)
    return others is not None or platform.may_support(name)


def check_installed(host: Host, version: str, prefix: Path) -> None:
    """Check the version in the package and that its program exists. Its scripts may have left anything. Raises PackageError."""
    package = host.settings.track.package
    try:
        found = json.loads(read_regular_file_below(prefix, f"node_modules/{package}/package.json")).get("version")
    except (OSError, ValueError, AttributeError) as error:
        raise PackageError(f"{package}@{version} is refused: it has no readable package.json") from error
    if found != version:
        raise PackageError(f"{package}@{version} is refused: the package says it is {found}")
    if not (prefix / "node_modules" / ".bin" / "t3").exists():
        raise PackageError(f"{package}@{version} is refused: it has no program t3")


def node_path() -> Path:
    """Return the Node with which the gate tries a version and users then run it. Raises PackageError if there is none."""
    found = shutil.which("node")
    if found is None:
        raise PackageError("node is not on PATH: install Node.js 24 or newer, then: systemctl restart t3flow")
    return Path(found).resolve()
