"""npm, the real client: what the registry offers, and an install that nothing of the registry's can use against the host.

An install has two phases. The download runs with the registry's settings and tokens but without any script, and ends with a look at where it
all came from (`origin.py`); the packages' own install scripts run after it, with neither settings nor tokens.
"""

import json
import os
import shutil
from pathlib import Path

from t3flow.engine.files import read_regular_file_below, remove_tree
from t3flow.host import gate_account
from t3flow.host.children import Finished
from t3flow.host.host import Host
from t3flow.host.npm import parts, provenance, scripts, settings
from t3flow.host.npm.client import (
    NOT_THERE,
    UNREACHABLE,
    IncompleteRelease,
    PackageError,
    RegistryUnreachable,
    dist_tags,
    require_programs,
    run_reaching,
    view,
)
from t3flow.host.npm.messages import error_of

__all__ = ["IncompleteRelease", "PackageError", "RegistryUnreachable", "install", "node_path", "published", "tagged"]


def tagged(host: Host, tag: str) -> str:
    """The version that a dist-tag points at. Raises RegistryUnreachable once `npm.retry_for_s` is over, PackageError for no such tag.

    A tag that names a version of which the registry says nothing yet raises IncompleteRelease.
    """
    package = host.settings.track.package
    answer = view(host, [f"{package}@{tag}", "version"])
    if answer is None:
        if (named := dist_tags(host).get(tag)) is not None:
            raise IncompleteRelease(f"the tag {tag} names {package}@{named}, which is not in the registry yet")
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


def install(host: Host, version: str, folder: Path) -> provenance.Origin:
    """Installs a version into an empty folder, as the unprivileged account, and says where it comes from.

    Raises RegistryUnreachable, IncompleteRelease, PackageError, ChildError, Interrupted.
    Repeating it is harmless: whatever an earlier try left in the folder is removed first.
    """
    found, tree = download(host, version, folder)
    in_reach, failed = scripts.run(host, version, folder, tree.installed)
    gate_account.end_all(host)
    check_installed(host, version, folder / "prefix")
    return {**found, "in_reach_of_scripts": in_reach, "left_out": sorted({*found["left_out"], *failed})}


def download(host: Host, version: str, folder: Path) -> tuple[provenance.Origin, parts.Tree]:
    """Phase one: everything into `folder/prefix`, with the settings and tokens that lead to the registry; nothing of it is run.

    A part that the registry does not have yet raises IncompleteRelease, what is wrong with its origin PackageError; also RegistryUnreachable,
    ChildError, Interrupted.
    """
    require_programs(host)
    who = host.gate_account()
    package = host.settings.track.package
    prefix, private = folder / "prefix", folder / "private"
    for part in (prefix, private):
        remove_tree(part)
        part.mkdir(mode=0o700)
    # npm checks the signatures of what a package.json names, and of nothing else; and it saves what it installed in it
    named = json.dumps({"private": True, "dependencies": {package: version}}) + "\n"
    (prefix / "package.json").write_text(named)
    for path in (
        prefix / "package.json",
        prefix,
        private,
    ):  # from within: a folder that is theirs already may have been changed
        if who.is_other:
            os.chown(path, who.uid, who.gid, follow_symlinks=False)
    target = f"{package}@{version}"

    def npm(*words: str) -> Finished:
        return run_reaching(
            host,
            list(words),
            private,
            timeout_seconds=float(host.settings.npm.timeout_s),
            who=who,
            environment={"HOME": str(private)} if who.is_other else {},
        )

    where = settings.words(prefix)
    finished = npm(
        "install", *where, "--ignore-scripts", "--save=true", "--save-exact", "--save-prod", "--json", target
    )
    if finished.code != 0:
        raise _failure(finished, target, target)
    tree = parts.read(prefix)
    if tree is None:
        raise PackageError(f"npm left no readable list of what it installed of {target}: it is not tried")
    (prefix / parts.LOCK).unlink()  # unlink follows no link, and the prefix lies in a folder of ours
    mine = parts.here()
    for name, wanted in tree.parts(package).items():
        if tree.place(tree.installed, name, package) is not None:
            continue
        place = tree.place(tree.wanted, name, package)
        if place is None and _is_for(host, mine, name):
            raise IncompleteRelease(
                f"{target} is not complete in the registry yet: its part for {mine}, {name}@{wanted}, is not there"
            )
        if place is not None and mine.takes(tree.wanted[place]):
            tarball = f"{name}@{tree.wanted[place].get('version', wanted)}"
            asked = npm("pack", *where, "--ignore-scripts", "--pack-destination", str(private), "--json", tarball)
            raise _failure(asked, f"{tarball}, the part of {target} for {mine}", target)
    described = folder / "described"  # not in a folder of theirs: this process writes there
    remove_tree(described)
    described.mkdir(mode=0o755)
    (described / "package.json").write_text(named)
    parts.write_skeleton(tree.installed, described)
    checks = (
        "audit",
        "signatures",
        *settings.words(described),
        "--json",
        "--fetch-retries=1",
        "--fetch-retry-mintimeout=1000",
    )
    signatures = provenance.verify_signatures(host, target, lambda: npm(*checks))
    remove_tree(private)
    remove_tree(described)
    return provenance.examine(host, version, tree, signatures), tree


def _failure(finished: Finished, what: str, target: str) -> RegistryUnreachable | IncompleteRelease | PackageError:
    """What it means that npm could not have `what`; one that it can have after all came a moment too late."""
    code, line = error_of(finished)
    if finished.code == 0:
        return IncompleteRelease(
            f"{target} was not complete in the registry: npm left out {what}, and can have it by now"
        )
    if code in NOT_THERE:
        return IncompleteRelease(f"{target} is not complete in the registry yet: {code} {line}")
    said = f"{code} {line}".strip()
    if UNREACHABLE.search(said):
        return RegistryUnreachable(f"npm cannot download {what}: {said}")
    return PackageError(f"npm does not install {what}: {said}")


def _is_for(host: Host, mine: parts.Platform, name: str) -> bool:
    """Whether a part of which this version is not in the registry is for this platform: by what its other versions say, else by its name."""
    said = view(host, [name, "name", "os", "cpu", "libc"], patiently=False)
    if isinstance(said, dict):
        return mine.takes(said)
    return said is not None or mine.may_be(name)


def check_installed(host: Host, version: str, prefix: Path) -> None:
    """The package says the version that was asked for, and its program is there. Raises PackageError. Its scripts may have left anything."""
    package = host.settings.track.package
    try:
        said = json.loads(read_regular_file_below(prefix, f"node_modules/{package}/package.json")).get("version")
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
