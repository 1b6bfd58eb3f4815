"""Have npm check the signatures and provenance of everything that was downloaded."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from t3flow.host import http_client
from t3flow.host.children import Finished
from t3flow.host.host import Host
from t3flow.host.npm.command import UNREACHABLE, PackageError, RegistryUnreachable
from t3flow.host.npm.messages import error_line
from t3flow.host.npm.npmrc import auth_token
from t3flow.host.npm.registry import setting

KEYS_PATH = "/-/npm/v1/keys"
KEYS_SECONDS = 10.0
NO_KEYS = "not checked: the registry has no signing keys"
OFF = "not checked: npm.verify_signatures is off"
VERIFIED = "verified"
NOTHING_SIGNED = "no dependencies to audit"


def verify_signatures(host: Host, spec: str, audit: Callable[[], Finished]) -> str:
    """Check the signatures and provenance of all packages as `npm.verify_signatures` demands. Return `verified`, or why they were not checked.

    `audit` runs `npm audit signatures --json`. Raises PackageError if one is missing or invalid, RegistryUnreachable if npm cannot tell.
    """
    wanted = host.settings.npm.verify_signatures
    if wanted == "off":
        return OFF
    if _has_no_keys(host):
        return _without_keys(spec, wanted)
    finished = audit()
    try:
        report = json.loads(finished.stdout)
        missing, invalid = report.get("missing", []), report.get("invalid", [])
        faults = [f"no signature of {each['name']}@{each['version']}" for each in missing]
        faults += [f"{_kind(each)} of {each['name']}@{each['version']} is invalid" for each in invalid]
    except (ValueError, AttributeError, TypeError, KeyError):
        report, faults = {}, []
    if faults:
        some = ", ".join(faults[:5]) + (f" and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise PackageError(f"{spec} is refused because it may have been tampered with: {some}; ask its publisher")
    if finished.code == 0 and "missing" in report and "invalid" in report:
        return VERIFIED
    reason = error_line(finished)
    if NOTHING_SIGNED in reason:
        return _without_keys(spec, wanted)
    if UNREACHABLE.search(reason):
        hint = 'npm needs the registry and sigstore\'s keys; if it cannot reach them: npm.verify_signatures = "off"'
        raise RegistryUnreachable(f"npm cannot check the signatures of {spec}: {reason}; {hint}")
    raise PackageError(f"{spec} is refused because its signatures do not verify: {reason}; ask its publisher")


def _kind(entry: dict[str, Any]) -> str:
    return "the attestation" if entry.get("code") == "EATTESTATIONVERIFY" else "the signature"


def _without_keys(spec: str, wanted: str) -> str:
    if wanted == "require":
        raise PackageError(
            f"{spec} is refused: its registry has no signing keys and npm.verify_signatures is require; "
            'for a registry that signs nothing, set it to "auto"'
        )
    return NO_KEYS


def _has_no_keys(host: Host) -> bool:
    """Return whether the registry clearly answers, as npm understands it, that it has no keys. Any other answer is left to npm's own check."""
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
    """Return the registry's answer about its keys, or None if it does not answer."""
    with suppress(OSError):
        return http_client.request(registry.rstrip("/") + KEYS_PATH, headers=headers, timeout_seconds=KEYS_SECONDS)
    return None
