"""usage: python tests/real/verdaccio.py: fetches verdaccio, a registry as people run it, and prints where it is.

npm downloads exactly what `registry/package-lock.json` pins by checksum, and runs nothing of it. Exit status 2: npm cannot fetch it here.

`Verdaccio` is that registry as the registry of a sandbox: on the loopback device, without a registry behind it. Anyone may read. Publishing needs
the token of its one account, which the sandbox's own npm does not get.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from t3flow.sandbox import real
from t3flow.sandbox.host import Sandbox, free_port

PINNED = Path(__file__).parent / "registry"
FILES = ("package.json", "package-lock.json")
PROGRAM = "node_modules/verdaccio/bin/verdaccio"
NOT_FETCHED = "verdaccio was not fetched (python tests/real/verdaccio.py)"
FETCH_SECONDS = 600
START_SECONDS = 60.0
LARGEST = "400mb"
"""The real platform package has over 100 MB, and npm sends it as base64."""

CONFIG = """\
storage: {top}/storage
auth: {{htpasswd: {{file: {top}/accounts, max_users: 1}}}}
uplinks: {{}}
packages:
  "**": {{access: $all, publish: $authenticated, unpublish: $authenticated}}
web: {{enable: false}}
middlewares: {{}}
max_body_size: {largest}
log: {{type: stdout, format: json, level: http}}
"""


def place() -> Path:
    """Return the cache folder of verdaccio. Its name depends on the pinned versions."""
    digest = hashlib.sha256(b"".join((PINNED / name).read_bytes() for name in FILES)).hexdigest()
    return real.cache().parent / f"verdaccio-{digest[:16]}"


def cached() -> Path | None:
    """Return the program if it is cached, or None."""
    program = place() / PROGRAM
    return program if program.is_file() else None


def fetch() -> Path:
    """Return the program, downloaded with npm and its settings unless it is there. Idempotent: put in place by one rename.

    Raises real.Unavailable.
    """
    if (found := cached()) is not None:
        return found
    target = place()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".verdaccio-", dir=target.parent) as name:
        folder = Path(name, "fetched")
        folder.mkdir()
        for file in FILES:
            shutil.copy(PINNED / file, folder)
        program = folder / PROGRAM
        words = ["ci", "--no-audit", "--no-fund"]
        real.fetch_by_npm(words, folder, Path(name), "verdaccio", lambda: program if program.is_file() else None)
        folder.replace(target)
    return target / PROGRAM


class Verdaccio:
    """A registry in place of the sandbox's own."""

    def __init__(self, box: Sandbox) -> None:
        """Start it, create an account, and point the sandbox's npm at it."""
        program = cached()
        assert program is not None
        self.box, self.top = box, box.top / "registry"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        (self.top / "config.yaml").write_text(CONFIG.format(top=self.top, largest=LARGEST))
        words = ["node", str(program), "--config", str(self.top / "config.yaml"), "--listen", f"127.0.0.1:{self.port}"]
        box._spawn("registry", words)
        box.until(lambda: box._listens(self.port), "verdaccio listens", START_SECONDS)
        box.environment["npm_config_registry"] = self.url
        self.publisher = {**box.environment, "npm_config_userconfig": str(self.top / "publisher.npmrc")}
        self._create_account()

    def _create_account(self) -> None:
        account = {"name": "publisher", "password": "of-a-sandbox"}
        request = urllib.request.Request(
            f"{self.url}-/user/org.couchdb.user:publisher",
            json.dumps(account).encode(),
            {"Content-Type": "application/json"},
            method="PUT",
        )
        with urllib.request.urlopen(request, timeout=START_SECONDS) as response:
            token = json.load(response)["token"]
        (self.top / "publisher.npmrc").write_text(f"//127.0.0.1:{self.port}/:_authToken={token}\n")

    def npm(self, *words: str, signed_in: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the sandbox's npm with or without the account's token."""
        return subprocess.run(
            ["npm", *words],
            env=self.publisher if signed_in else self.box.environment,
            cwd=self.top,
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
            check=False,
        )

    def publish(self, tarball: Path, tag: str = "latest") -> None:
        """Publish a tarball and point a dist-tag at its version."""
        finished = self.npm("publish", str(tarball), "--ignore-scripts", "--tag", tag, "--registry", self.url)
        assert finished.returncode == 0, finished

    def set_tag(self, version: str, tag: str) -> None:
        """Point a dist-tag of t3 at a version."""
        finished = self.npm("dist-tag", "add", f"t3@{version}", tag)
        assert finished.returncode == 0, finished

    def requests(self) -> list[tuple[str, str, int]]:
        """Return method, path and status of each answered request."""
        found = []
        for line in (self.box.top / "log/registry.log").read_text().splitlines():
            if line.startswith("{") and "status" in (entry := json.loads(line)):
                found.append((entry["request"]["method"], entry["request"]["url"], entry["status"]))
        return found


def main() -> int:
    """Fetch the program."""
    try:
        print(fetch())
    except real.Unavailable as error:
        print(f"verdaccio: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
