"""A local npm registry with a few packages. `registry_server.py` serves it.

Its client is the real npm. Its state is files, read at each request, so that any process can publish or break it while
it runs: `DIR/tarballs/PACKAGE/VERSION.tgz` (a scope's slash is written %2f), and `DIR/registry.json` = {"packages": {PACKAGE:
{"tags": {TAG: VERSION}, "times": {VERSION: TIME}, "attested": {VERSION: true}}}, "faults": [{FAULT: VALUE}], "token":
{"sha256": OF_THE_TOKEN}}; what it signed is below `DIR/signing`.
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
    "down": "connections are closed without an answer",
    "hang": "nothing is ever answered",
    "slow_seconds": "each answer comes that much later",
    "status": "every answer has this status, 500, 503 or 404",
    "html": "every answer is 200 with a web page",
    "corrupt": "tarballs do not match their checksums",
    "truncate": "tarballs end in the middle",
    "unsigned": "versions come without the signatures that the registry made",
    "bad_signature": "versions come with signatures of something else",
    "bad_attestation": "attestations are signed by somebody else",
    "no_integrity": "versions come without their checksum",
    "other_integrity": "who only looks is told another checksum than who installs",
    "no_times": "the full document does not say when versions were published",
    "without": "documents do not have this version yet; its tarball is there",
    "lagging": "who installs is told nothing of this version yet, who only looks is",
    "only": "the others hold for `tarball` or for `packument` requests alone",
    "package": "the others hold for this package alone",
    "until": "the others end at this time (epoch seconds)",
}
LIMITS = {"only", "package", "until"}
"""Faults that only say where and when the others hold."""


class Package(TypedDict):
    """What is stored of one package beside its tarballs."""

    tags: dict[str, str]
    times: dict[str, str]
    attested: dict[str, bool]


class State(TypedDict):
    """What is stored of a registry: packages by name, groups of faults, the token that it wants ({}: none)."""

    packages: dict[str, Package]
    faults: list[dict[str, Any]]
    token: dict[str, str]


class Registry:
    """A registry's state in a folder. Any process may change it; a running server shows it in its next answer."""

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
        """Publishes a tarball as a version, as of now or `published`, and (given) points a tag at it.

        The package is the one that the tarball's package.json names, or `package`. A version that exists is replaced.
        Raises OSError, and tarfile.TarError or KeyError for what is no npm package.
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
        """Takes a version away; tags that lead to it stay, as dangling as they can be on a real registry."""
        self.tarball(version, package).unlink(missing_ok=True)
        with self._update_package(package) as record:
            record["times"].pop(version, None)

    def set_tag(self, tag: str, version: str, package: str = PACKAGE) -> None:
        """Points a dist-tag at a version."""
        with self._update_package(package) as record:
            record["tags"][tag] = version

    def tarball(self, version: str, package: str = PACKAGE) -> Path:
        """Where the tarball of a version is or would be."""
        return self.tarballs / _escaped(package) / f"{version}.tgz"

    def versions(self, package: str = PACKAGE) -> list[str]:
        """The versions of a package that have a tarball; none for a package that the registry does not know."""
        return sorted(path.stem for path in (self.tarballs / _escaped(package)).glob("[0-9]*.tgz"))

    # Signing --------------------------------------------------------------------------------------------------------

    @property
    def keys(self) -> Path:
        """The keys that it serves, if it signs."""
        return self.folder / "signing" / "keys.json"

    def enable_signatures(self) -> None:
        """From now on the registry has keys and signs: what is there, and what is published later."""
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
        """The signature and the attestation of a version, or None where it is not signed."""
        with suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads(self._signature_file(package, version).read_text())
            return found
        return None

    def attest(self, version: str, package: str = PACKAGE) -> None:
        """Says from now on that the version has an attestation; one that verifies is there if the registry signs."""
        with self._update_package(package) as record:
            record["attested"][version] = True

    def require_token(self, token: str) -> None:
        """Answers from now on only who brings this token; only its checksum is stored."""
        with self._update_state() as state:
            state["token"] = {"sha256": hashlib.sha256(token.encode()).hexdigest()}

    # Faults ---------------------------------------------------------------------------------------------------------

    def set_faults(self, **faults: Any) -> None:
        """Gives the registry these faults of FAULTS in place of those before; none: it is well. Raises ValueError."""
        self._check(faults)
        with self._update_state() as state:
            state["faults"] = [faults] if faults else []

    def add_faults(self, **faults: Any) -> None:
        """Gives the registry these faults of FAULTS beside those before, with `only`, `package` and `until` of their own. Raises ValueError."""
        self._check(faults)
        with self._update_state() as state:
            state["faults"].append(faults)

    @staticmethod
    def _check(faults: dict[str, Any]) -> None:
        unknown = faults.keys() - FAULTS.keys()
        if unknown:
            raise ValueError(f"unknown faults {', '.join(sorted(unknown))}: known are {', '.join(FAULTS)}")

    def faults(self, package: str, kind: str) -> dict[str, Any]:
        """The faults that a request about a package (or "") meets now; `kind` is `tarball` or `packument`."""
        found: dict[str, Any] = {}
        for group in self.state()["faults"]:
            holds = group.get("only", kind) == kind and group.get("package", package) == package
            if holds and time.time() < group.get("until", float("inf")):
                found |= {name: value for name, value in group.items() if name not in LIMITS}
        return found

    # Reading --------------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Packages, faults and token as they are now."""
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
        """What is stored of one package; empty for one that nothing is stored of."""
        return self.state()["packages"].get(package) or {"tags": {}, "times": {}, "attested": {}}

    def packument(
        self, url: str, package: str = PACKAGE, *, abbreviated: bool = False, for_view: bool = False
    ) -> dict[str, Any]:
        """All that the registry says of a package; `url` is the registry's own, for the tarballs' addresses. `for_view`: to `npm view`."""
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
        """What `dist` says of signatures and attestations."""
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
        """What is stored of one package, to be changed."""
        with self._update_state() as state:
            yield state["packages"].setdefault(package, {"tags": {}, "times": {}, "attested": {}})

    @contextmanager
    def _update_state(self) -> Iterator[State]:
        """The state, to be changed by one process at a time and stored by one rename."""
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
    """The package.json and the checksums of a tarball; what it was when it changed last is part of the key."""
    with tarfile.open(path, "r:gz") as archive:
        file = archive.extractfile("package/package.json")
        manifest: dict[str, Any] = json.load(file) if file else {}
    content = path.read_bytes()
    integrity = base64.b64encode(hashlib.sha512(content).digest()).decode()
    return manifest, {"shasum": hashlib.sha1(content).hexdigest(), "integrity": f"sha512-{integrity}"}  # noqa: S324


def _time_text(epoch_seconds: float) -> str:
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
