"""usage: release.py VERSION: release a version: one commit, one tag, and dist/VERSION with everything that a host needs.

Everything is built and compared before the branch moves. A release that fails or is interrupted prints one line and leaves branch,
working tree, tags and dist as they were. After a kill the same command finishes the release.
"""

import fcntl
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import bundle
from bundle import Refused, run
from packaging.version import Version

REMOVE_SECONDS = 10.0

VERSION_FILE, CHANGELOG = "t3flow/__init__.py", "CHANGELOG.md"
VERSION_LINE = re.compile(r'(?m)^__version__ = "([^"]+)"$')


class Surroundings(NamedTuple):
    """What differs between two builds beside the folder and the time, and must not show in their bytes."""

    umask: int
    environment: dict[str, str]


SURROUNDINGS = (
    Surroundings(0o022, {"TZ": "UTC", "PYTHONHASHSEED": "1"}),
    Surroundings(0o077, {"TZ": "Pacific/Auckland", "PYTHONHASHSEED": "2"}),
)


def git(*words: str, text: str = "", index: Path | None = None) -> str:
    """Return what git prints, without the line break at its end. `index` replaces the index file of the working tree. Raise Refused."""
    environment = {"GIT_INDEX_FILE": str(index)} if index else {}
    return run("git", *words, text=text, environment=environment).strip()


def check(version: str) -> None:
    """Raise Refused unless the version can be released from this working tree."""
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version):
        raise Refused(f"{version!r} is not a version; type: make release VERSION=1.2.3")
    if changed := git("status", "--porcelain").splitlines():
        raise Refused(
            f"the working tree is not clean ({len(changed)} files, such as {changed[0][2:].strip()}); commit first"
        )
    if git("tag", "--list", f"v{version}"):
        raise Refused(f"the tag v{version} exists; choose a later version")
    present = VERSION_LINE.search(Path(VERSION_FILE).read_text())
    if present is None:
        raise Refused(f"{VERSION_FILE} has no line __version__")
    if Version(version) < Version(present[1]):
        raise Refused(f"{version} is older than {present[1]}, the version in {VERSION_FILE}")


def dated(changelog: str, version: str, day: str) -> str:
    """Return the changelog with the section of a version: its own if there is one, else the section Unreleased under a new heading.

    Raise Refused if that section is missing or empty.
    """
    for name, heading in ((version, None), ("Unreleased", f"## {version} ({day})")):
        found = re.search(rf"(?ms)^## {re.escape(name)}\b[^\n]*\n(.*?)(?=^## |\Z)", changelog)
        if found and found[1].strip():
            return (
                changelog
                if heading is None
                else changelog[: found.start()] + f"{heading}\n{found[1]}" + changelog[found.end() :]
            )
    raise Refused(f"{CHANGELOG} has no entries below ## {version} or ## Unreleased; write what changed")


def commit(version: str, folder: Path) -> str:
    """Return a commit on top of HEAD with version and changelog set, HEAD itself if nothing changes. No branch points at it yet."""
    index = folder / "index"
    git("read-tree", "HEAD", index=index)
    day = datetime.now(UTC).date().isoformat()
    changes = {
        VERSION_FILE: VERSION_LINE.sub(f'__version__ = "{version}"', Path(VERSION_FILE).read_text()),
        CHANGELOG: dated(Path(CHANGELOG).read_text(), version, day),
    }
    for path, text in changes.items():
        blob = git("hash-object", "-w", "--stdin", text=text)
        git("update-index", "--cacheinfo", f"100644,{blob},{path}", index=index)
    tree = git("write-tree", index=index)
    if tree == git("rev-parse", "HEAD^{tree}"):
        return git("rev-parse", "HEAD")
    return git("commit-tree", tree, "-p", "HEAD", "-m", f"Release {version}")


def build(version: str, made: str, folder: Path) -> Path:
    """Build a commit twice in different surroundings and return the folder of the results. Raise Refused unless both are equal."""
    epoch = git("show", "--no-patch", "--format=%ct", made)
    archive = folder / "source.tar"
    git("archive", "--output", str(archive), made)
    wheels = folder / "wheels"
    results = []
    for number, surroundings in enumerate(SURROUNDINGS):
        source, result = folder / f"source-{'x' * number}", folder / f"result-{number}"
        source.mkdir()
        run("tar", "-x", "-f", str(archive), "-C", str(source), umask=surroundings.umask)
        if not wheels.exists():
            bundle.fetch_wheels(source / "deploy/requirements.txt", wheels)
        environment = {**surroundings.environment, "SOURCE_DATE_EPOCH": epoch}
        words = (sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", str(result))
        run(*words, folder=source, environment=environment, umask=surroundings.umask)
        bundle.pack(version, source, [*wheels.iterdir(), *result.glob("*.whl")], result, int(epoch))
        bundle.write_sums(result)
        results.append(result)
    sums = [(result / bundle.SUMS).read_text().splitlines() for result in results]
    if differing := sorted({line.split()[1] for line in set(sums[0]) ^ set(sums[1])}):
        raise Refused(
            f"two builds of the same commit differ in {', '.join(differing)}; the release is not reproducible"
        )
    return results[0]


def publish(version: str, made: str, result: Path) -> Path:
    """Put the results into dist, move the branch to the commit and tag it. Undo all of it on a failure. Raise Refused."""
    target, before = Path("dist", version), git("rev-parse", "HEAD")
    shutil.rmtree(
        target, ignore_errors=True
    )  # a release that was killed may have left it: without a tag it is no release
    try:
        result.replace(target)
        git("merge", "--quiet", "--ff-only", made)
        git("tag", "--annotate", "--message", f"t3flow {version}", f"v{version}", made)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        if git("rev-parse", "HEAD") == made != before:
            git("reset", "--quiet", "--keep", before)
        raise
    return target


def remove(folder: Path) -> None:
    """Remove a folder. A child of a release that was interrupted or killed may still write there for a moment."""
    deadline = time.monotonic() + REMOVE_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)


@contextmanager
def workplace() -> Iterator[Path]:
    """Give a folder on the disk of dist that is removed at the end, on SIGTERM as well."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("release: ended by SIGTERM; nothing was released"))
    had_dist = Path("dist").is_dir()
    Path("dist").mkdir(exist_ok=True)
    lock = os.open("dist", os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused("another release is in progress; wait for it") from None
    for left in Path("dist").glob(".release-*"):  # of a release that was killed
        remove(left)
    try:
        folder = Path(tempfile.mkdtemp(prefix=".release-", dir="dist")).resolve()
        try:
            yield folder
        finally:
            remove(folder)
    finally:
        os.close(lock)
        if not had_dist and not any(Path("dist").iterdir()):
            Path("dist").rmdir()


def main(words: list[str]) -> int:
    """Release the version that the command line names."""
    if len(words) != 1 or not words[0]:
        print("release: no version; type: make release VERSION=1.2.3", file=sys.stderr)
        return 2
    (version,) = words
    os.chdir(Path(__file__).parents[1])
    try:
        check(version)
        with workplace() as folder:
            made = commit(version, folder)
            target = publish(version, made, build(version, made, folder))
    except Refused as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("release: interrupted; nothing was released", file=sys.stderr)
        return 1
    print((target / bundle.SUMS).read_text(), end="")
    print(f"released v{version} in {target}; next: git push --follow-tags")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
