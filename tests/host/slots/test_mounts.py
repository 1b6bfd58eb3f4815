"""A file system that is noexec or read-only is reported in one line with the remedy."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from t3flow.engine.files import DiskError
from t3flow.host.host import open_host
from t3flow.host.slots import mounts
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import create_state_dir, open_journal
from t3flow.settings import load as settings_module
from t3flow.state.doctor.versions import slots_are_whole

LOOK = "import sys; from pathlib import Path; from t3flow.host.slots import mounts; print(mounts.problem(Path(sys.argv[1])))"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "noexec",
            "is mounted noexec, so t3 cannot run from it: mount -o remount,exec {top}, or set paths.versions_dir",
        ),
        ("ro", "is mounted read-only: mount -o remount,rw {top}, or set paths.versions_dir"),
        ("rw", ""),
    ],
)
def test_how_the_folder_is_mounted(tmp_path: Path, options: str, said: str) -> None:
    """In the test's own mount namespace, with a real file system; the folder does not exist yet."""
    mount = f'mount -t tmpfs -o {options} none "{tmp_path}" && exec "$0" -c "$1" "{tmp_path}/versions"'
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, sys.executable, LOOK]
    finished = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    if "unshare" in finished.stderr:
        pytest.skip(f"no namespaces here: {finished.stderr}")
    assert finished.returncode == 0, finished.stderr
    wanted = said and f"{tmp_path}/versions {said.format(top=tmp_path)}"
    assert finished.stdout.strip() == wanted


def test_a_program_is_tried(make_box: Callable[..., Sandbox]) -> None:
    """It runs and leaves nothing behind. If the folder is inaccessible or the name is taken, the error names path and setting."""
    box = make_box(["ada"], start=False)
    read = settings_module.load(box.config, {})
    create_state_dir(read.paths.state_dir)
    host = open_host(read, open_journal(read, create=True))
    folder = box.top / "opt/t3/versions"
    mounts.require_executable(host, folder)
    assert list(folder.iterdir()) == []
    assert list(slots_are_whole(host)) == []
    (folder / mounts.TRIAL_NAME).mkdir()
    with pytest.raises(DiskError, match=r"versions cannot be written .*: fix paths.versions_dir"):
        mounts.require_executable(host, folder)
    (folder / mounts.TRIAL_NAME).rmdir()
