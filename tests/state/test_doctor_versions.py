"""The doctor's checks of slots."""

from collections.abc import Callable

from t3flow.host import slots
from t3flow.host.host import Host
from t3flow.state.doctor import versions

OLD, DEFAULT = "0.0.24", "0.0.25-nightly.20260609.501"


def test_an_incomplete_slot_of_an_older_version_moves_nobody_unasked(hosted: Callable[..., Host]) -> None:
    """A bump to it would take all users back to it, where the databases allow that."""
    host = hosted()
    folder = host.settings.paths.versions_dir
    for version in (OLD, DEFAULT):
        slots.slot_path(folder, version).mkdir(parents=True)
    manifest = slots.slot_path(folder, DEFAULT) / slots.MANIFEST
    manifest.write_text("{}")
    slots.set_default(folder, DEFAULT)
    manifest.unlink()
    found = {each.problem.rpartition("/")[2].partition(" ")[0]: each.remedy for each in versions.slots_are_whole(host)}
    assert found[DEFAULT] == f"create it again: t3flow enqueue bump --target {DEFAULT}"
    assert "move all users to it" in found[OLD]
