"""The benchmark that needs a machine with systemd runs in its short form, like the others in tests/bench."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent.parent / "bench"


@pytest.mark.timeout(1800)
def test_the_shell_procedure_is_measured() -> None:
    finished = subprocess.run(
        [sys.executable, str(BENCH / "shell_procedure.py"), "--short"],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-6000:]
    assert finished.stdout.count("2 users in") == 2
