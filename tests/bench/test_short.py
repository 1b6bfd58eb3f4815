"""Each benchmark runs in its short form: a new file in bench/ is tested without a change here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent.parent / "bench"
PROGRAMS = sorted(path.name for path in BENCH.glob("[a-z]*.py") if path.name not in ("common.py", "sandboxed.py"))


def test_there_are_benchmarks() -> None:
    assert {"step.py", "status.py", "restart.py"} <= set(PROGRAMS)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_passes(name: str, tmp_path: Path) -> None:
    """Its own exit status and messages decide, and it prints a figure."""
    finished = subprocess.run(
        [sys.executable, str(BENCH / name), "--short"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-6000:]
    assert "Traceback" not in finished.stderr
    assert finished.stdout.strip()
