"""usage: python -m t3flow.sandbox.registry_server --folder DIR [--port PORT]: serves a local npm registry with faults."""

import argparse
import hashlib
import json
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from t3flow.sandbox.registry import Registry
from t3flow.sandbox.serving import LocalServer, serve_until_terminated

ABBREVIATED = "application/vnd.npm.install-v1+json"
ATTESTATIONS = "/-/npm/v1/attestations/"
DIST_TAGS = "/dist-tags"
KEY_REPOSITORY = {
    *(f"/tuf/{name}.json" for name in ("root", "timestamp", "snapshot", "targets")),
    "/tuf/targets/trusted_root.json",
}


class RegistryServer(LocalServer):
    """Serve a Registry on 127.0.0.1. Port 0 chooses a free one."""

    def __init__(self, registry: Registry, port: int = 0) -> None:
        self.registry = registry
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RegistryServer

    def do_GET(self) -> None:
        """Answer, or simulate the faults."""
        path = unquote(self.path.partition("?")[0])
        registry = self.server.registry
        package, token = package_of(path), registry.state()["token"]
        faults = registry.faults(package, "tarball" if path.endswith(".tgz") else "packument")
        time.sleep(float(faults.get("slow_seconds", 0)))
        if faults.get("hang"):
            self.connection.recv(1)  # blocks until the client disconnects
        if faults.get("hang") or faults.get("down"):
            self.close_connection = True
        elif faults.get("html"):
            self._send(200, b"<!doctype html><title>Please sign in</title>", "text/html")
        elif faults.get("status"):
            self._json(int(faults["status"]), {"error": "the registry is out of order"})
        elif token and not path.startswith("/tuf/") and not self._has_token(token["sha256"]):
            self._json(401, {"error": "a token is required"})
        else:
            self._answer(path, package, faults)

    def _has_token(self, wanted_sha256: str) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return hashlib.sha256(token.encode()).hexdigest() == wanted_sha256

    def _answer(self, path: str, package: str, faults: dict[str, Any]) -> None:
        registry = self.server.registry
        if path == "/-/ping":
            self._json(200, {})
        elif path == "/-/npm/v1/keys" and registry.keys.exists():
            self._json(200, json.loads(registry.keys.read_text()))
        elif path in KEY_REPOSITORY and registry.keys.exists():
            self._send(200, (registry.keys.parent / path[1:]).read_bytes(), "application/json")
        elif path.startswith(ATTESTATIONS):
            self._attestation(package, path.rpartition("@")[2], faults)
        elif not package or not registry.versions(package):
            self._json(404, {"error": "Not found"})
        elif path.endswith(DIST_TAGS):
            self._json(200, registry.package(package)["tags"])
        elif path.endswith(".tgz"):
            name = path.rpartition("/")[2].removesuffix(".tgz")
            self._tarball(registry.tarball(name.removeprefix(f"{package.rpartition('/')[2]}-"), package), faults)
        else:
            self._packument(package)

    def _packument(self, package: str) -> None:
        short = ABBREVIATED in self.headers.get("Accept", "")
        for_view = self.headers.get("npm-command") == "view"
        said = self.server.registry.packument(self.server.url, package, abbreviated=short, for_view=for_view)
        self._json(200, said, ABBREVIATED if short else "")

    def _attestation(self, package: str, version: str, faults: dict[str, Any]) -> None:
        registry = self.server.registry
        signed = registry.signed(version, package)
        if signed is None or version not in registry.package(package)["attested"]:
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
            content[4] ^= 0xFF  # a date in the gzip header: it still unpacks, with another checksum
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
        """Log one line for each request."""
        print(f"{self.command} {self.path} {args[1] if len(args) > 1 else ''}".rstrip(), flush=True)


def package_of(path: str) -> str:
    """Return the package of an unquoted request path, or ""."""
    if path.startswith(ATTESTATIONS):
        return path.removeprefix(ATTESTATIONS).rpartition("@")[0]
    if path.startswith("/-/package/") and path.endswith(DIST_TAGS):
        return path.removeprefix("/-/package/").removesuffix(DIST_TAGS)
    name = path[1:].partition("/-/")[0]
    return "" if name.startswith(("-/", "tuf/")) else name


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m t3flow.sandbox.registry_server")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    serve_until_terminated(RegistryServer(Registry(arguments.folder), arguments.port))


if __name__ == "__main__":
    main()
