"""`make hooks`: what a commit would record is checked, not what the working tree has."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

PYPROJECT = """
[tool.ruff.lint]
select = ["F"]
[tool.mypy]
strict = true
files = ["t3flow"]
[tool.importlinter]
root_packages = ["t3flow"]
[[tool.importlinter.contracts]]
name = "One way"
type = "forbidden"
source_modules = ["t3flow.low"]
forbidden_modules = ["t3flow.high"]
"""
GOOD = "VALUE = 1\n"


class Clone:
    """A repository with a package of two modules and the hook."""

    def __init__(self, top: Path) -> None:
        self.top = top
        (top / "t3flow").mkdir()
        (top / ".venv").symlink_to(Path(sys.executable).parents[1])
        shutil.copytree(ROOT / "tools", top / "tools")
        self.write("pyproject.toml", PYPROJECT)
        self.write(".gitignore", ".venv\n.*_cache\n__pycache__\n")
        for name in ("__init__", "low", "high"):
            self.write(f"t3flow/{name}.py", GOOD)
        self.git("init", "--quiet")
        self.git("add", "--all")
        assert self.commit().returncode == 0
        self.hook = top / ".git/hooks/pre-commit"

    def write(self, name: str, text: str) -> None:
        """Write a file."""
        (self.top / name).write_text(text)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program at the top."""
        person = {
            f"GIT_{role}_{part}": "t@example.test" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")
        }
        return subprocess.run(
            words, cwd=self.top, env={**os.environ, **person}, capture_output=True, text=True, check=False
        )

    def git(self, *words: str) -> None:
        """Run git, which must succeed."""
        finished = self.run("git", *words)
        assert finished.returncode == 0, finished

    def commit(self) -> subprocess.CompletedProcess[str]:
        """Commit what is staged."""
        return self.run("git", "commit", "--quiet", "--message", "Change something")

    def refuses(self, name: str, text: str) -> str:
        """Stage a file, return what the hook says against it, and unstage it."""
        self.write(name, text)
        self.git("add", name)
        refused = self.commit()
        assert refused.returncode == 1, refused
        self.git("reset", "--quiet", "--hard")
        return refused.stdout + refused.stderr


def test_a_commit_is_checked_as_it_is_staged(tmp_path: Path) -> None:
    """Each tool refuses what it is for; the index counts, and neither index nor working tree is changed."""
    clone = Clone(tmp_path)
    for _ in range(2):
        assert clone.run("sh", "tools/hooks.sh").returncode == 0

    assert "ruff check failed" in clone.refuses("t3flow/high.py", "import os\n")
    assert "not formatted" in clone.refuses("t3flow/high.py", "VALUE=1\n")
    assert "mypy failed" in clone.refuses("t3flow/high.py", 'VALUE: int = "text"\n')
    assert "wrong way" in clone.refuses("t3flow/low.py", "from t3flow.high import VALUE as VALUE\n")

    clone.write("t3flow/high.py", "VALUE = 2\n")
    clone.git("add", "t3flow/high.py")
    clone.write("t3flow/high.py", "VALUE=3\n")
    assert clone.commit().returncode == 0
    assert (tmp_path / "t3flow/high.py").read_text() == "VALUE=3\n"
    clone.git("commit", "--quiet", "--all", "--no-verify", "--message", "Skip the hook")
    assert "not formatted" in clone.refuses("t3flow/high.py", "VALUE=4\n")


def test_without_python_nothing_is_run(tmp_path: Path) -> None:
    """A commit of text alone needs no virtual environment; a commit of code says how to make one."""
    clone = Clone(tmp_path)
    clone.run("sh", "tools/hooks.sh")
    (tmp_path / ".venv").unlink()
    clone.write("README.md", "text\n")
    clone.git("add", "--all")
    assert clone.commit().returncode == 0
    assert "type: make hooks" in clone.refuses("t3flow/high.py", "VALUE = 5\n")


def test_a_hook_of_ones_own_is_kept(tmp_path: Path) -> None:
    """One line says what to do."""
    clone = Clone(tmp_path)
    clone.hook.write_text("#!/bin/sh\n")
    refused = clone.run("sh", "tools/hooks.sh")
    assert (refused.returncode, refused.stderr.count("\n"), "is not from this project" in refused.stderr) == (
        1,
        1,
        True,
    )
    assert clone.hook.read_text() == "#!/bin/sh\n"
