"""Prometheus's programs, as tests/monitoring/prepare.sh provides them."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "deploy"
RULES = DEPLOY / "prometheus/t3flow.rules.yml"


def program(name: str) -> str:
    """Return the path of a program. Skips the test where it cannot be had."""
    found = TOP / ".cache/monitoring" / name
    path = str(found) if os.access(found, os.X_OK) else shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name}: sh tests/monitoring/prepare.sh")
    return path


def run(name: str, *words: object, cwd: Path | None = None) -> str:
    """Run a program to its end and return what it printed. Fails the test if the program fails."""
    done = subprocess.run(
        [program(name), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    """Return the alert rules for Prometheus."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
