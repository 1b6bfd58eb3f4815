"""The simulated power cut loses unsynced data and nothing else. test_crash.py applies it to whole runs."""

import json
import os
import platform
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from power import VARIANTS
from rig import HERE
from tracer import ANY

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the tracer knows the numbers of system calls of x86-64 alone"
)
END = {"mark": ANY, "who": "thread", "call": "kill", "number": 1}
"""`os.kill(os.getpid(), 0)`: the moment of the power cut in the programs below."""


def left(top: Path, program: str, variant: str = "everything", seed: int = 1) -> None:
    """Run a program in the folder and cut the power at its end."""
    log = top.with_suffix(".log")
    top.mkdir(exist_ok=True)
    subprocess.run(
        [
            *(sys.executable, str(HERE / "tracer.py"), "--log", str(log), "--whom", f"power:{variant}:{seed}"),
            *("--top", str(top), "--kill", json.dumps(END), "--", sys.executable, "-c"),
            f"import os, sqlite3\nfrom pathlib import Path\n{program}\nos.kill(os.getpid(), 0)",
        ],
        cwd=top,
        check=False,
        timeout=60,
    )
    assert '"killed"' in log.read_text()


ATOMIC = """
from t3flow.engine.files import link_atomically, write_atomically
write_atomically(Path('kept'), 'one')
write_atomically(Path('kept'), 'two')
link_atomically(Path('link'), 'kept')
"""
FORGETFUL = "Path('.t').write_text('two'); os.rename('.t', 'kept')"
FOLDER_FORGOTTEN = """
with open('.t', 'w') as file:
    file.write('two'); file.flush(); os.fsync(file.fileno())
os.rename('.t', 'kept')
"""


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", range(4))
def test_what_was_synced_is_there(tmp_path: Path, variant: str, seed: int) -> None:
    left(tmp_path / "d", ATOMIC, variant, seed)
    assert (tmp_path / "d" / "kept").read_text() == "two"
    assert os.readlink(tmp_path / "d" / "link") == "kept"


def test_what_was_not_synced_is_lost(tmp_path: Path) -> None:
    """The control: code without a required sync loses data."""
    top = tmp_path / "d"
    top.mkdir()
    (top / "kept").write_text("one")
    left(top, FORGETFUL, "data")
    assert (top / "kept").read_bytes() in (b"", b"\0\0\0")
    (top / "kept").write_text("one")
    left(top, FORGETFUL)
    assert (top / "kept").read_text() == "one"
    left(top, FOLDER_FORGOTTEN)
    assert (top / "kept").read_text() == "one"
    left(top, FOLDER_FORGOTTEN, "data")
    assert (top / "kept").read_text() == "two"


def test_what_was_removed_without_a_sync_is_back(tmp_path: Path) -> None:
    top = tmp_path / "d"
    (top / "folder" / "inner").mkdir(parents=True)
    (top / "folder" / "file").write_text("text")
    (top / "folder" / "inner" / "link").symlink_to("../file")
    left(top, "import shutil; os.rename('folder', 'doomed'); shutil.rmtree('doomed')")
    assert (top / "folder" / "inner" / "link").read_text() == "text"
    assert sorted(os.listdir(top)) == ["folder"]


@pytest.mark.parametrize("synchronous", ["full", "off"])
def test_a_database_keeps_what_was_committed_if_it_syncs(tmp_path: Path, synchronous: str) -> None:
    counted = set()
    for seed in range(8):
        top = tmp_path / str(seed)
        top.mkdir()
        with closing(sqlite3.connect(top / "x.db")) as connection, connection:
            connection.execute("pragma journal_mode = wal")
            connection.execute("create table t (x)")
        program = f"""
c = sqlite3.connect('x.db', isolation_level=None)
c.execute('pragma synchronous = {synchronous}')
for number in range(20):
    c.execute('insert into t values (?)', (number,))
"""
        left(top, program, VARIANTS[seed % 3], seed)
        with closing(sqlite3.connect(top / "x.db")) as connection:
            counted.add(connection.execute("select count(*) from t").fetchone()[0])
            assert connection.execute("pragma integrity_check").fetchone()[0] == "ok"
    assert min(counted) == (20 if synchronous == "full" else 0)
