"""usage: python -m t3flow.sandbox.registry --folder DIR [--port PORT]: a local npm registry with one package.

Its client is the real npm. Its state is files, read at each request, so that any process can publish or break it while
it runs: `DIR/tarballs/VERSION.tgz`, and `DIR/registry.json` = {"tags": {TAG: VERSION}, "times": {VERSION: TIME},
"faults": {NAME: VALUE}, "attested": {VERSION: true}, "token": {"sha256": OF_THE_TOKEN}}; what it signed is below `DIR/signing`.
"""

import argparse
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
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from t3flow.sandbox import signing
from t3flow.sandbox.serving import LocalServer, serve_until_terminated

PACKAGE = "t3"
ABBREVIATED = "application/vnd.npm.install-v1+json"
IN_ABBREVIATED = {
    "name",
    "version",
    "bin",
    "dependencies",
    "optionalDependencies",
    "engines",
    "os",
    "cpu",
    "deprecated",
}
KEY_REPOSITORY = {
    *(f"/tuf/{name}.json" for name in ("root", "timestamp", "snapshot", "targets")),
    "/tuf/targets/trusted_root.json",
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
    "only": "the others hold for `tarball` or for `packument` requests alone",
}


class Registry:
    """A registry's state in a folder. Any process may change it; a running server shows it in its next answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tarballs = folder / "tarballs"
        self.tarballs.mkdir(parents=True, exist_ok=True)

    def publish(
        self, version: str, tarball: Path, tag: str | None = None, *, published: datetime | None = None
    ) -> None:
        """Publishes a tarball as a version, as of now or `published`, and (given) points a tag at it.

        A version that exists is replaced. Raises OSError, and tarfile.TarError or KeyError for what is no npm package.
        """
        status = tarball.stat()
        _read_tarball(tarball, status.st_mtime_ns, status.st_size)
        partial = self.tarballs / f".{version}.{os.getpid()}"
        partial.write_bytes(tarball.read_bytes())
        partial.replace(self.tarball(version))
        if self.keys.exists():
            self._sign(version)
        with self._changing() as state:
            state["times"][version] = _time_text((published or datetime.now(UTC)).timestamp())
            if tag is not None:
                state["tags"][tag] = version

    def unpublish(self, version: str) -> None:
        """Takes a version away; tags that lead to it stay, as dangling as they can be on a real registry."""
        self.tarball(version).unlink(missing_ok=True)
        with self._changing() as state:
            state["times"].pop(version, None)

    def set_tag(self, tag: str, version: str) -> None:
        """Points a dist-tag at a version."""
        with self._changing() as state:
            state["tags"][tag] = version

    def remove_tag(self, tag: str) -> None:
        """Takes a dist-tag away."""
        with self._changing() as state:
            state["tags"].pop(tag, None)

    @property
    def keys(self) -> Path:
        """The keys that it serves, if it signs."""
        return self.folder / "signing" / "keys.json"

    def enable_signatures(self) -> None:
        """From now on the registry has keys and signs: what is there, and what is published later."""
        signing.make_keys(self.keys.parent)
        for path in self.tarballs.glob("[0-9]*.tgz"):
            self._sign(path.stem)

    def _sign(self, version: str) -> None:
        status = self.tarball(version).stat()
        _, checksums = _read_tarball(self.tarball(version), status.st_mtime_ns, status.st_size)
        signed = signing.sign(self.keys.parent, PACKAGE, version, checksums["integrity"])
        (self.keys.parent / f"{version}.json").write_text(json.dumps(signed))

    def signed(self, version: str) -> dict[str, Any] | None:
        """The signature and the attestation of a version, or None where it is not signed."""
        with suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((self.keys.parent / f"{version}.json").read_text())
            return found
        return None

    def attest(self, version: str) -> None:
        """Says from now on that the version has an attestation; one that verifies is there if the registry signs."""
        with self._changing() as state:
            state["attested"][version] = True

    def require_token(self, token: str) -> None:
        """Answers from now on only who brings this token; only its checksum is stored."""
        with self._changing() as state:
            state["token"] = {"sha256": hashlib.sha256(token.encode()).hexdigest()}

    def set_faults(self, **faults: Any) -> None:
        """Gives the registry these faults of FAULTS in place of those before; none: it is well. Raises ValueError."""
        unknown = faults.keys() - FAULTS.keys()
        if unknown:
            raise ValueError(f"unknown faults {', '.join(sorted(unknown))}: known are {', '.join(FAULTS)}")
        with self._changing() as state:
            state["faults"] = faults

    def state(self) -> dict[str, dict[str, Any]]:
        """Tags, times, faults and the like as they are now."""
        try:
            stored = json.loads((self.folder / "registry.json").read_text())
        except FileNotFoundError:
            stored = {}
        return {key: stored.get(key) or {} for key in ("tags", "times", "faults", "attested", "token")}

    def tarball(self, version: str) -> Path:
        """Where the tarball of a version is or would be."""
        return self.tarballs / f"{version}.tgz"

    def packument(self, url: str, *, abbreviated: bool = False, looking: bool = False) -> dict[str, Any]:
        """All that the registry says of the package; `url` is the registry's own, for the tarballs' addresses. `looking`: to `npm view`."""
        state = self.state()
        versions, times = {}, {}
        for path in sorted(self.tarballs.glob("[0-9]*.tgz")):
            version, status = path.stem, path.stat()
            manifest, checksums = _read_tarball(path, status.st_mtime_ns, status.st_size)
            dist = {**checksums, "tarball": f"{url}/{PACKAGE}/-/{PACKAGE}-{version}.tgz"} | self._vouched(version, url)
            if state["faults"].get("no_integrity"):
                del dist["integrity"]
            elif state["faults"].get("other_integrity") and looking:
                dist["integrity"] = "sha512-" + base64.b64encode(bytes(64)).decode()
            scripts = manifest.get("scripts", {})
            if abbreviated:
                manifest = {key: value for key, value in manifest.items() if key in IN_ABBREVIATED}
            if scripts.keys() & {"preinstall", "install", "postinstall"}:
                manifest = {**manifest, "hasInstallScript": True}
            versions[version] = {**manifest, "name": PACKAGE, "version": version, "dist": dist}
            times[version] = state["times"].get(version) or _time_text(status.st_mtime)
        modified = max(times.values(), default=_time_text(0))
        answer = {"name": PACKAGE, "dist-tags": state["tags"], "versions": versions, "modified": modified}
        if abbreviated:
            return answer
        if state["faults"].get("no_times"):
            return {"_id": PACKAGE, **answer}
        created = min(times.values(), default=_time_text(0))
        return {"_id": PACKAGE, **answer, "time": {"created": created, "modified": modified, **times}}

    def _vouched(self, version: str, url: str) -> dict[str, Any]:
        """What `dist` says of signatures and attestations."""
        state, signed = self.state(), self.signed(version)
        found: dict[str, Any] = {}
        if signed is not None and not state["faults"].get("unsigned"):
            signature = dict(signed["signature"])
            if state["faults"].get("bad_signature"):
                signature["sig"] = signed["attestation"]["bundle"]["dsseEnvelope"]["signatures"][0]["sig"]
            found["signatures"] = [signature]
        if version in state["attested"]:
            address = f"{url}/-/npm/v1/attestations/{PACKAGE}@{version}"
            found["attestations"] = {
                "url": address,
                "provenance": {"predicateType": "https://slsa.dev/provenance/v1"},
            }
        return found

    @contextmanager
    def _changing(self) -> Iterator[dict[str, dict[str, Any]]]:
        """The state, to be changed by one process at a time and stored by one rename."""
        with (self.folder / "registry.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.state()
            yield state
            partial = self.folder / "registry.json.partial"
            partial.write_text(json.dumps(state, indent=2))
            partial.replace(self.folder / "registry.json")


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


class RegistryServer(LocalServer):
    """Serves a Registry on 127.0.0.1; port 0 takes a free one."""

    def __init__(self, registry: Registry, port: int = 0) -> None:
        self.registry = registry
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RegistryServer

    def do_GET(self) -> None:
        """Answers, or does what the faults say."""
        path = unquote(self.path.partition("?")[0])
        state = self.server.registry.state()
        faults = state["faults"]
        if faults.get("only", self._kind(path)) != self._kind(path):
            faults = {}
        time.sleep(float(faults.get("slow_seconds", 0)))
        if faults.get("hang"):
            self.connection.recv(1)  # until the client gives up
        if faults.get("hang") or faults.get("down"):
            self.close_connection = True
        elif faults.get("html"):
            self._send(200, b"<!doctype html><title>Please sign in</title>", "text/html")
        elif faults.get("status"):
            self._json(int(faults["status"]), {"error": "the registry is out of order"})
        elif state["token"] and not path.startswith("/tuf/") and not self._brings(state["token"]["sha256"]):
            self._json(401, {"error": "a token is required"})
        else:
            self._answer(path, faults)

    def _brings(self, wanted_sha256: str) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return hashlib.sha256(token.encode()).hexdigest() == wanted_sha256

    def _kind(self, path: str) -> str:
        return "tarball" if path.endswith(".tgz") else "packument"

    def _answer(self, path: str, faults: dict[str, Any]) -> None:
        registry = self.server.registry
        prefix = f"/{PACKAGE}/-/{PACKAGE}-"
        if path == f"/{PACKAGE}":
            short = ABBREVIATED in self.headers.get("Accept", "")
            looking = self.headers.get("npm-command") == "view"
            said = registry.packument(self.server.url, abbreviated=short, looking=looking)
            self._json(200, said, ABBREVIATED if short else "")
        elif path == f"/-/package/{PACKAGE}/dist-tags":
            self._json(200, registry.state()["tags"])
        elif path == "/-/ping":
            self._json(200, {})
        elif path == "/-/npm/v1/keys" and registry.keys.exists():
            self._json(200, json.loads(registry.keys.read_text()))
        elif path.startswith(f"/-/npm/v1/attestations/{PACKAGE}@"):
            self._attestation(path.rpartition("@")[2], faults)
        elif path in KEY_REPOSITORY and registry.keys.exists():
            self._send(200, (registry.keys.parent / path[1:]).read_bytes(), "application/json")
        elif path.startswith(prefix) and path.endswith(".tgz") and "/" not in path[len(prefix) :]:
            self._tarball(registry.tarball(path[len(prefix) : -len(".tgz")]), faults)
        else:
            self._json(404, {"error": "Not found"})

    def _attestation(self, version: str, faults: dict[str, Any]) -> None:
        state, signed = self.server.registry.state(), self.server.registry.signed(version)
        if signed is None or version not in state["attested"]:
            self._json(404, {"error": "Not found"})
            return
        if faults.get("bad_attestation"):
            signed["attestation"]["bundle"]["dsseEnvelope"]["signatures"][0]["sig"] = signed["signature"]["sig"]
        self._json(200, {"attestations": [signed["attestation"]]})

    def _tarball(self, path: Path, faults: dict[str, Any]) -> None:
        if not path.is_file():
            self._json(404, {"error": "Not found"})
            return
        content = bytearray(path.read_bytes())
        if faults.get("corrupt"):
            content[4] ^= 0xFF  # a date in the header of the gzip: it unpacks as before, its checksum is another
        if faults.get("truncate"):
            self._send(200, bytes(content[: len(content) // 2]), "application/octet-stream", length=len(content))
            self.close_connection = True
            return
        self._send(200, bytes(content), "application/octet-stream")

    def _json(self, status: int, value: Any, kind: str = "") -> None:
        self._send(status, json.dumps(value).encode(), kind or "application/json")

    def _send(self, status: int, body: bytes, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """One line a request."""
        print(f"{self.command} {self.path} {args[1] if len(args) > 1 else ''}".rstrip(), flush=True)


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(prog="python -m t3flow.sandbox.registry")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    serve_until_terminated(RegistryServer(Registry(arguments.folder), arguments.port))


if __name__ == "__main__":
    main()
