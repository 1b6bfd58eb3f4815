"""Skip the tests in a box if this machine allows none, with a visible notice."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NEEDED = ("unshare", "nsenter", "setpriv", "ip", "curl", "runuser")


def why_not() -> str:
    """Return why this machine allows no box, or ""."""
    if os.geteuid() != 0:
        return "not root"
    if not Path("/lib/systemd/systemd").exists():
        return "no systemd is installed (apt-get install systemd)"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"not on PATH: {', '.join(missing)}"
    script = """mount -t tmpfs none /mnt; mkdir /mnt/upper /mnt/work /mnt/root
      mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root"""
    words = ["unshare", "--mount", "--pid", "--fork", "--net", "--uts", "--ipc", "--cgroup", "sh", "-euc", script]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"no namespaces with an overlay: {tried.stderr.strip().splitlines()[-1:]}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the notice."""
    if terminalreporter.stats.get("skipped") and (reason := why_not()):
        terminalreporter.section("NOT TESTED ON REAL SYSTEMD", sep="!", red=True, bold=True)
        terminalreporter.write_line(f"this machine gives no box: {reason}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of these tests, or none."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    if ours and (reason := why_not()):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=f"no box: {reason}"))
