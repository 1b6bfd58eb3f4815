"""The origin of a version: whether it is what the registry has, and what is new about it compared with the version in use."""

from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

from t3flow.host import slots
from t3flow.host.host import Host
from t3flow.host.npm import parts as npm_parts
from t3flow.host.npm.command import PackageError, RegistryUnreachable
from t3flow.host.npm.registry import view


class Part(TypedDict):
    """The recorded origin of one part of a release: the package of a platform."""

    version: str
    integrity: str
    provenance: bool


class Origin(TypedDict):
    """The recorded origin of a version, in its slot's manifest.

    `signatures`: `verified`, or why they were not checked; `in_reach_of_scripts`: what of the host its install scripts could reach ("": nothing);
    `parts`: this platform's packages of the release by name; `left_out`: optional packages that npm did not install, as NAME@VERSION.
    """

    integrity: str
    provenance: bool
    parts: dict[str, Part]
    left_out: list[str]
    install_scripts: list[str]
    signatures: str
    in_reach_of_scripts: str


def verify_origin(host: Host, version: str, tree: npm_parts.Tree, signatures: str) -> Origin:
    """Check that the checksum of each part of a fresh download is the registry's. Raises PackageError, RegistryUnreachable."""
    package = host.settings.track.package
    own = _checked(host, package, version, tree.installed.get(f"node_modules/{package}", {}))
    parts = {
        name: _checked(host, name, str(entry.get("version", "")), entry)
        for name, entry in tree.of_parts(package).items()
    }
    return {
        "integrity": own["integrity"],
        "provenance": own["provenance"],
        "parts": parts,
        "left_out": tree.left_out(npm_parts.this_platform(), package),
        "install_scripts": _with_scripts(tree.installed),
        "signatures": signatures,
        "in_reach_of_scripts": "",  # no script has run yet
    }


def _checked(host: Host, package: str, version: str, entry: dict[str, Any]) -> Part:
    """Compare the checksum of an installed package with the registry's. Raises PackageError, RegistryUnreachable."""
    spec = f"{package}@{version}"
    dist = view(host, [spec, "dist"])
    expected = dist.get("integrity") if isinstance(dist, dict) else None
    if not isinstance(expected, str) or not expected:
        raise PackageError(f"{spec} is refused: the registry has no integrity of it, so the download cannot be checked")
    found = entry.get("integrity")
    if not isinstance(found, str) or sorted(found.split()) != sorted(expected.split()):
        raise PackageError(f"{spec} is refused: npm installed integrity {found}, the registry says {expected}")
    return {"version": version, "integrity": expected, "provenance": bool(dist.get("attestations"))}


def _with_scripts(packages: npm_parts.Packages) -> list[str]:
    """Return the names of the packages whose install scripts npm runs; it does not run those of bundled packages."""
    return sorted(
        {
            place.rpartition("node_modules/")[2]
            for place, entry in packages.items()
            if entry.get("hasInstallScript") and not entry.get("inBundle")
        }
    )


def recorded_origin(versions_dir: Path, version: str) -> dict[str, Any]:
    """Return the origin in a slot's manifest; for a slot of an earlier release, what its files still show. Raises SlotError."""
    found: dict[str, Any] = slots.manifest(versions_dir, version).get("origin") or {}
    if "install_scripts" not in found:
        packages = npm_parts.installed(slots.slot_path(versions_dir, version))
        found = {**found, **({} if packages is None else {"install_scripts": _with_scripts(packages)})}
    return found


def notices(host: Host, versions_dir: Path, version: str) -> list[str]:
    """Return notices about a staged version compared with the default: new install scripts, lost provenance, optional packages left out."""
    default = slots.default_version(host.settings.paths.versions_dir)
    new = recorded_origin(versions_dir, version)
    found = (
        [f"install scripts of {version} ran without a cell: {new['in_reach_of_scripts']}"]
        if new.get("in_reach_of_scripts")
        else []
    )
    if default in (None, version) or not slots.has_slot(host.settings.paths.versions_dir, default):
        return found
    old = recorded_origin(host.settings.paths.versions_dir, default)
    scripts = set(new.get("install_scripts", [])) - set(old.get("install_scripts", new.get("install_scripts", [])))
    if scripts:
        found.append(f"{version} has install scripts that {default} does not have: {', '.join(sorted(scripts))}")
    if new.get("provenance") is False and (
        old["provenance"] if "provenance" in old else _has_provenance(host, default)
    ):
        found.append(f"{version} has no provenance, {default} has: its builder is unknown")
    before: dict[str, Part] = old.get("parts", {})
    for name, part in new.get("parts", {}).items():
        if not part["provenance"] and name in before and before[name]["provenance"]:
            found.append(
                f"{name}@{part['version']} has no provenance, {before[name]['version']} has: its builder is unknown"
            )
    known = {_bare(each) for each in old.get("left_out", [])}
    if left_out := [each for each in new.get("left_out", []) if _bare(each) not in known]:
        found.append(f"npm left out optional packages of {version}: {', '.join(left_out)}")
    return found


def _bare(spec: str) -> str:
    """Return the name in NAME@VERSION."""
    return spec[0] + spec[1:].partition("@")[0]


def _has_provenance(host: Host, version: str) -> bool:
    """Ask the registry, once, about a version whose slot has no record."""
    with suppress(RegistryUnreachable):
        words = [f"{host.settings.track.package}@{version}", "dist.attestations"]
        return bool(view(host, words, patiently=False))
    return False
