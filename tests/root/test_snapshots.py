"""Snapshots as root: an account that is removed in mid-run, and a disk without free inodes."""

import subprocess

import pytest
from world import World

from t3flow.engine.files import DiskError
from t3flow.host.host import set_current_host
from t3flow.rollout import snapshots


def test_an_account_that_is_removed_in_mid_run_is_its_users_own_trouble(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has listed its users before. The others are backed up."""
    set_current_host(world.host)
    monkeypatch.setattr(snapshots, "current_run", lambda: "bump-1")
    gone, ada = snapshots.back_up_users.unjournaled({"removed": "1.0.0", "ada": "1.0.0"}, "2.0.0", False)
    assert "account removed does not exist" in gone["problem"]
    assert not gone["missing"]
    assert (ada["user"], ada["problem"]) == ("ada", "")
    assert ada["path"]
    assert "does not exist" in snapshots.back_up.unjournaled("removed", "1.0.0", "2.0.0", False)["problem"]


def test_a_disk_without_free_inodes_is_the_disks_fault(world: World) -> None:
    """It has room, so that only an attempt to create a file shows it. The user is not at fault, and the run retries when there is room."""
    top = world.top / "backups"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=3,mode=711,size=200m", "none", str(top)], check=True)
    try:
        with pytest.raises(DiskError, match=r"no backup of ada: .* cannot be written \(No space left on device\)"):
            world.snapshot("ada")
    finally:
        subprocess.run(["umount", "-l", str(top)], check=True)
