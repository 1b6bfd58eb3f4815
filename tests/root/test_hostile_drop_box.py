"""The drop box, in which a hostile user leaves the copy of his database for root, and paths that all accounts can write."""

import os
import subprocess
import time

import pytest
from world import World, in_one_line

from t3flow import periodic
from t3flow.engine.files import claim_folder, remove_tree
from t3flow.host.backups import drop_box


@pytest.mark.parametrize(
    ("kind", "refused"),
    [("symlink", True), ("hardlink", True), ("fifo", True), ("folder", True), ("sparse", True), ("grow", True), ("deep", False)],
)  # fmt: skip
def test_his_copy_is_forged_between_its_check_and_its_taking(world: World, kind: str, refused: bool) -> None:
    """A race, repeated until it ends as most do. Whatever the winner: nothing of other accounts is taken or lost, and the box is gone."""
    mine = world.home("mallory") / "mine"
    mine.mkdir()
    os.chown(mine, world.uids["mallory"], world.uids["mallory"])
    goal = {"symlink": world.secret, "hardlink": world.box.database("mallory"), "deep": mine}.get(kind, mine / "other")
    for _ in range(12):
        child = world.begins("forge", world.top / "backups/.incoming/mallory", kind, goal)
        assert child.stdout is not None
        time.sleep(0.2)
        said = in_one_line(world.take)
        with world.host.journal.transaction() as connection:
            connection.execute("delete from backups")
        if bool(said) == refused:
            break
        world.stop()
        subprocess.run(["rm", "-rf", str(mine / "deep"), *map(str, mine.glob("other.*"))], check=True)
    world.nothing_happened()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("symlink", "not a regular file"), ("hardlink", "not a regular file"), ("fifo", "not a regular file"), ("folder", "not a regular file"),
        ("sparse", "make room"), ("nothing", "is missing"), ("others", "not a regular file of theirs"),
    ],
)  # fmt: skip
def test_what_root_takes_from_the_box(world: World, kind: str, words: str) -> None:
    """Only a regular file of his that fits on the disk is taken; anything else is refused with the reason."""
    box, kept = world.top / "box", world.top / "backups/mallory/kept"
    box.mkdir()
    os.chown(box, world.uids["mallory"], world.uids["mallory"])
    if kind == "others":
        (box / "state.sqlite").write_bytes(b"")
    elif kind != "nothing":
        goal = {"symlink": world.secret, "hardlink": world.box.database("mallory")}.get(kind, "")
        world.does("put", kind, box / "state.sqlite", goal)
    assert words in in_one_line(lambda: drop_box.take_copy(box, "state.sqlite", world.host.account("mallory"), kept))
    assert not kept.exists()


def test_what_he_left_in_the_box_is_cleared_away(world: World) -> None:
    """Deeper than Python's own removal goes, with links to other accounts' files and inaccessible folders; and a box that is a link."""
    world.take()
    box = world.top / "backups/.incoming/mallory"
    box.mkdir()
    os.chown(box, world.uids["mallory"], world.uids["mallory"])
    world.does("deep", box / "down")
    world.does("put", "symlink", box / "link", world.home("ada"))
    world.does("put", "folder", box / "closed", "")
    subprocess.run(world.words("chmod", "0", str(box / "closed")), check=True)
    assert in_one_line(world.take) == ""
    box.symlink_to(world.home("ada"))
    assert in_one_line(world.take) == ""
    world.nothing_happened()


def test_the_scratch_folder_of_a_run_whose_name_he_guessed(world: World) -> None:
    """He creates links and folders at its name as fast as possible; root still gets its own folder there."""
    shared = world.top / "scratch"
    os.chmod(shared, 0o1777)
    for number in range(20):
        folder = shared / f"t3flow-bump-20261124T0400-{number}"
        child = world.begins("plant", folder, world.home("ada"))
        assert child.stdout is not None
        child.stdout.readline()
        claim_folder(folder, 0o711)
        status = folder.lstat()
        assert (status.st_uid, status.st_mode & 0o7777, list(folder.iterdir())) == (0, 0o711, [])
        world.stop()
    world.nothing_happened()


def test_what_he_planted_there_stops_no_consumer(world: World) -> None:
    """A link, a file and a bottomless folder, named like those of a run: a starting consumer leaves them alone, however long their removal would take.

    It removes what it has left itself, and follows no link.
    """
    shared = world.top / "scratch"
    os.chmod(shared, 0o1777)
    name = "t3flow-bump-20261124T0400-"
    world.does("put", "symlink", shared / f"{name}link", world.home("ada"))
    world.does("put", "fifo", shared / f"{name}fifo", "")
    world.does("deep", shared / f"{name}deep")
    (shared / f"{name}own").mkdir()
    (shared / f"{name}own/link").symlink_to(world.home("ada"))
    periodic.remove_stale_scratch(world.host)
    assert {path.name for path in shared.iterdir()} == {f"{name}{kind}" for kind in ("link", "fifo", "deep")}
    remove_tree(shared / f"{name}deep")
    world.nothing_happened()
