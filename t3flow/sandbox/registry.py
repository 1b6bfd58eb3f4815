"""A local npm registry for the real npm. `registry_server.py` serves it.

All state is in files that are read at each request, so that any process can publish to it or break it while it runs:
`DIR/tarballs/PACKAGE/VERSION.tgz` (with %2f for the slash of a scope), and `DIR/registry.json` = {"packages": {PACKAGE:
{"tags": {TAG: VERSION}, "times": {VERSION: TIME}, "attested": {VERSION: true}}}, "faults": [{FAULT: VALUE}], "token":
{"sha256": OF_THE_TOKEN}}. Signatures are below `DIR/signing`.
"""

import base64
import fcntl
import hashlib
import json
import os
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

from t3flow.sandbox import signing

PACKAGE = "t3"
IN_ABBREVIATED = {
    "name",
    "version",
    "bin",
    "dependencies",
    "optionalDependencies",
    "peerDependencies",
    "peerDependenciesMeta",
    "bundleDependencies",
    "engines",
    "os",
    "cpu",
    "libc",
    "deprecated",
}
FAULTS = {
    "down": "connections are closed without a response",
    "hang": "requests get no response",
    "slow_seconds": "each response is delayed by this time",
    "status": "every response has this status, 500, 503 or 404",
    "html": "every response is 200 with a web page",
    "corrupt": "tarballs do not match their checksums",
    "truncate": "tarballs are cut in the middle",
    "unsigned": "versions have no signatures",
    "bad_signature": "versions have signatures of other content",
    "bad_attestation": "attestations have the signature of another key",
    "no_integrity": "versions have no checksum",
    "other_integrity": "`npm view` gets another checksum than `npm install`",
    "no_times": "the full document has no publishing times",
    "without": "documents do not list this version yet, but its tarball exists",
    "lagging": "`npm install` does not get this version yet, `npm view` does",
    "only": "limits the other faults to `tarball` or `packument` requests",
    "package": "limits the other faults to this package",
    "until": "the other faults end at this time (epoch seconds)",
}
LIMITS = {"only", "package", "until"}
"""Keys that limit the other faults."""


class Package(TypedDict):
    """Stored data of a package, besides its tarballs."""

    tags: dict[str, str]
    times: dict[str, str]
    attested: dict[str, bool]


class State(TypedDict):
    """Stored data of a registry: packages by name, groups of faults, the required token ({}: none)."""

    packages: dict[str, Package]
    faults: list[dict[str, Any]]
    token: dict[str, str]


class Registry:
    """A registry in a folder. Any process may change it; a running server uses the change in its next response."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tarballs = folder / "tarballs"
        self.tarballs.mkdir(parents=True, exist_ok=True)

    # Publishing -----------------------------------------------------------------------------------------------------

    def publish(
        self,
        version: str,
        tarball: Path,
        tag: str | None = None,
        *,
        package: str = "",
        published: datetime | None = None,
    ) -> None:
        """Publish a tarball as a version, at the time `published` (default: now), and point `tag` at it, if given.

        The package is `package`, or that of the tarball's package.json. An existing version is replaced.
        Raise OSError, and tarfile.TarError or KeyError if the tarball is not an npm package.
        """
        status = tarball.stat()
        manifest, _ = _read_tarball(tarball, status.st_mtime_ns, status.st_size)
        package = package or manifest["name"]
        target = self.tarball(version, package)
        target.parent.mkdir(exist_ok=True)
        partial = target.with_name(f".{version}.{os.getpid()}")
        partial.write_bytes(tarball.read_bytes())
        partial.replace(target)
        if self.keys.exists():
            self._sign(package, version)
        with self._update_package(package) as record:
            record["times"][version] = _time_text((published or datetime.now(UTC)).timestamp())
            if tag is not None:
                record["tags"][tag] = version

    def unpublish(self, version: str, package: str = PACKAGE) -> None:
        """Remove a version. Its tags stay and dangle, as on a real registry."""
        self.tarball(version, package).unlink(missing_ok=True)
        with self._update_package(package) as record:
            record["times"].pop(version, None)

    def set_tag(self, tag: str, version: str, package: str = PACKAGE) -> None:
        """Point a dist-tag at a version."""
        with self._update_package(package) as record:
            record["tags"][tag] = version

    def tarball(self, version: str, package: str = PACKAGE) -> Path:
        """Return the path of a version's tarball, which may not exist."""
        return self.tarballs / _escaped(package) / f"{version}.tgz"

    def versions(self, package: str = PACKAGE) -> list[str]:
        """Return the versions of a package that have a tarball; none for an unknown package."""
        return sorted(path.stem for path in (self.tarballs / _escaped(package)).glob("[0-9]*.tgz"))

    # Signing --------------------------------------------------------------------------------------------------------

    @property
    def keys(self) -> Path:
        """Return the file with the public keys; it exists if the registry signs."""
        return self.folder / "signing" / "keys.json"

    def enable_signatures(self) -> None:
        """Create keys, and sign all existing and future versions."""
        signing.make_keys(self.keys.parent)
        for folder in self.tarballs.iterdir():
            package = folder.name.replace("%2f", "/")
            for version in self.versions(package):
                self._sign(package, version)

    def _sign(self, package: str, version: str) -> None:
        status = self.tarball(version, package).stat()
        _, checksums = _read_tarball(self.tarball(version, package), status.st_mtime_ns, status.st_size)
        signed = signing.sign(self.keys.parent, package, version, checksums["integrity"])
        target = self._signature_file(package, version)
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(signed))

    def _signature_file(self, package: str, version: str) -> Path:
        return self.keys.parent / _escaped(package) / f"{version}.json"

    def signed(self, version: str, package: str = PACKAGE) -> dict[str, Any] | None:
        """Return the signature and the attestation of a version, or None if it is not signed."""
        with suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads(self._signature_file(package, version).read_text())
            return found
        return None

    def attest(self, version: str, package: str = PACKAGE) -> None:
        """Claim an attestation for the version. It verifies if the registry signs."""
        with self._update_package(package) as record:
            record["attested"][version] = True

    def require_token(self, token: str) -> None:
        """Require this token in requests. Only its checksum is stored."""
        with self._update_state() as state:
            state["token"] = {"sha256": hashlib.sha256(token.encode()).hexdigest()}

    # Faults ---------------------------------------------------------------------------------------------------------

    def set_faults(self, **faults: Any) -> None:
        """Replace all faults with these of FAULTS; none repairs the registry. Raise ValueError."""
        self._check(faults)
        with self._update_state() as state:
            state["faults"] = [faults] if faults else []

    def add_faults(self, **faults: Any) -> None:
        """Add faults of FAULTS as a group with its own `only`, `package` and `until`. Raise ValueError."""
        self._check(faults)
        with self._update_state() as state:
            state["faults"].append(faults)

    @staticmethod
    def _check(faults: dict[str, Any]) -> None:
        unknown = faults.keys() - FAULTS.keys()
        if unknown:
            raise ValueError(f"unknown faults {', '.join(sorted(unknown))}: the faults are {', '.join(FAULTS)}")

    def faults(self, package: str, kind: str) -> dict[str, Any]:
        """Return the faults of a request about a package (or "") now. `kind` is `tarball` or `packument`."""
        found: dict[str, Any] = {}
        for group in self.state()["faults"]:
            holds = group.get("only", kind) == kind and group.get("package", package) == package
            if holds and time.time() < group.get("until", float("inf")):
                found |= {name: value for name, value in group.items() if name not in LIMITS}
        return found

    # Reading --------------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the current packages, faults and token."""
        try:
            stored = json.loads((self.folder / "registry.json").read_text())
        except FileNotFoundError:
            stored = {}
        return {
            "packages": stored.get("packages") or {},
            "faults": stored.get("faults") or [],
            "token": stored.get("token") or {},
        }

    def package(self, package: str = PACKAGE) -> Package:
        """Return the stored data of a package; empty for an unknown one."""
        return self.state()["packages"].get(package) or {"tags": {}, "times": {}, "attested": {}}

    def packument(
        self, url: str, package: str = PACKAGE, *, abbreviated: bool = False, for_view: bool = False
    ) -> dict[str, Any]:
        """Return the document of a package. `url` is the registry's, for the URLs of tarballs; `for_view` is set for `npm view`."""
        record, faults = self.package(package), self.faults(package, "packument")
        hidden = {faults.get("without"), None if for_view else faults.get("lagging")}
        versions, times = {}, {}
        for version in self.versions(package):
            if version in hidden:
                continue
            path = self.tarball(version, package)
            status = path.stat()
            manifest, checksums = _read_tarball(path, status.st_mtime_ns, status.st_size)
            address = f"{url}/{package}/-/{package.rpartition('/')[2]}-{version}.tgz"
            dist = {**checksums, "tarball": address} | self._provenance(package, version, url)
            if faults.get("no_integrity"):
                del dist["integrity"]
            elif faults.get("other_integrity") and for_view:
                dist["integrity"] = "sha512-" + base64.b64encode(bytes(64)).decode()
            scripts = manifest.get("scripts", {})
            if abbreviated:
                manifest = {key: value for key, value in manifest.items() if key in IN_ABBREVIATED}
            if scripts.keys() & {"preinstall", "install", "postinstall"}:
                manifest = {**manifest, "hasInstallScript": True}
            versions[version] = {**manifest, "name": package, "version": version, "dist": dist}
            times[version] = record["times"].get(version) or _time_text(status.st_mtime)
        modified = max(times.values(), default=_time_text(0))
        answer = {"name": package, "dist-tags": record["tags"], "versions": versions, "modified": modified}
        if abbreviated:
            return answer
        if faults.get("no_times"):
            return {"_id": package, **answer}
        created = min(times.values(), default=_time_text(0))
        return {"_id": package, **answer, "time": {"created": created, "modified": modified, **times}}

    def _provenance(self, package: str, version: str, url: str) -> dict[str, Any]:
        """Return the signatures and attestations for `dist`."""
        faults, signed = self.faults(package, "packument"), self.signed(version, package)
        found: dict[str, Any] = {}
        if signed is not None and not faults.get("unsigned"):
            signature = dict(signed["signature"])
            if faults.get("bad_signature"):
                signature["sig"] = signed["attestation"]["bundle"]["dsseEnvelope"]["signatures"][0]["sig"]
            found["signatures"] = [signature]
        if version in self.package(package)["attested"]:
            address = f"{url}/-/npm/v1/attestations/{_escaped(package)}@{version}"
            found["attestations"] = {
                "url": address,
                "provenance": {"predicateType": "https://slsa.dev/provenance/v1"},
            }
        return found

    # Storing --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _update_package(self, package: str) -> Iterator[Package]:
        """Yield the stored data of a package, to be changed."""
        with self._update_state() as state:
            yield state["packages"].setdefault(package, {"tags": {}, "times": {}, "attested": {}})

    @contextmanager
    def _update_state(self) -> Iterator[State]:
        """Yield the state, to be changed by one process at a time, and store it by one rename."""
        with (self.folder / "registry.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.state()
            yield state
            partial = self.folder / "registry.json.partial"
            partial.write_text(json.dumps(state, indent=2))
            partial.replace(self.folder / "registry.json")


def _escaped(package: str) -> str:
    return package.replace("/", "%2f")


@lru_cache(maxsize=256)
def _read_tarball(path: Path, changed_ns: int, size_bytes: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the package.json and the checksums of a tarball. Time and size are part of the cache key."""
    with tarfile.open(path, "r:gz") as archive:
        file = archive.extractfile("package/package.json")
        manifest: dict[str, Any] = json.load(file) if file else {}
    content = path.read_bytes()
    integrity = base64.b64encode(hashlib.sha512(content).digest()).decode()
    return manifest, {"shasum": hashlib.sha1(content).hexdigest(), "integrity": f"sha512-{integrity}"}  # noqa: S324


def _time_text(epoch_seconds: float) -> str:
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
