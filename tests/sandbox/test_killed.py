"""What the sandbox, the demo, and a benchmark start ends with them: at a signal with their folders, and also when one of their processes is killed."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from t3flow.sandbox import enter

ROOT = Path(__file__).parent.parent.parent
MARK = "KILLED_TEST_MARK"  # the sandbox passes on no names that begin with T3
PROGRAMS = {
    "demo": ([sys.executable, "-m", "t3flow", "demo", "--plain"], 13),
    "benchmark": ([sys.executable, str(ROOT / "bench/status.py"), "--short"], 9),
}
"""Commands, and a number of processes that each has soon."""
FOLDER = re.compile(r"/(?:var/)?tmp/t3flow-(?:bench|demo)-\w+")
SECONDS = 120.0
HELD = """
import sys, time
from pathlib import Path
from t3flow.sandbox.host import Sandbox
box = Sandbox(Path(sys.argv[1]), ["ada"])
box.start("0.0.24", {}, {"schema_level": 30})
box.start_consumer()
print("ready", flush=True)
time.sleep(1000)
"""


def live(mark: str, before: Sequence[psutil.Process] = ()) -> list[psutil.Process]:
    """Return the processes with this mark in their environment, those of their PID namespaces, and those of `before` that live."""
    namespaces, marked = {}, set()
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            namespace = os.readlink(f"/proc/{process.pid}/ns/pid")
            if process.status() != psutil.STATUS_ZOMBIE:
                namespaces[process] = namespace
                if process.environ().get(MARK) == mark:
                    marked.add(process)
    own = os.readlink("/proc/self/ns/pid")
    entered = {namespaces[process] for process in marked} - {own}
    return [
        process for process in namespaces if process in marked or process in before or namespaces[process] in entered
    ]


def folders(processes: list[psutil.Process]) -> set[str]:
    found = set()
    for process in processes:
        with suppress(psutil.Error):
            found |= set(FOLDER.findall(" ".join(process.cmdline())))
    return found


@contextmanager
def started(words: list[str], mark: str, inside: bool = False) -> Iterator["subprocess.Popen[str]"]:
    """Start a command that enters a sandbox of its own unless it is to be `inside` this one."""
    environment = {name: value for name, value in os.environ.items() if inside or name != enter.INSIDE}
    environment[MARK] = mark
    child = subprocess.Popen(
        words, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        for process in [*live(mark), child]:
            with suppress(psutil.Error, OSError):
                process.kill()
        child.communicate()


def await_end(mark: str, before: Sequence[psutil.Process] = ()) -> list[psutil.Process]:
    """Return the processes that do not end."""
    deadline = time.monotonic() + SECONDS
    while (left := live(mark, before)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def test_the_check_notices_a_process_that_stays() -> None:
    """The control: without a sandbox, an orphan outlives a kill."""
    with started(["sh", "-c", "setsid sleep 1000 & echo on; wait"], "control", inside=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.kill()
        child.wait()
        assert [process.name() for process in live("control")] in (["setsid"], ["sleep"])


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "kill the outermost", "kill the first", "kill the command"])
def test_nothing_is_left(name: str, how: str) -> None:
    """At a random moment of the start, or soon after it."""
    words, processes = PROGRAMS[name]
    mark = f"{name} {how} {os.getpid()}"
    chosen = random.Random(f"{os.environ.get('T3CRASH_SEED')} {mark}")
    wanted, seconds = chosen.randint(5, processes), chosen.uniform(0, 2)
    with started(words, mark) as child:
        while len(live(mark)) < wanted:
            assert child.poll() is None, child.communicate()
            time.sleep(0.05)
        time.sleep(seconds)
        if not psutil.Process(child.pid).children():
            pytest.skip("this host allows no PID namespace")
        alive = live(mark)
        made = folders(alive)
        first = psutil.Process(child.pid).children()[0]
        if how.startswith("SIG"):
            child.send_signal(getattr(signal, how))
        else:
            {"outermost": child, "first": first, "command": first.children()[0]}[how.split()[-1]].kill()
        child.wait(SECONDS)
        assert child.returncode != 0
        assert not await_end(mark, alive), f"{wanted} processes, {seconds:.1f} s"
        if how.startswith("SIG"):
            assert made
            assert not [folder for folder in made if Path(folder).exists()]


def test_a_sandbox_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    """Inside a test session, which has one PID namespace: a worker that is killed leaves no servers."""
    mark = f"held {os.getpid()}"
    with started([sys.executable, "-c", HELD, str(tmp_path)], mark, inside=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n", child.communicate()
        assert len(live(mark)) >= 6
        child.kill()
        child.wait()
        assert not await_end(mark)
