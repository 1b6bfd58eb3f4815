"""Suspension: all processes of a unit, no jobs on terminals, and all are resumed."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from t3flow.host.processes import proc, suspension

FORKS = """
import os, time
while True:
    if os.fork() == 0:
        time.sleep(0.5)
        os._exit(0)
    while os.waitpid(-1, os.WNOHANG)[0]:
        pass
    time.sleep(0.003)
"""
THREADS = """
import threading
for _ in range(20):
    threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()
print("runs", flush=True)
threading.Event().wait()
"""


@pytest.fixture
def runs() -> Iterator[Callable[..., int]]:
    """Start a session that runs Python code or a command; return its first pid."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, text: str = "") -> int:
        command = [sys.executable, "-c", text] if text else list(words)
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
        return started[-1].pid

    yield start
    for child in started:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def states(pids: list[int]) -> set[str]:
    return {stat.state for pid in pids if (stat := proc.stat_of(pid)) is not None and stat.state != "Z"}


def test_all_stop_and_all_go_on(runs: Callable[..., int]) -> None:
    """Also if the block raises."""
    pids = [runs("sleep", "100") for _ in range(5)]
    with suppress(ZeroDivisionError), suspension.suspended(lambda: pids) as processes:
        assert (sorted(processes.pids), states(pids)) == (sorted(pids), {"T"})
        raise ZeroDivisionError
    deadline = time.monotonic() + 5
    while states(pids) != {"S"}:
        assert time.monotonic() < deadline


def test_a_process_that_starts_others_is_caught_with_them(runs: Callable[..., int]) -> None:
    """The list is read until it contains no new process, so a process started between two reads is stopped too."""
    parent = runs(text=FORKS)
    time.sleep(0.3)
    children = Path(f"/proc/{parent}/task/{parent}/children")

    def listed() -> list[int]:
        return [parent, *(int(word) for word in children.read_text().split())]

    with suspension.suspended(listed) as processes:
        found = listed()
        time.sleep(0.2)
        assert len(found) > 5
        assert set(listed()) == set(found), "nothing was started since"
        assert states(found) == {"T"}
        assert {pid for pid in found if proc.is_alive(pid)} <= set(processes.pids)


def test_every_thread_has_stopped(runs: Callable[..., int]) -> None:
    pid = runs(text=THREADS)
    time.sleep(0.3)
    with suspension.suspended(lambda: [pid]):
        assert {
            path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")
        } == {"T"}


def test_a_process_that_is_gone_is_no_obstacle(runs: Callable[..., int]) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    pid = runs("sleep", "100")
    with suspension.suspended(lambda: [gone.pid, pid]) as processes:
        assert processes.pids == [pid]


def on_a_terminal(*words: str) -> tuple[int, int]:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(words[0], words)
    return pid, terminal


def test_a_job_on_a_terminal_is_left_alone_unless_it_has_the_state_open(tmp_path: Path) -> None:
    """An interactive shell would report the stopped job and take the terminal from it."""
    file = tmp_path / "userdata" / "state.sqlite"
    file.parent.mkdir()
    file.touch()
    idle, terminal = on_a_terminal("sleep", "100")
    writer, other = on_a_terminal("sh", "-c", f"exec sleep 100 < {file}")
    try:
        deadline = time.monotonic() + 5
        while not any("/userdata/" in path for path in proc.open_files(writer)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with suspension.suspended(lambda: [idle, writer]) as processes:
            assert processes.pids == [writer]
            assert states([idle]) == {"S"}
    finally:
        for pid, descriptor in ((idle, terminal), (writer, other)):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(descriptor)


def test_those_that_are_ended_never_run_again(runs: Callable[..., int]) -> None:
    """The main process is killed last, because its end makes the manager resume the others."""
    main, *others = [runs("sleep", "100") for _ in range(4)]
    with suspension.suspended(lambda: [main, *others]) as processes:
        processes.kill(last=[main])
        assert not any(proc.is_alive(pid) and states([pid]) == {"S"} for pid in (main, *others))
    deadline = time.monotonic() + 5
    while any(proc.is_alive(pid) for pid in (main, *others)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_only_what_is_still_listed_is_ended(runs: Callable[..., int]) -> None:
    """A reused pid is not killed."""
    kept, ended = runs("sleep", "100"), runs("sleep", "100")
    suspension.end_if(kept, list)
    suspension.end_if(ended, lambda: [ended])
    deadline = time.monotonic() + 5
    while proc.is_alive(ended):
        assert time.monotonic() < deadline
    assert proc.is_alive(kept)
