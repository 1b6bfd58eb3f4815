"""What another account puts where root publishes metrics: in a folder that every account may write to."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from t3flow.service.metrics import textfile

TEXT = b"t3flow_frozen 0.0\n"
PLANTED: dict[str, Callable[[Path, Path], None]] = {
    "symlink": lambda path, victim: path.symlink_to(victim),
    "dangling": lambda path, victim: path.symlink_to(victim.with_name("absent")),
    "file": lambda path, victim: path.write_text("mine"),
    "fifo": lambda path, victim: os.mkfifo(path),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_for_the_textfile_is_replaced(tmp_path: Path, accounts: dict[str, int], planted: str) -> None:
    """In a folder like /tmp: root's file takes the place, and what a link led to is as it was."""
    folder, victim = tmp_path / "open", tmp_path / "victim"
    folder.mkdir()
    folder.chmod(0o1777)
    victim.write_text("root's")
    victim.chmod(0o600)
    path = folder / "t3flow.prom"
    PLANTED[planted](path, victim)
    os.chown(path, accounts["mallory"], accounts["mallory"], follow_symlinks=False)
    textfile.write(path, TEXT)
    status = path.lstat()
    assert (path.read_bytes(), status.st_uid, stat.S_IMODE(status.st_mode)) == (TEXT, 0, 0o644)
    assert stat.S_ISREG(status.st_mode)
    assert (victim.read_text(), stat.S_IMODE(victim.stat().st_mode), os.listdir(folder)) == (
        "root's",
        0o600,
        ["t3flow.prom"],
    )


def test_leftovers_of_others_stay(tmp_path: Path, accounts: dict[str, int]) -> None:
    """Root removes what a killed consumer left, and nothing of another account that looks like it."""
    names = [f".t3flow.prom.{digit * 16}.tmp" for digit in "0123"]
    for name in names[:2]:
        (tmp_path / name).touch()
    os.chown(tmp_path / names[1], accounts["mallory"], accounts["mallory"])
    (tmp_path / names[2]).symlink_to("/etc/passwd")
    (tmp_path / names[3]).mkdir()
    textfile.remove_leftovers(tmp_path / "t3flow.prom")
    assert sorted(os.listdir(tmp_path)) == names[1:]
