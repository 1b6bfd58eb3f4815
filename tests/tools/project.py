"""A repository to release from: the project's own files, committed once, and a package that its requirements name."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = (".gitignore", "LICENSE", "README.md", "deploy", "docs", "pyproject.toml", "t3flow", "tools")
VERSION = "7.8.9"
CHANGELOG = "# Changelog\n\n## Unreleased\n\n- An entry.\n\n## 0.0.1\n\n- An old entry.\n"


class Project:
    """A clean checkout. It depends on one small package, which pip finds in a folder, or on what hosts really get."""

    def __init__(self, folder: Path, *, real_requirements: bool = False) -> None:
        self.real_requirements = real_requirements
        self.top, self.packages = folder / "project", folder / "packages"
        for name in COPIED:
            source, target = ROOT / name, self.top / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite"))
            else:
                shutil.copy(source, target)
        (self.top / "CHANGELOG.md").write_text(CHANGELOG)
        if not real_requirements:
            digest = hashlib.sha256(make_wheel(self.packages).read_bytes()).hexdigest()
            requirements = f"# A comment\nsmall-part==1.0 \\\n    --hash=sha256:{digest}\n"
            (self.top / "deploy/requirements.txt").write_text(requirements)
        self.git("init", "--quiet", "--initial-branch", "main")
        self.commit()

    def environment(self, **more: str) -> dict[str, str]:
        """Return an environment in which git has an identity, and pip knows the folder alone unless the requirements are real."""
        person = {
            f"GIT_{role}_{part}": "t@example.test" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")
        }
        pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.packages), "PIP_CONFIG_FILE": os.devnull}
        if self.real_requirements:
            return {**os.environ, **person, **more}
        return {**os.environ, **person, **pip, "HOME": str(self.top.parent), **more}

    def git(self, *words: str) -> str:
        """Return what git prints."""
        command = ["git", *words]
        return subprocess.run(
            command, cwd=self.top, env=self.environment(), capture_output=True, text=True, check=True
        ).stdout.strip()

    def commit(self) -> None:
        """Commit everything in the working tree."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--no-verify", "--message", "Change something")

    def release(self, version: str = VERSION, **environment: str) -> subprocess.CompletedProcess[str]:
        """Release a version."""
        return subprocess.run(
            self.release_command(version),
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            check=False,
        )

    def release_command(self, version: str = VERSION) -> list[str]:
        """Return the words that release a version."""
        return [sys.executable, str(self.top / "tools/release.py"), version]

    def state(self) -> dict[str, object]:
        """Return everything that a release changes."""
        return {
            "commit": self.git("rev-parse", "main"),
            "head": self.git("symbolic-ref", "HEAD"),
            "tags": self.git("tag", "--list"),
            "changes": self.git("status", "--porcelain"),
            "dist": sorted(str(path) for path in self.top.glob("dist/**/*")) or (self.top / "dist").exists(),
        }


def make_wheel(folder: Path) -> Path:
    """Write the wheel of a package with one module and return it."""
    folder.mkdir(parents=True)
    path = folder / "small_part-1.0-py3-none-any.whl"
    info = "small_part-1.0.dist-info"
    files = {
        "small_part.py": "VALUE = 1\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: small-part\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{name},sha256={digest},{len(text)}\n"
            archive.writestr(zipfile.ZipInfo(name), text)
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), f"{record}{info}/RECORD,,\n")
    return path
