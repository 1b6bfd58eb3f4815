"""What code in a cell sees, and what it cannot do. Each test has a control outside of the cell, which proves that it would notice."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t3flow.host.cells import cells
from t3flow.host.cells.cells import Isolation
from t3flow.host.children import Finished, TookTooLong
from t3flow.host.host import Host

SECRET = "a-secret-of-this-host"
MEGABYTE = 1024 * 1024


class Cell:
    """A cell with one writable folder, in which programs run."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.folder = folder
        folder.mkdir()
        self.given = cells.isolation(host)
        if not self.given.is_available:
            pytest.skip(f"NOT TESTED: {self.given.missing}")

    def words(self, **more: Any) -> list[str]:
        given = {"own_network": True, "writable": [self.folder], "disk_bytes": 64 * MEGABYTE, **more}
        return cells.cell_command(self.host, self.given, **given)

    def run(self, *command: str, seconds: float = 20, **more: Any) -> Finished:
        return self.host.children.run(
            [*self.words(**more), *command],
            timeout_seconds=seconds,
            environment=cells.environment(HOME=str(self.folder)),
        )

    def python(self, text: str, *arguments: str, **more: Any) -> Any:
        """Run Python code in the cell and return the JSON that it prints."""
        finished = self.run(str(cells.PYTHON), "-I", "-S", "-c", text, *arguments, **more)
        assert finished.code == 0, finished
        return json.loads(finished.stdout)


@pytest.fixture
def cell(bare: Callable[..., Host], tmp_path: Path) -> Cell:
    return Cell(bare(), tmp_path / "cell")


FIND = """
import json, os, sys
found = []
for folder, names, files in os.walk("/", onerror=lambda error: None):
    names[:] = [name for name in names if os.path.join(folder, name) not in ("/proc", "/dev", "/usr", "/etc", sys.base_prefix)]
    for name in files:
        try:
            with open(os.path.join(folder, name), "rb") as file:
                if sys.argv[1].encode() in file.read(100000): found.append(os.path.join(folder, name))
        except OSError: pass
for pid in os.listdir("/proc"):
    for name in ("environ", "cmdline") if pid.isdigit() and int(pid) != os.getpid() else ():
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                if sys.argv[1].encode() in file.read(): found.append(f"/proc/{pid}/{name}")
        except OSError: pass
json.dump(found, sys.stdout)
"""


def test_it_sees_no_home_backup_journal_queue_or_process_of_the_host(cell: Cell) -> None:
    paths = cell.host.settings.paths
    for folder in (cell.host.base_dir("ada"), paths.state_dir, paths.backup_dir, paths.scratch_dir, cell.folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "secret").write_text(SECRET)
    holder = subprocess.Popen(["sleep", "100"], env={"SECRET": SECRET})
    try:
        assert cell.python(FIND, SECRET) == [f"{cell.folder}/secret"], "only the visible paths"
        top = Path(cell.host.settings.paths.state_dir).parent
        everything = subprocess.run(
            [sys.executable, "-c", FIND.replace('os.walk("/"', f'os.walk("{top}"'), SECRET],
            capture_output=True,
            check=True,
        )
        outside = json.loads(everything.stdout)
        assert len([path for path in outside if path.endswith("/secret")]) == 4, "the search finds them outside"
        assert f"/proc/{holder.pid}/environ" in outside
    finally:
        holder.kill()
        holder.wait()


def test_it_has_a_process_tree_and_no_privilege_of_its_own(cell: Cell) -> None:
    text = """
import json, os, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
json.dump([os.getpid(), pids, {key: status[key].strip() for key in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs")},
           sorted(os.environ), os.getuid()], sys.stdout)
"""
    pid, pids, status, environment, uid = cell.python(text)
    assert pid == 1
    assert pids == [1]
    assert {status[key] for key in ("CapEff", "CapPrm", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert set(environment) <= {"PATH", "LANG", "HOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LC_CTYPE"}
    assert uid == os.getuid() != 0


def test_it_reaches_no_server_of_the_host(cell: Cell) -> None:
    text = """
import json, socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=2); answer = "connected"
except OSError as error: answer = type(error).__name__
server = socket.create_server(("0.0.0.0", int(sys.argv[1]))); json.dump(answer, sys.stdout)
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert cell.python(text, str(port)) == "ConnectionRefusedError", (
            "and it can bind the same port on its own 0.0.0.0"
        )
        socket.create_connection(("127.0.0.1", port), timeout=2).close()


def test_what_it_was_shown_cannot_be_changed(cell: Cell, tmp_path: Path) -> None:
    """Neither a write nor the privileges of a nested user namespace change it."""
    shown = tmp_path / "slot"
    shown.mkdir()
    (shown / "program").write_text("as it was")
    attempts = f"""
for path in /usr/bin/mine /etc/mine {shown}/mine /mine; do touch $path 2>/dev/null && echo "wrote $path"; done
rm -rf {shown}/program 2>/dev/null; mv {shown} {shown}.away 2>/dev/null && echo moved
unshare --user --map-root-user --mount sh -c 'mount -o remount,rw,bind {shown} && touch {shown}/mine && echo remounted' 2>/dev/null
unshare --user --map-root-user --mount sh -c 'umount {shown} && ls {shown}/program && echo unmounted' 2>/dev/null
cp /bin/sh {cell.folder}/sh && chmod 4755 {cell.folder}/sh && touch {cell.folder}/writes && echo done
"""
    finished = cell.run("sh", "-c", attempts, visible=[shown])
    assert finished.stdout.decode().split() == ["done"]
    assert (shown / "program").read_text() == "as it was"
    assert [path.name for path in shown.iterdir()] == ["program"]
    assert (cell.folder / "writes").exists(), "its own folder is writable"


def test_nothing_in_it_outlives_it(cell: Cell) -> None:
    """Daemons (two forks) end with the first process; the file that they write stops growing."""
    beat = cell.folder / "beat"
    text = f"setsid sh -c '(while :; do echo x >> {beat}; sleep 0.02; done) &' & sleep 0.5"
    assert cell.run("sh", "-c", text).code == 0
    size = beat.stat().st_size
    assert size > 0
    time.sleep(0.3)
    assert beat.stat().st_size == size


def test_it_dies_with_whoever_made_it(cell: Cell, tmp_path: Path) -> None:
    beat = cell.folder / "beat"
    words = [*cell.words(), "sh", "-c", f"trap '' TERM HUP INT; while :; do echo x >> {beat}; sleep 0.02; done"]
    maker = "import subprocess, sys, json; subprocess.run(json.loads(sys.argv[1]))"
    died = ["setpriv", "--pdeathsig=KILL", "--", *words]
    parent = subprocess.Popen(
        [sys.executable, "-c", maker, json.dumps(died)], env={**os.environ, **cells.environment(HOME=str(cell.folder))}
    )
    deadline = time.monotonic() + 10
    while not beat.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    time.sleep(0.5)
    size = beat.stat().st_size
    time.sleep(0.3)
    assert beat.stat().st_size == size


def test_a_signal_interrupts_it(cell: Cell) -> None:
    began = time.monotonic()
    with pytest.raises(TookTooLong):
        cell.run("sh", "-c", "trap '' TERM; while :; do sleep 1; done", seconds=1)
    assert time.monotonic() - began < 4


HOGS = {
    "memory": ("x = []\nwhile True: x.append(bytearray(50_000_000))", ("memory", "MemoryError")),
    "memory of many": (
        "import os\nfor _ in range(40):\n  if os.fork() == 0:\n    x = bytearray(b'1') * 150_000_000\n    import time; time.sleep(60)\nimport time; time.sleep(60)",
        ("memory",),
    ),
    "processes": ("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", ("processes", "memory")),
    "one file": (
        "f = open('big', 'wb')\nwhile True: f.write(b'x' * 1_000_000); f.flush()",
        ("disk", "File size", "exit", ""),
    ),
    "many files": (
        "n = 0\nwhile True:\n  n += 1\n  open(f'f{n}', 'wb').write(b'x' * 5_000_000)",
        ("MB of disk",),
    ),
    "empty files": ("n = 0\nwhile True:\n  n += 1\n  open(f'f{n}', 'wb').close()", ("files",)),
}


@pytest.mark.parametrize("hog", list(HOGS))
def test_one_that_wants_too_much_is_ended(cell: Cell, hog: str) -> None:
    text, said = HOGS[hog]
    before = os.statvfs(cell.folder)
    lowest = [before.f_bavail]
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.05):
            lowest[0] = min(lowest[0], os.statvfs(cell.folder).f_bavail)

    looking = threading.Thread(target=look)
    looking.start()
    began = time.monotonic()
    finished = cell.run(
        *("sh", "-c", f'cd {cell.folder} && exec {cells.PYTHON} -I -S -c "$0"', text), seconds=60, init=True
    )
    stop.set()
    looking.join()
    assert finished.code != 0
    assert any(word in finished.last_line for word in said), finished
    assert time.monotonic() - began < 30
    assert (before.f_bavail - lowest[0]) * before.f_frsize < 2_000 * MEGABYTE, "its disk usage is bounded"


def test_without_namespaces_only_the_account_changes(cell: Cell) -> None:
    assert cells.cell_command(cell.host, Isolation([], "none"), own_network=True)[0] == "setpriv"


def test_an_installation_is_shown_as_a_whole(tmp_path: Path) -> None:
    """A program is visible with its libraries; a program without an installation only with its folder."""
    (tmp_path / "node" / "bin").mkdir(parents=True)
    (tmp_path / "node" / "lib").mkdir()
    (tmp_path / "node" / "bin" / "node").touch()
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "node").symlink_to(tmp_path / "node" / "bin" / "node")
    assert cells.program_paths(tmp_path / "tools" / "node") == [tmp_path / "tools", tmp_path / "node"]
    assert cells.program_paths(Path("/bin/sh"))[0] == Path("/bin")
