"""What root gets by `python -m t3flow.sandbox.enter`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from t3flow.sandbox import enter

MARK = Path("/tmp/t3flow-enter-mark")
SCRIPT = f"id -u; stat -f -c %T /tmp; ls -A /tmp; touch {MARK}; {sys.executable} -c 'import t3flow'"


def entered(*words: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != enter.INSIDE}
    command = [sys.executable, "-m", "t3flow.sandbox.enter", *words, "sh", "-euc", SCRIPT]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.skipif(not enter.memory_fits(), reason="too little memory, or the program lies below /tmp")
def test_tmp_is_in_memory_and_the_commands_own(accounts: dict[str, int]) -> None:
    """It is no tmpfs, which t3flow refuses for what may be large, and it begins empty and leaves nothing behind."""
    MARK.unlink(missing_ok=True)
    assert entered("--memory") == [str(enter.NOBODY), "overlayfs"]
    assert not MARK.exists()


def test_without_memory_it_is_the_hosts(accounts: dict[str, int]) -> None:
    """The control."""
    said = entered()
    try:
        assert said[0] == str(enter.NOBODY)
        assert MARK.exists()
    finally:
        MARK.unlink(missing_ok=True)
