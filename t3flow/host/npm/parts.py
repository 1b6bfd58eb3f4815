"""A release in parts: what npm was to install, what it installed, and which parts for this platform are missing.

Each platform's part is an optional package, and npm exits 0 if it is not in the registry or cannot be downloaded. npm's own lists show the
difference: the lock file has every package of every platform, the hidden one in `node_modules` has what was installed.
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
"""npm's list of packages: place in the tree → npm's entry for the package."""


@dataclass(frozen=True)
class Platform:
    """The values with which npm compares a package's `os`, `cpu` and `libc`."""

    os: str
    cpu: str
    libc: str

    def __str__(self) -> str:
        return f"{self.os}-{self.cpu}"

    def supports(self, described: dict[str, Any]) -> bool:
        """Return whether a package with this description is for this platform."""
        here = {"os": self.os, "cpu": self.cpu, "libc": self.libc}
        return all(_matches(described.get(key), value) for key, value in here.items())

    def may_support(self, name: str) -> bool:
        """Return whether a package of which only the name is known may be for this platform."""
        words = set(re.split(r"[^a-z0-9]+", name.lower()))
        systems, cpus, libcs = (
            words & OS_WORDS,
            words & CPU_WORDS,
            {LIBC_WORDS[word] for word in words & set(LIBC_WORDS)},
        )
        accepted = {self.os, *({"macos"} if self.os == "darwin" else ())}
        return (
            (not systems or bool(systems & accepted))
            and (not cpus or bool(cpus & {self.cpu, "universal"}))
            and (not libcs or self.libc in libcs)
        )


def this_platform() -> Platform:
    """Return this host's platform in npm's terms."""
    machine = platform.machine()
    try:
        libc = "glibc" if (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc") else "musl"
    except (OSError, ValueError):
        libc = "musl"
    return Platform(sys.platform, CPUS.get(machine, machine), libc)


def _matches(wanted: Any, value: str) -> bool:
    """Apply npm's rule: a list of accepted words, or of excluded words with a `!`."""
    words = [wanted] if isinstance(wanted, str) else [str(word) for word in wanted or []]
    if f"!{value}" in words:
        return False
    accepted = [word for word in words if not word.startswith("!")]
    return not accepted or value in accepted or "any" in accepted


@dataclass(frozen=True)
class Tree:
    """npm's two lists of one install: all packages of any platform (`locked`), and those installed."""

    locked: Packages
    installed: Packages

    def parts(self, package: str) -> dict[str, str]:
        """Return the optional parts that the package's description names: name → version."""
        noted = self.installed.get(f"node_modules/{package}") or self.locked.get(f"node_modules/{package}") or {}
        named = noted.get("optionalDependencies")
        return {str(name): str(version) for name, version in named.items()} if isinstance(named, dict) else {}

    def place(self, packages: Packages, name: str, package: str) -> str | None:
        """Return the place of a part of the package in a list, or None."""
        places = (f"node_modules/{package}/node_modules/{name}", f"node_modules/{name}")
        return next((place for place in places if place in packages), None)

    def of_parts(self, package: str) -> dict[str, dict[str, Any]]:
        """Return the installed parts of the package: name → npm's entry."""
        found = {name: self.place(self.installed, name, package) for name in self.parts(package)}
        return {name: self.installed[place] for name, place in found.items() if place is not None}

    def left_out(self, platform: Platform, package: str) -> list[str]:
        """Return the optional packages for a platform, except the package's own parts, that npm left out: NAME@VERSION."""
        own = {self.place(self.locked, name, package) for name in self.parts(package)}
        found = {
            f"{_name(place)}@{noted.get('version')}"
            for place, noted in self.locked.items()
            if noted.get("optional") and place not in self.installed and place not in own
            and not noted.get("inBundle") and platform.supports(noted)
        }  # fmt: skip
        known = {_name(place) for place in self.locked}
        for place, noted in self.installed.items():
            if place != f"node_modules/{package}" and isinstance(named := noted.get("optionalDependencies"), dict):
                found |= {
                    f"{name}@{version}"
                    for name, version in named.items()
                    if name not in known and platform.may_support(name)
                }
        return sorted(found)


def _name(place: str) -> str:
    return place.rpartition("node_modules/")[2]


def write_skeleton(packages: Packages, folder: Path) -> None:
    """Write the package.json files of packages alone: npm checks signatures by them.

    Bundled packages are left out: the checksum of the package that bundles them covers them, and no registry needs to have them.
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
    """Return npm's list of installed packages in a tree, or None if there is none."""
    return _packages(prefix, INSTALLED)


def read(prefix: Path) -> Tree | None:
    """Return npm's lists of a fresh install, or None if one is missing."""
    present, locked = installed(prefix), _packages(prefix, LOCK)
    return None if present is None or locked is None else Tree(locked, present)


def _packages(prefix: Path, name: Path) -> Packages | None:
    try:
        packages = json.loads(read_regular_file_below(prefix, str(name), LIST_BYTES))["packages"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    usable = isinstance(packages, dict) and all(isinstance(entry, dict) for entry in packages.values())
    return {place: entry for place, entry in packages.items() if place} if usable else None
