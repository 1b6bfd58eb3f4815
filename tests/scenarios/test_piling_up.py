"""Nightlies that no bump accepts: what drains accept is pruned as well."""

from collections.abc import Callable

from scenes import FIRST, bump, drained, is_busy

from t3flow.host.records import catalog
from t3flow.sandbox.host import Sandbox

NIGHTLIES = [f"0.0.25-nightly.2026060{day}.50{day}" for day in range(1, 6)]
KEEP = 2


def test_nightlies_that_only_drains_accept_do_not_pile_up(make_box: Callable[..., Sandbox]) -> None:
    """She is at work at each bump, so that a drain moves her each time, and accepts the version by it."""
    box = make_box(["ada"], extra=f"[backup]\nkeep = {KEEP}\n")
    for number, version in enumerate(NIGHTLIES):
        turn = is_busy(box, "ada")
        box.publish(version, {"schema_level": 30})
        said = bump(box)
        assert said["users"]["ada"]["result"] == "deferred", said
        box.control("ada", "turn/end", turn=turn)
        drained(box, "ada", version)
        box.until(
            lambda box=box, version=version: box.document("status")["default_version"] == version, "it is accepted"
        )
        there = catalog.backups(box.journal)
        assert len({entry.version for entry in there}) <= min(number + 1, KEEP + 1), there
    assert len(there) <= 2 * KEEP
    slots = {path.name for path in (box.top / "opt/t3/versions").iterdir()}
    assert FIRST not in slots
    assert len(slots) <= KEEP + 2
    assert NIGHTLIES[-2] in slots, "where a rollback goes"
    files = set((box.top / "backups/ada").iterdir())
    assert files == {path for entry in there for path in entry.paths.values()}
