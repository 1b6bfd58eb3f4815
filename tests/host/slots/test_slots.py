"""Slots are copied, never moved; contain only regular files, folders and inner links; and are complete or missing."""

import os
import stat
from pathlib import Path

import pytest

from t3flow.host import slots
from t3flow.host.slots import SlotError, creation, removal


def tree(top: Path) -> Path:
    """Return an installed tree as npm leaves it."""
    made = top / "tree"
    (made / "node_modules" / "t3" / "bin").mkdir(parents=True)
    (made / "node_modules" / ".bin").mkdir()
    program = made / "node_modules" / "t3" / "bin" / "t3.js"
    program.write_text("#!/usr/bin/env node\n")
    program.chmod(0o4775)
    (made / "node_modules" / "t3" / "data").write_text("x")
    (made / "node_modules" / "t3" / "data").chmod(0o666)
    (made / "node_modules" / ".bin" / "t3").symlink_to("../t3/bin/t3.js")
    return made


def make(top: Path, source: Path, version: str = "1.2.3") -> Path:
    return creation.create_slot(top, version, source, Path("/bin/sh"), {})


def test_modes_are_made_plain_and_links_kept(tmp_path: Path) -> None:
    slot = make(tmp_path, tree(tmp_path))
    modes = {
        str(path.relative_to(slot)): stat.S_IMODE(path.lstat().st_mode)
        for path in slot.rglob("*")
        if not path.is_symlink()
    }
    assert modes["node_modules/t3/bin/t3.js"] == 0o755
    assert modes["node_modules/t3/data"] == 0o644
    assert modes["node_modules/t3"] == 0o755
    assert os.readlink(slot / "node_modules/.bin/t3") == "../t3/bin/t3.js"
    assert slots.has_slot(tmp_path, "1.2.3")
    assert slots.installed(tmp_path) == ["1.2.3"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../etc/passwd", "../../.."])
def test_a_link_that_leads_out_is_refused(tmp_path: Path, target: str) -> None:
    source = tree(tmp_path)
    (source / "node_modules" / "out").symlink_to(target)
    with pytest.raises(SlotError, match="leads out"):
        make(tmp_path, source)
    assert not slots.has_slot(tmp_path, "1.2.3")


def test_a_hard_link_is_refused(tmp_path: Path) -> None:
    source = tree(tmp_path)
    os.link(source / "node_modules/t3/data", source / "node_modules/t3/again")
    with pytest.raises(SlotError, match="not a regular file"):
        make(tmp_path, source)


def test_a_fifo_is_refused(tmp_path: Path) -> None:
    source = tree(tmp_path)
    os.mkfifo(source / "node_modules" / "pipe")
    with pytest.raises(SlotError, match="not a regular file"):
        make(tmp_path, source)


def test_half_a_slot_is_none(tmp_path: Path) -> None:
    """Leftovers of a crash have another name, and the next attempt replaces them."""
    half = slots.slots_dir(tmp_path) / ".1.2.3.partial"
    half.mkdir(parents=True)
    (half / "junk").write_text("x")
    assert not slots.has_slot(tmp_path, "1.2.3")
    assert slots.installed(tmp_path) == []
    slot = make(tmp_path, tree(tmp_path))
    assert not (slot / "junk").exists()
    assert [path.name for path in slots.slots_dir(tmp_path).iterdir()] == ["1.2.3"]


def test_a_slot_without_its_manifest_is_made_again(tmp_path: Path) -> None:
    slot = make(tmp_path, tree(tmp_path))
    (slot / slots.MANIFEST).unlink()
    assert not slots.has_slot(tmp_path, "1.2.3")
    make(tmp_path, tmp_path / "tree")
    assert slots.has_slot(tmp_path, "1.2.3")


def test_what_is_needed_is_not_removed(tmp_path: Path) -> None:
    source = tree(tmp_path)
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        make(tmp_path, source, version)
    slots.set_default(tmp_path, "1.0.0")
    slots.assign(tmp_path, "ada", "2.0.0")
    assert removal.remove_slot(tmp_path, "1.0.0") == "the default link"
    assert removal.remove_slot(tmp_path, "2.0.0") == "the link of ada"
    assert removal.remove_slot(tmp_path, "3.0.0") is None
    assert removal.remove_slot(tmp_path, "3.0.0") is None
    assert slots.installed(tmp_path) == ["1.0.0", "2.0.0"]


def test_nobody_is_led_to_a_slot_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SlotError, match="no usable slot"):
        slots.assign(tmp_path, "ada", "9.9.9")
    assert slots.assigned(tmp_path, "ada") is None


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".", "..", "-x", "a\0b"])
def test_names_cannot_leave_their_folder(tmp_path: Path, name: str) -> None:
    from t3flow.engine.files import DiskError

    with pytest.raises((DiskError, SlotError)):
        slots.assign(tmp_path, name, "1.0.0")
    with pytest.raises((DiskError, SlotError)):
        slots.slot_path(tmp_path, name)
