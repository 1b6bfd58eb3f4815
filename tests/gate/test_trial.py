"""A host that runs out of resources during a trial is not the version's fault."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from t3flow.host.cells import cells


@pytest.mark.parametrize(("open_files", "key"), [(6, "problem"), (64, "checks")])
def test_without_descriptors_no_trial_is_held(tmp_path: Path, open_files: int, key: str) -> None:
    """With a limit of six open files no program can start: that is not a failed check. With enough files, as the control, a check fails."""
    request: dict[str, Any] = {
        "node": "/bin/true",
        "program": "t3",
        "version": "1.0.0",
        "base_dir": str(tmp_path),
        "isolated": False,
        "host": "127.0.0.1",
        "port": 1,
        "start_timeout_s": 5,
        "log": str(tmp_path / "log"),
        "limit_s": 20,
        "endpoints": [],
        "cookie": "",
        "asks_version": True,
        "in_use": [],
        "bounds": cells.bounds([], 10**9),
    }
    finished = subprocess.run(
        ["prlimit", f"--nofile={open_files}", *cells.python_command("t3flow.gate.cell.trial")],
        env=cells.environment(PATH="/usr/bin:/bin"),
        input=json.dumps(request).encode(),
        capture_output=True,
        timeout=30,
        check=True,
    )
    answer = json.loads(finished.stdout)
    assert key in answer, finished
    if key == "problem":
        assert "Too many open files" in answer["problem"]
    else:
        assert [check["name"] for check in answer["checks"]] == ["says_its_version"]
