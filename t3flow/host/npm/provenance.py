"""Where a version comes from: how old it is, whether it is what the registry has and has signed, and what is new about it.

Signatures and provenance are checked by npm itself; the rest is read from the registry's document of the version, and from the list that npm
leaves of what it installed.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict

from t3flow.host import http_client, slots
from t3flow.host.children import Finished
from t3flow.host.host import Host
from t3flow.host.npm import parts as npm_parts
from t3flow.host.npm.client import UNREACHABLE, PackageError, RegistryUnreachable, auth_token, setting, view
from t3flow.host.npm.messages import error_line
from t3flow.settings.schedule import zone

KEYS_PATH = "/-/npm/v1/keys"
KEYS_SECONDS = 10.0
NO_KEYS = "not checked: the registry has no signing keys"
OFF = "not checked: npm.verify_signatures is off"
VERIFIED = "verified"
NOTHING_SIGNED = "no dependencies to audit"


class Part(TypedDict):
    """What is kept of the origin of one part of a release: a platform's package."""

    version: str
    integrity: str
    provenance: bool


class Origin(TypedDict):
    """What is kept of a version's origin, in its slot's manifest: `signatures` is `verified`, or why they were not checked;
    `in_reach_of_scripts` what of the host its install scripts could reach ("": nothing); `parts` this platform's packages of the release
    by name; `left_out` the optional packages that npm did not install, as NAME@VERSION.
    """

    integrity: str
    provenance: bool
    parts: dict[str, Part]
    left_out: list[str]
    install_scripts: list[str]
    signatures: str
    in_reach_of_scripts: str


# Age ----------------------------------------------------------------------------------------------------------------


def too_young(host: Host, version: str) -> str:
    """Why a version is not yet old enough for `track.min_age_hours`, or "". It is as old as the youngest of its parts for this platform.

    What the registry does not say is no age. Raises RegistryUnreachable.
    """
    hours = host.settings.track.min_age_hours
    if not hours:
        return ""
    package, wanted = host.settings.track.package, f"track.min_age_hours wants {hours:g} h"
    parts = view(host, [f"{package}@{version}", "optionalDependencies"])
    found = [_too_young(host, package, version, version, wanted)]
    mine = npm_parts.here()
    for name, part_version in parts.items() if isinstance(parts, dict) else ():
        if mine.may_be(name):
            found.append(_too_young(host, name, part_version, version, wanted))
    return next((why for why in found if why), "")


def _too_young(host: Host, package: str, part_version: str, version: str, wanted: str) -> str:
    """Why one part of a version is not yet old enough, or ""."""
    hours = host.settings.track.min_age_hours
    is_part = package != host.settings.track.package
    what = f"{package}@{part_version}, a part of {version}," if is_part else version
    by_name = f"to take it all the same: t3flow enqueue bump --target {version}"
    times = view(host, [f"{package}@{part_version}", "time"])
    if times is None and is_part:
        return f"{what} is not in the registry yet, and {wanted}; {by_name}"
    said = times.get(part_version) if isinstance(times, dict) else None
    published = _moment(said)
    if published is None:
        given = f"gives it the time {str(said)[:40]!r}" if said else "does not say when it was published"
        return f"nobody knows how old {what} is: the registry {given}, and {wanted}; {by_name}"
    age_seconds = time.time() - published
    if age_seconds >= hours * 3600:
        return ""
    enough = f"{datetime.fromtimestamp(published + hours * 3600, zone(host.settings)):%Y-%m-%d %H:%M %z}"
    if age_seconds < 0:
        return f"{what} was published in the future, by the registry's clock or by this host's: check the host's; {wanted}; {by_name}"
    return f"{what} is {age_seconds / 3600:.1f} h old and {wanted}: it is old enough at {enough}; {by_name}"


def _moment(text: Any) -> float | None:
    """A time of the registry's in seconds since the epoch, or None for what is none."""
    with suppress(ValueError, TypeError, OverflowError):
        moment = datetime.fromisoformat(text)
        return moment.timestamp() if moment.tzinfo is not None else None
    return None


# Signatures ---------------------------------------------------------------------------------------------------------


def verify_signatures(host: Host, target: str, audit: Callable[[], Finished]) -> str:
    """Has npm check the signatures and provenance of all that was downloaded, as `npm.verify_signatures` says. Returns `verified`, or why not.

    `audit` runs `npm audit signatures --json`. Raises PackageError for one that is missing or invalid, RegistryUnreachable when npm cannot tell.
    """
    wanted = host.settings.npm.verify_signatures
    if wanted == "off":
        return OFF
    if _has_no_keys(host):
        return _without_keys(target, wanted)
    finished = audit()
    try:
        said = json.loads(finished.stdout)
        missing, invalid = said.get("missing", []), said.get("invalid", [])
        faults = [f"no signature of {each['name']}@{each['version']}" for each in missing]
        faults += [f"{_kind(each)} of {each['name']}@{each['version']} is invalid" for each in invalid]
    except (ValueError, AttributeError, TypeError, KeyError):
        said, faults = {}, []
    if faults:
        some = ", ".join(faults[:5]) + (f" and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise PackageError(f"{target} is not tried, somebody may have tampered with it: {some}; ask its publisher")
    if finished.code == 0 and "missing" in said and "invalid" in said:
        return VERIFIED
    reason = error_line(finished)
    if NOTHING_SIGNED in reason:
        return _without_keys(target, wanted)
    if UNREACHABLE.search(reason):
        hint = 'npm needs the registry and sigstore\'s keys; where those cannot be had: npm.verify_signatures = "off"'
        raise RegistryUnreachable(f"npm cannot check the signatures of {target}: {reason}; {hint}")
    raise PackageError(f"{target} is not tried, its signatures do not verify: {reason}; ask its publisher")


def _kind(entry: dict[str, Any]) -> str:
    return "the attestation" if entry.get("code") == "EATTESTATIONVERIFY" else "the signature"


def _without_keys(target: str, wanted: str) -> str:
    if wanted == "require":
        raise PackageError(
            f"{target} is not tried: its registry has no signing keys and npm.verify_signatures is require; "
            'for a registry that signs nothing set it to "auto"'
        )
    return NO_KEYS


def _has_no_keys(host: Host) -> bool:
    """Whether the registry says clearly, in npm's terms, that it has no keys; whatever else it answers, npm's own check is to say."""
    scope, slash, _ = host.settings.track.package.partition("/")
    registry = (setting(host, f"{scope}:registry") if slash else "") or setting(host, "registry")
    answer = _keys(registry)
    if answer is not None and answer.status in (401, 403):
        answer = _keys(registry, {"Authorization": f"Bearer {auth_token(host, registry)}"})
    if answer is None:
        return False
    found = answer.json_object() or {}
    return answer.status in (400, 404) or (answer.status == 200 and found.get("keys") == [])


def _keys(registry: str, headers: dict[str, str] | None = None) -> http_client.Answer | None:
    """Return what the registry answers about its keys, or None if it does not answer."""
    with suppress(OSError):
        return http_client.request(registry.rstrip("/") + KEYS_PATH, headers=headers, timeout_seconds=KEYS_SECONDS)
    return None


# Integrity, and what is new ------------------------------------------------------------------------------------------


def examine(host: Host, version: str, tree: npm_parts.Tree, signatures: str) -> Origin:
    """Looks at a fresh download: the checksums that npm verified are the registry's, of each part. Raises PackageError, RegistryUnreachable."""
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
        "left_out": tree.left_out(npm_parts.here(), package),
        "install_scripts": _with_scripts(tree.installed),
        "signatures": signatures,
        "in_reach_of_scripts": "",  # none has run yet
    }


def _checked(host: Host, package: str, version: str, entry: dict[str, Any]) -> Part:
    """Compares what npm installed of a package with what the registry says of it. Raises PackageError, RegistryUnreachable."""
    target = f"{package}@{version}"
    said = view(host, [target, "dist"])
    wanted = said.get("integrity") if isinstance(said, dict) else None
    if not isinstance(wanted, str) or not wanted:
        raise PackageError(
            f"the registry has no integrity of {target}: what it sends cannot be checked, it is not tried"
        )
    found = entry.get("integrity")
    if not isinstance(found, str) or sorted(found.split()) != sorted(wanted.split()):
        raise PackageError(f"npm installed {target} with the integrity {found}, the registry says {wanted}: not tried")
    return {"version": version, "integrity": wanted, "provenance": bool(said.get("attestations"))}


def _with_scripts(packages: npm_parts.Packages) -> list[str]:
    """The names of the packages that have install scripts which npm runs: those of bundled packages it does not."""
    return sorted(
        {
            place.rpartition("node_modules/")[2]
            for place, entry in packages.items()
            if entry.get("hasInstallScript") and not entry.get("inBundle")
        }
    )


def noted(versions_dir: Path, version: str) -> dict[str, Any]:
    """What a slot's manifest says of its origin; of a slot made before that was noted, what can still be seen. Raises SlotError."""
    found: dict[str, Any] = slots.manifest(versions_dir, version).get("origin") or {}
    if "install_scripts" not in found:
        packages = npm_parts.installed(slots.slot_path(versions_dir, version))
        found = {**found, **({} if packages is None else {"install_scripts": _with_scripts(packages)})}
    return found


def notices(host: Host, versions_dir: Path, version: str) -> list[str]:
    """What people should hear of a staged version beside the default: install scripts that are new, a provenance that is lost."""
    former = slots.default_version(host.settings.paths.versions_dir)
    new = noted(versions_dir, version)
    found = (
        [f"install scripts of {version} ran in no cell: {new['in_reach_of_scripts']}"]
        if new.get("in_reach_of_scripts")
        else []
    )
    if former in (None, version) or not slots.has_slot(host.settings.paths.versions_dir, former):
        return found
    old = noted(host.settings.paths.versions_dir, former)
    scripts = set(new.get("install_scripts", [])) - set(old.get("install_scripts", new.get("install_scripts", [])))
    if scripts:
        found.append(f"{version} brings install scripts that {former} has not: {', '.join(sorted(scripts))}")
    if new.get("provenance") is False and (old["provenance"] if "provenance" in old else _has_provenance(host, former)):
        found.append(f"{version} has no provenance, {former} has: who built it is not known")
    before: dict[str, Part] = old.get("parts", {})
    for name, part in new.get("parts", {}).items():
        if not part["provenance"] and name in before and before[name]["provenance"]:
            found.append(
                f"{name}@{part['version']} has no provenance, {before[name]['version']} has: who built it is not known"
            )
    known = {_bare(each) for each in old.get("left_out", [])}
    if left_out := [each for each in new.get("left_out", []) if _bare(each) not in known]:
        found.append(f"npm left out optional packages of {version}: {', '.join(left_out)}")
    return found


def _bare(target: str) -> str:
    """The name in NAME@VERSION."""
    return target[0] + target[1:].partition("@")[0]


def _has_provenance(host: Host, version: str) -> bool:
    """Asks the registry, once, about a version whose slot does not say."""
    with suppress(RegistryUnreachable):
        words = [f"{host.settings.track.package}@{version}", "dist.attestations"]
        return bool(view(host, words, patiently=False))
    return False
