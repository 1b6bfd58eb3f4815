"""The textfile: whole at any time, readable, and safe in a folder that others may write to."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t3flow.service.metrics import textfile

TEXT = b"t3flow_frozen 0.0\n"


def test_it_is_readable_by_all_and_replaced_by_a_rename(tmp_path: Path) -> None:
    """Mode 0644 whatever the umask; a reader that has the old file open reads the old text to its end."""
    path = tmp_path / "t3flow.prom"
    umask = os.umask(0o077)
    try:
        textfile.write(path, TEXT)
        with path.open("rb") as old:
            textfile.write(path, TEXT * 2)
            assert old.read() == TEXT
    finally:
        os.umask(umask)
    assert path.read_bytes() == TEXT * 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["t3flow.prom"]


@pytest.mark.parametrize("planted", ["symlink", "dangling", "fifo", "hard link"])
def test_nothing_planted_is_followed(tmp_path: Path, planted: str) -> None:
    """In a world-writable folder: what has the file's name is replaced, and what it led to is as it was."""
    folder, victim = tmp_path / "open", tmp_path / "victim"
    folder.mkdir(mode=0o777)
    folder.chmod(0o1777)
    victim.write_text("secret")
    victim.chmod(0o600)
    path = folder / "t3flow.prom"
    if planted == "fifo":
        os.mkfifo(path)
    elif planted == "hard link":
        os.link(victim, path)
    else:
        path.symlink_to(victim if planted == "symlink" else tmp_path / "absent")
    textfile.write(path, TEXT)
    assert path.lstat().st_size == len(TEXT)
    assert stat.S_ISREG(path.lstat().st_mode)
    assert (victim.read_text(), stat.S_IMODE(victim.stat().st_mode)) == ("secret", 0o600)
    assert sorted(os.listdir(tmp_path)) == ["open", "victim"]


@pytest.mark.parametrize("trouble", ["no folder", "a file in its place", "a folder of that name"])
def test_trouble_leaves_nothing_behind(tmp_path: Path, trouble: str) -> None:
    """An OSError for the caller, and no temporary file."""
    path = tmp_path / "folder" / "t3flow.prom"
    if trouble == "a file in its place":
        path.parent.write_text("")
    elif trouble == "a folder of that name":
        (path / "below").mkdir(parents=True)
    with pytest.raises(OSError, match="director"):
        textfile.write(path, TEXT)
    assert not list(tmp_path.rglob("*.tmp"))


def test_killed_at_any_moment_it_is_whole_and_leftovers_go(tmp_path: Path) -> None:
    """Writers of a megabyte, killed: a reader sees one text or the other; the exporter ignores leftovers, and the next start removes them."""
    path, size = tmp_path / "t3flow.prom", 1_000_000
    program = (
        "import sys; from pathlib import Path; from t3flow.service.metrics import textfile\n"
        f"while True: [textfile.write(Path(sys.argv[1]), mark * {size}) for mark in (b'a', b'b')]"
    )
    left = set()
    for number in range(12):
        child = subprocess.Popen([sys.executable, "-c", program, str(path)])
        deadline = time.monotonic() + 20
        before = path.stat().st_ino if path.exists() else 0
        while not path.exists() or path.stat().st_ino == before:
            assert time.monotonic() < deadline
        time.sleep(number / 1000)
        child.kill()
        child.wait()
        text = path.read_bytes()
        assert text in (b"a" * size, b"b" * size)
        left |= {name for name in os.listdir(tmp_path) if name != path.name}
    assert left, "one of them was killed while it wrote"
    assert not [name for name in left if name.endswith(".prom")]
    (tmp_path / ".other.prom.0123456789abcdef.tmp").touch()
    (tmp_path / ".t3flow.prom.0123456789abcdef.tmp").mkdir()
    textfile.remove_leftovers(path)
    assert sorted(os.listdir(tmp_path)) == [
        ".other.prom.0123456789abcdef.tmp",
        ".t3flow.prom.0123456789abcdef.tmp",
        "t3flow.prom",
    ]
    textfile.remove_leftovers(tmp_path / "absent" / "t3flow.prom")
