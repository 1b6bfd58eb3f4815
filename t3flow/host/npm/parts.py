"""A release in parts: what npm was to install, what it installed, and which parts of the release for this platform are not there.

npm exits 0 when an optional package, as each platform's part is one, is not in the registry or cannot be fetched. So its own lists tell: the
lock file has every package of every platform, the hidden one in `node_modules` has what was installed.
"""

import json
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t3flow.engine.files import read_regular_file_below

LOCK = Path("package-lock.json")
INSTALLED = Path("node_modules/.package-lock.json")
LIST_BYTES = 256 * 1024 * 1024
CPUS = {
    "x86_64": "x64",
    "amd64": "x64",
    "aarch64": "arm64",
    "i386": "ia32",
    "i686": "ia32",
    "armv7l": "arm",
    "armv6l": "arm",
    "ppc64le": "ppc64",
    "loongarch64": "loong64",
}
OS_WORDS = {"linux", "darwin", "macos", "win32", "windows", "freebsd", "openbsd", "netbsd", "sunos", "aix", "android"}
CPU_WORDS = {"x64", "arm64", "ia32", "arm", "ppc64", "s390x", "riscv64", "loong64", "mips64el", "universal"}
LIBC_WORDS = {"musl": "musl", "gnu": "glibc", "glibc": "glibc"}

Packages = dict[str, dict[str, Any]]
"""npm's list of packages: the place in the tree → what npm notes of the package there."""


@dataclass(frozen=True)
class Platform:
    """What npm compares a package's `os`, `cpu` and `libc` with."""

    os: str
    cpu: str
    libc: str

    def __str__(self) -> str:
        return f"{self.os}-{self.cpu}"

    def takes(self, described: dict[str, Any]) -> bool:
        """Whether a package that is described so is for this platform."""
        mine = {"os": self.os, "cpu": self.cpu, "libc": self.libc}
        return all(_among(described.get(key), value) for key, value in mine.items())

    def may_be(self, name: str) -> bool:
        """Whether a package of this name, of which nothing else is known, may be for this platform."""
        said = set(re.split(r"[^a-z0-9]+", name.lower()))
        systems, cpus, libcs = said & OS_WORDS, said & CPU_WORDS, {LIBC_WORDS[word] for word in said & set(LIBC_WORDS)}
        mine = {self.os, *({"macos"} if self.os == "darwin" else ())}
        return (
            (not systems or bool(systems & mine))
            and (not cpus or bool(cpus & {self.cpu, "universal"}))
            and (not libcs or self.libc in libcs)
        )


def here() -> Platform:
    """This host's platform, in npm's words."""
    machine = platform.machine()
    try:
        libc = "glibc" if (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc") else "musl"
    except (OSError, ValueError):
        libc = "musl"
    return Platform(sys.platform, CPUS.get(machine, machine), libc)


def _among(wanted: Any, mine: str) -> bool:
    """npm's rule: a list of words of which one is meant, or of words with a ! that are not."""
    words = [wanted] if isinstance(wanted, str) else [str(word) for word in wanted or []]
    if f"!{mine}" in words:
        return False
    meant = [word for word in words if not word.startswith("!")]
    return not meant or mine in meant or "any" in meant


@dataclass(frozen=True)
class Tree:
    """npm's two lists of one install: all that was to be there on any platform, and all that is."""

    wanted: Packages
    installed: Packages

    def parts(self, package: str) -> dict[str, str]:
        """The optional parts that the package's own description names: name → version."""
        noted = self.installed.get(f"node_modules/{package}") or self.wanted.get(f"node_modules/{package}") or {}
        named = noted.get("optionalDependencies")
        return {str(name): str(version) for name, version in named.items()} if isinstance(named, dict) else {}

    def place(self, packages: Packages, name: str, package: str) -> str | None:
        """Where in a list a part of the package is, or None."""
        places = (f"node_modules/{package}/node_modules/{name}", f"node_modules/{name}")
        return next((place for place in places if place in packages), None)

    def of_parts(self, package: str) -> dict[str, dict[str, Any]]:
        """The parts of the package that are installed: name → npm's note."""
        found = {name: self.place(self.installed, name, package) for name in self.parts(package)}
        return {name: self.installed[place] for name, place in found.items() if place is not None}

    def left_out(self, mine: Platform, package: str) -> list[str]:
        """The optional packages for this platform, other than the package's own parts, that npm left out: NAME@VERSION."""
        own = {self.place(self.wanted, name, package) for name in self.parts(package)}
        found = {
            f"{_name(place)}@{noted.get('version')}"
            for place, noted in self.wanted.items()
            if noted.get("optional") and place not in self.installed and place not in own
            and not noted.get("inBundle") and mine.takes(noted)
        }  # fmt: skip
        known = {_name(place) for place in self.wanted}
        for place, noted in self.installed.items():
            if place != f"node_modules/{package}" and isinstance(named := noted.get("optionalDependencies"), dict):
                found |= {
                    f"{name}@{version}" for name, version in named.items() if name not in known and mine.may_be(name)
                }
        return sorted(found)


def _name(place: str) -> str:
    return place.rpartition("node_modules/")[2]


def write_skeleton(packages: Packages, folder: Path) -> None:
    """Writes the descriptions of packages without their files, and without those that a part brings along: npm checks signatures by them.

    What a package bundles is covered by that package's own checksum, and need not be in any registry.
    """
    for place, entry in packages.items():
        if entry.get("inBundle") or entry.get("link"):
            continue
        bundled = {str(name) for name in entry.get("bundleDependencies") or () if name is not True}
        described: dict[str, Any] = {"name": entry.get("name") or _name(place), "version": entry.get("version")}
        for kind in ("dependencies", "optionalDependencies", "peerDependencies"):
            if isinstance(named := entry.get(kind), dict):
                described[kind] = {name: spec for name, spec in named.items() if name not in bundled}
        (folder / place).mkdir(parents=True)
        (folder / place / "package.json").write_text(json.dumps(described))


def installed(prefix: Path) -> Packages | None:
    """What npm says it installed in a tree; None where it left no such list."""
    return _packages(prefix, INSTALLED)


def read(prefix: Path) -> Tree | None:
    """npm's lists of an install that has just been made; None where it left none."""
    there = installed(prefix)
    wanted = _packages(prefix, LOCK)
    return None if there is None or wanted is None else Tree(wanted, there)


def _packages(prefix: Path, name: Path) -> Packages | None:
    try:
        packages = json.loads(read_regular_file_below(prefix, str(name), LIST_BYTES))["packages"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    usable = isinstance(packages, dict) and all(isinstance(entry, dict) for entry in packages.values())
    return {place: entry for place, entry in packages.items() if place} if usable else None
