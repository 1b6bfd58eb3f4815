"""A release is one command: what it makes, that its bytes repeat, that a failure leaves nothing, and that the tarball needs no network."""

import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from project import CHANGELOG, ROOT, VERSION, Project

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

UNPREDICTABLE_BUILD = """
import time
from pathlib import Path
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

class Hook(BuildHookInterface):
    def initialize(self, version, build_data):
        Path(self.root, "t3flow", "stamp.txt").write_text(str(time.time_ns()))
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a repository that VERSION was released from."""
    project = Project(tmp_path_factory.mktemp("released"))
    finished = project.release()
    assert finished.returncode == 0, finished
    return project


@pytest.fixture
def unpacked(released: Project, tmp_path: Path) -> Path:
    """Return the folder of the unpacked tarball."""
    packed = released.top / f"dist/{VERSION}/t3flow-{VERSION}-offline.tar.gz"
    subprocess.run(["tar", "-x", "-f", packed, "-C", tmp_path], check=True)
    return tmp_path / f"t3flow-{VERSION}"


def test_it_is_a_commit_a_tag_and_files_with_checksums(released: Project) -> None:
    """Version and changelog are set in one commit, which the tag names; the tree is clean; the checksums are right."""
    assert released.git("log", "-1", "--format=%s") == f"Release {VERSION}"
    assert released.git("rev-list", "-1", f"v{VERSION}") == released.git("rev-parse", "main")
    assert released.git("status", "--porcelain") == ""
    changed = released.git("diff", "--name-only", "HEAD~1").splitlines()
    assert changed == ["CHANGELOG.md", "t3flow/__init__.py"]
    day = time.strftime("%Y-%m-%d", time.gmtime(int(released.git("log", "-1", "--format=%ct"))))
    changelog = CHANGELOG.replace("## Unreleased", f"## {VERSION} ({day})")
    assert (released.top / "CHANGELOG.md").read_text() == changelog
    made = released.top / "dist" / VERSION
    checked = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=made, check=False)
    assert checked.returncode == 0
    names = {f"t3flow-{VERSION}{end}" for end in ("-offline.tar.gz", "-py3-none-any.whl", ".tar.gz")}
    assert {path.name for path in made.iterdir()} == {"SHA256SUMS", *names}


def test_the_tarball_is_complete_and_uniform(released: Project) -> None:
    """It has deploy/ and all wheels; order, owner, modes and times depend on the commit alone."""
    with tarfile.open(released.top / f"dist/{VERSION}/t3flow-{VERSION}-offline.tar.gz") as archive:
        entries = archive.getmembers()
    names = [entry.name.partition("/")[2] for entry in entries]
    assert names == sorted(names)
    deploy = {str(path.relative_to(released.top)) for path in released.top.glob("deploy/**/*") if path.is_file()}
    wheels = {"wheels/small_part-1.0-py3-none-any.whl", f"wheels/t3flow-{VERSION}-py3-none-any.whl"}
    assert {*deploy, *wheels} <= set(names)
    epoch = int(released.git("log", "-1", "--format=%ct"))
    assert {(entry.uid, entry.gid, entry.uname, entry.mtime) for entry in entries} == {(0, 0, "root", epoch)}
    modes = {entry.name.rpartition("/")[2]: entry.mode for entry in entries}
    assert set(modes.values()) == {0o644, 0o755}
    assert (modes["install.sh"], modes["alerts.yml"]) == (0o755, 0o644)


def test_the_same_command_finishes_a_release_that_was_killed(released: Project, tmp_path: Path) -> None:
    """Killed before the tag, with files left in dist: the next attempt uses the commit and makes the same bytes."""
    project = Project(tmp_path)
    shutil.rmtree(project.top)
    shutil.copytree(released.top, project.top, symlinks=True)
    before, commit = (project.top / f"dist/{VERSION}/SHA256SUMS").read_text(), project.git("rev-parse", "main")
    project.git("tag", "--delete", f"v{VERSION}")
    (project.top / f"dist/{VERSION}/SHA256SUMS").unlink()
    (project.top / "dist/.release-left").mkdir()
    assert project.release().returncode == 0
    assert project.git("rev-parse", "main") == project.git("rev-list", "-1", f"v{VERSION}") == commit
    assert (project.top / f"dist/{VERSION}/SHA256SUMS").read_text() == before
    assert [path.name for path in (project.top / "dist").iterdir()] == [VERSION]


# Failures -------------------------------------------------------------------------------------------------------------


def leave_untracked(project: Project) -> None:
    """Add a file that is not committed."""
    (project.top / "new.txt").write_text("new")


def edit(project: Project) -> None:
    """Change a file that is committed."""
    (project.top / "README.md").write_text("other")


def tag(project: Project) -> None:
    """Make the tag."""
    project.git("tag", f"v{VERSION}")


def drop_section(project: Project) -> None:
    """Commit a changelog without a section for the release."""
    (project.top / "CHANGELOG.md").write_text(CHANGELOG.replace("## Unreleased", "## 0.0.2"))
    project.commit()


def empty_section(project: Project) -> None:
    """Commit a changelog whose section has no entry."""
    (project.top / "CHANGELOG.md").write_text(CHANGELOG.replace("- An entry.\n", ""))
    project.commit()


def drop_packages(project: Project) -> None:
    """Leave pip without the package that is needed."""
    shutil.rmtree(project.packages)


def alter_package(project: Project) -> None:
    """Give pip a package with another hash."""
    with (project.packages / "small_part-1.0-py3-none-any.whl").open("ab") as file:
        file.write(b"more")


def make_unpredictable(project: Project) -> None:
    """Commit a build whose results differ each time: the control of the comparison."""
    (project.top / "hatch_build.py").write_text(UNPREDICTABLE_BUILD)
    with (project.top / "pyproject.toml").open("a") as file:
        file.write('\n[tool.hatch.build.targets.wheel.hooks.custom]\npath = "hatch_build.py"\n')
    project.commit()


def block_tag(project: Project) -> None:
    """Let the last step fail, after the branch has moved."""
    (project.top / ".git/hooks").mkdir(exist_ok=True)
    hook = project.top / ".git/hooks/reference-transaction"
    hook.write_text('#!/bin/sh\n[ "$1" != prepared ] || ! grep -q refs/tags/\n')
    hook.chmod(0o755)


@pytest.mark.parametrize(
    ("fault", "version", "said"),
    [
        (leave_untracked, VERSION, "not clean"),
        (edit, VERSION, "not clean"),
        (tag, VERSION, f"the tag v{VERSION} exists"),
        (drop_section, VERSION, "has no entries below ## 7.8.9 or ## Unreleased"),
        (empty_section, VERSION, "has no entries"),
        (None, "1.0", "not a version"),
        (None, "0.0.1", "is older than"),
        (drop_packages, VERSION, "small-part"),
        (alter_package, VERSION, "pip download"),
        (make_unpredictable, VERSION, "differ in"),
        (block_tag, VERSION, "git tag"),
    ],
)
def test_a_failure_is_one_line_and_changes_nothing(
    tmp_path: Path, fault: Callable[[Project], None] | None, version: str, said: str
) -> None:
    """Branch, working tree, tags and dist are as before."""
    project = Project(tmp_path)
    if fault:
        fault(project)
    before = project.state()
    refused = project.release(version)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1), refused
    assert refused.stderr.startswith("release: ")
    assert said in refused.stderr
    assert project.state() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_release_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """In the middle of the builds."""
    project = Project(tmp_path)
    before = project.state()
    child = subprocess.Popen(
        project.release_command(),
        env=project.environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job of a shell ignores it
    )
    deadline = time.monotonic() + 60
    while not list(project.top.glob("dist/.release-*/source-*")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert (child.returncode, said.count("\n"), "nothing was released" in said) == (1, 1, True), said
    assert project.state() == before


@pytest.mark.parametrize("words", [["release", "VERSION=1.2.3"], ["release", "1.2.3"]])
def test_make_takes_the_version_in_both_forms(words: list[str]) -> None:
    """`make release VERSION=1.2.3` and `make release 1.2.3` run the same command."""
    shown = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 'tools/release.py "1.2.3"' in shown.stdout


# Installing -----------------------------------------------------------------------------------------------------------


def make_program(source: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Make the program of a host as install.sh does."""
    script = 'source=$1; . "$source/deploy/program.sh"; make_program "$2" || { echo "failed.$remedy"; exit 1; }'
    clean = {"PATH": os.environ["PATH"], "HOME": str(folder.parent / "home")}
    return subprocess.run(
        ["sh", "-euc", script, "install.sh", str(source), str(folder)],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_tarball_installs_without_a_network(unpacked: Path, tmp_path: Path) -> None:
    """With an empty home, and settings of pip that name an index: the index is not asked; a wheel that was altered is refused.

    The control: a checkout has no wheels, and there pip asks that index.
    """
    with socket.create_server(("127.0.0.1", 0)) as index:
        index.settimeout(0)
        url = f"http://127.0.0.1:{index.getsockname()[1]}/"
        (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {url}\n")
        pip = {
            "PIP_INDEX_URL": url,
            "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
            "PIP_TIMEOUT": "1",
            "PIP_RETRIES": "0",
        }
        made = make_program(unpacked, tmp_path / "program", **pip)
        assert made.returncode == 0, made
        with pytest.raises(BlockingIOError):
            index.accept()
        program = "import small_part, t3flow; print(t3flow.__version__)"
        said = subprocess.run(
            [tmp_path / "program/bin/python", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert said.stdout.strip() == VERSION
        assert (tmp_path / "program/bin/t3flow").is_file()

        wheel = unpacked / "wheels/small_part-1.0-py3-none-any.whl"
        wheel.write_bytes(wheel.read_bytes() + b"more")
        refused = make_program(unpacked, tmp_path / "other", **pip)
        assert (refused.returncode, "compare it with SHA256SUMS" in refused.stdout) == (1, True), refused

        shutil.rmtree(unpacked / "wheels")
        refused = make_program(unpacked, tmp_path / "third", **pip)
        assert (refused.returncode, "use the tarball of a release" in refused.stdout) == (1, True), refused
        index.accept()[0].close()
