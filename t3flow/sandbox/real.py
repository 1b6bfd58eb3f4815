"""usage: python -m t3flow.sandbox.real: downloads the real t3 and prints the path of its tarball.

`npm pack` downloads the platform package of generation C; its checksum is pinned here. Its launcher package is not on the registry, so the
stand-in's is used. Exit status 2: the package is not available; 1: its checksum is wrong.
"""

import base64
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import t3flow
from t3flow import T3flowError
from t3flow.sandbox.node import link_node
from t3flow.sandbox.packages import pack_release

PACKAGE, VERSION = "@t3code/t3-linux-x64", "0.0.42"
INTEGRITY = "sha512-iRdhsW7qoQnTW+cChqMmuZwfakz90z5tpi3wA/Jg4AwljXF07o64Rhkf26TyMy0V3BWu5AAHTNFhK3znTMm1uA=="
LEVEL = 52
"""The schema level of the real t3."""

FETCH_SECONDS = 600


class Unavailable(T3flowError):
    """The real package is not available on this host."""


class Altered(T3flowError):
    """The downloaded package does not match the pinned checksum."""


def cache() -> Path:
    """Return the cache folder: that of the checkout, else that of the account."""
    top = Path(t3flow.__file__).parent.parent
    if (top / "pyproject.toml").is_file():
        return top / ".cache" / "real"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t3flow" / "real"


def cached() -> Path | None:
    """Return the tarball of the real package if it is cached, or None."""
    path = cache() / f"{PACKAGE.replace('/', '-').lstrip('@')}-{VERSION}.tgz"
    return path if path.is_file() and _integrity(path) == INTEGRITY else None


def fetch() -> Path:
    """Return the tarball of the real package, and download it with npm's settings if it is not cached.

    Idempotent: one rename puts it in place after its checksum was compared. Raise Unavailable, Altered.
    """
    if (found := cached()) is not None:
        return found
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Unavailable(f"{PACKAGE} is for linux-x64, this machine is {sys.platform}-{platform.machine()}")
    with tempfile.TemporaryDirectory(prefix="t3flow-real-", dir="/var/tmp") as folder:
        path = _download(Path(folder))
        if (found_integrity := _integrity(path)) != INTEGRITY:
            raise Altered(f"{PACKAGE}@{VERSION} was refused: its checksum is {found_integrity}, not {INTEGRITY}")
        cache().mkdir(parents=True, exist_ok=True)
        partial = cache() / f".{path.name}.{os.getpid()}"
        shutil.copyfile(path, partial)
        partial.chmod(0o644)
        return partial.replace(cache() / path.name)


def _download(folder: Path) -> Path:
    """Download the package into a folder with `npm pack`, which runs none of its scripts. Raise Unavailable."""
    words = ["pack", f"{PACKAGE}@{VERSION}", "--pack-destination", str(folder)]

    def find() -> Path | None:
        packed = list(folder.glob("*.tgz"))
        return packed[0] if len(packed) == 1 else None

    return fetch_by_npm(words, folder, folder, f"{PACKAGE}@{VERSION}", find)


def fetch_by_npm(words: list[str], folder: Path, tools: Path, name: str, find: Callable[[], Path | None]) -> Path:
    """Run npm in a folder without scripts, with its cache in `tools`, and return what it fetched. Raise Unavailable with npm's first line."""
    npm = shutil.which("npm") or str(link_node(tools / "tools") / "npm")
    try:
        finished = subprocess.run(
            [
                *(npm, *words, "--ignore-scripts", "--loglevel=error", "--fetch-retries=1"),
                *("--cache", str(tools / "cache")),
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"npm cannot fetch {name}: {type(error).__name__}") from error
    if finished.returncode != 0 or (found := find()) is None:
        lines = [line for line in finished.stderr.splitlines() if line.strip()]
        raise Unavailable(f"npm cannot fetch {name}: {lines[0] if lines else 'npm printed nothing'}")
    return found


def _integrity(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    return f"sha512-{base64.b64encode(digest).decode()}"


def pack_launcher(folder: Path, prelude: str = "") -> Path:
    """Pack the launcher package for the real platform package, and return its tarball.

    `prelude` is JavaScript that runs before the launcher: a fault that the real executable cannot have.
    """
    launcher = pack_release(VERSION, folder, generation="C", platforms=[])[-1]
    if not prelude:
        return launcher
    buffer = io.BytesIO()
    with tarfile.open(launcher) as packed, tarfile.open(fileobj=buffer, mode="w:gz") as altered:
        for entry in packed:
            file = packed.extractfile(entry)
            content = file.read() if file else b""
            if entry.name == "package/dist/bin.mjs":
                content = prelude.encode() + content
                entry.size = len(content)
            altered.addfile(entry, io.BytesIO(content))
    launcher.write_bytes(buffer.getvalue())
    return launcher


def publish(folder: Path, platform_tarball: Path, *, prelude: str = "", tag: str | None = None) -> None:
    """Publish the real package and then its launcher as `VERSION` in the registry of a folder."""
    from t3flow.sandbox.registry import Registry

    registry = Registry(folder)
    registry.publish(VERSION, platform_tarball)
    registry.publish(VERSION, pack_launcher(folder / "packed", prelude), tag=tag)


def main() -> int:
    """Fetch the package."""
    try:
        print(fetch())
    except T3flowError as error:
        print(f"real: {error}", file=sys.stderr)
        return 1 if isinstance(error, Altered) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
