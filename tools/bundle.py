"""What a release contains: the wheels that hosts need, a tarball that installs without a network, checksums."""

import gzip
import hashlib
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

SUMS = "SHA256SUMS"
PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))
MACHINES = ("x86_64", "aarch64")
GLIBC_MINORS = (28, 17, 12, 5)
"""Releases of glibc 2 that wheels are built for. Every supported distribution has 2.28 or newer."""

INCLUDED = ("CHANGELOG.md", "LICENSE", "README.md", "deploy", "docs")
"""What the tarball contains beside the wheels."""


class Refused(Exception):
    """The release cannot be made. The message is one line."""


class Requirement(NamedTuple):
    """One pinned package of a requirements file: its hashes and the marker that says where it is needed ("": everywhere)."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]


class Target(NamedTuple):
    """One kind of host."""

    python: tuple[int, int]
    machine: str

    @property
    def platforms(self) -> list[str]:
        """Platform tags of wheels that run there, newest first."""
        former = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
        tags = ((f"manylinux_2_{minor}", former.get(minor)) for minor in GLIBC_MINORS)
        return [f"{name}_{self.machine}" for pair in tags for name in pair if name]

    @property
    def tags(self) -> set[Tag]:
        """All tags of wheels that run there."""
        interpreter = "cp{}{}".format(*self.python)
        return {
            *cpython_tags(self.python, platforms=self.platforms),
            *compatible_tags(self.python, interpreter, self.platforms),
        }

    def needs(self, requirement: Requirement) -> bool:
        """Return whether some patch release of this Python needs a requirement."""
        version = "{}.{}".format(*self.python)
        base = {"python_version": version, "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
        base |= {"platform_machine": self.machine, "implementation_name": "cpython"}
        return not requirement.marker or any(
            Marker(requirement.marker).evaluate({**base, "python_full_version": f"{version}.{patch}"})
            for patch in (0, 99)
        )

    def __str__(self) -> str:
        return "Python {}.{} on {}".format(*self.python, self.machine)


TARGETS = [Target(python, machine) for machine in MACHINES for python in PYTHONS]


def run(
    *words: str, text: str = "", folder: Path | None = None, environment: dict[str, str] | None = None, umask: int = -1
) -> str:
    """Return what a program prints. Raise Refused with its first error, or else its last line, if it fails."""
    finished = subprocess.run(
        words,
        input=text,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        lines = [line.strip() for line in finished.stderr.splitlines() if line.strip()]
        reasons = (
            [line for line in lines if line.startswith("ERROR: ")]
            or lines[-1:]
            or [f"exit status {finished.returncode}"]
        )
        name = " ".join(words[2:4] if words[0] == sys.executable else words[:2])
        raise Refused(f"{name} failed: {reasons[0]}")
    return finished.stdout


# Wheels ---------------------------------------------------------------------------------------------------------------


def read_requirements(file: Path) -> Iterator[Requirement]:
    """Read a requirements file that uv wrote with hashes."""
    entry = re.compile(r"(?m)^([\w.-]+)==(\S+)(?: ; ([^\\\n]+?))? \\\n((?:    --hash=\S+(?: \\)?\n?)+)")
    for name, version, marker, hashes in entry.findall(file.read_text()):
        yield Requirement(name, version, marker, tuple(re.findall(r"--hash=\S+", hashes)))


def fetch_wheels(requirements: Path, folder: Path) -> None:
    """Download the wheels that each kind of host needs with pip and its settings. Raise Refused if one is missing.

    pip compares every wheel with the hashes of the requirements, so that the same file gives the same wheels.
    """
    folder.mkdir()
    for target in TARGETS:
        missing = [
            each
            for each in read_requirements(requirements)
            if target.needs(each) and not has_wheel(folder, each, target)
        ]
        if missing:
            wanted = folder.with_suffix(".txt")  # without markers: pip evaluates them for the Python that it runs on
            wanted.write_text("".join(f"{each.name}=={each.version} {' '.join(each.hashes)}\n" for each in missing))
            words = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(wanted)]
            words += ["--python-version", "{}.{}".format(*target.python), "--dest", str(folder)]
            words += [word for platform in target.platforms for word in ("--platform", platform)]
            run(sys.executable, "-m", "pip", "download", *words)
        for each in missing:
            if not has_wheel(folder, each, target):
                raise Refused(f"no wheel of {each.name} {each.version} for {target}")


def has_wheel(folder: Path, requirement: Requirement, target: Target) -> bool:
    """Return whether a folder has a wheel of a package that runs on a kind of host."""
    for path in folder.glob("*.whl"):
        name, version, _, tags = parse_wheel_filename(path.name)
        if (name, str(version)) == (canonicalize_name(requirement.name), requirement.version) and tags & target.tags:
            return True
    return False


# The tarball ----------------------------------------------------------------------------------------------------------


def pack(version: str, source: Path, wheels: Iterable[Path], folder: Path, epoch: int) -> Path:
    """Write the tarball that installs without a network into a folder and return it.

    Its bytes depend on the contents and on `epoch` (seconds) alone: entries are sorted, belong to root and have one of two modes.
    """
    top = f"t3flow-{version}"
    entries = {f"{top}/wheels/{path.name}": path for path in wheels}
    for name in INCLUDED:
        path = source / name
        for file in [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]:
            entries[f"{top}/{file.relative_to(source)}"] = file
    made = folder / f"{top}-offline.tar.gz"
    with (
        made.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, path in sorted(entries.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = path.stat().st_size, epoch
            entry.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            entry.uname = entry.gname = "root"
            with path.open("rb") as content:
                archive.addfile(entry, content)
    return made


def write_sums(folder: Path) -> None:
    """Write the checksums of a folder's files as `sha256sum --check` reads them."""
    (folder / ".gitignore").unlink(missing_ok=True)  # hatchling puts one into the folder that it builds in
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / SUMS).write_text("".join(lines))
