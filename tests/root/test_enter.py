"""What root gets by `python -m t3flow.sandbox.enter`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
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


@pytest.mark.parametrize("place", [0, 1, 2], ids=["the outermost", "the first of the namespace", "the command"])
def test_what_a_command_started_ends_with_it(accounts: dict[str, int], place: int) -> None:
    """Root's processes and the command's, which is another account's, in a session of its own or not."""
    environment = {name: value for name, value in os.environ.items() if name != enter.INSIDE}
    script = "setsid sleep 1000 & sleep 1000 & echo on; wait"
    words = [sys.executable, "-m", "t3flow.sandbox.enter", "sh", "-euc", script]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as outermost:
        assert outermost.stdout is not None
        assert outermost.stdout.readline() == "on\n"
        deadline = time.monotonic() + 30
        below = psutil.Process(outermost.pid).children(recursive=True)
        while [each.name() for each in below].count("sleep") < 2 and time.monotonic() < deadline:
            time.sleep(0.02)  # the shell has written before its children have become what they run
            below = psutil.Process(outermost.pid).children(recursive=True)
        names = [each.name() for each in below]
        if names.count("sleep") != 2:
            outermost.kill()
        assert names.count("sleep") == 2, names
        assert below[1].uids().real == enter.NOBODY
        [psutil.Process(outermost.pid), *below][place].send_signal(signal.SIGKILL)
        assert outermost.wait(60) == (-signal.SIGKILL if place == 0 else 128 + signal.SIGKILL)
        assert psutil.wait_procs(below, 60)[1] == []
