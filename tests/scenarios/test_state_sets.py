"""Over the change of the live database and back: everybody's state is snapshot, gated, undone, listed and taken back as a set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import DATA, FIRST, NEXT
from scenes import bump, content, everybody_is_well, results, write

from t3flow.host.records import version_schemas
from t3flow.sandbox.host import Sandbox

C = "0.0.42"
D1, D2 = "0.1.0-nightly.20261001.601", "0.1.0-nightly.20261002.602"
QUICK = {"boot_window_ms": 50, "stop_ms": 20}
BOTH = ["ada", "grace"]


def state_of(box: Sandbox, user: str) -> Path:
    return box.database(user).parent


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir() if each.name.startswith("state")}


def has(database: Path, word: str) -> bool:
    return any(word in line for line in content(database))


def on_c(make_box: Callable[..., Sandbox]) -> Sandbox:
    box = make_box(BOTH, start=False)
    box.start(C, dict.fromkeys(BOTH, DATA / "state-level52.sqlite"), {"generation": "C", **QUICK})
    box.start_consumer()
    return box


def test_over_the_change_of_the_live_database_and_back(make_box: Callable[..., Sandbox]) -> None:
    box = on_c(make_box)
    identity = {user: (state_of(box, user) / "environment-id").read_text() for user in BOTH}
    bad = {"fault": "pairing_500", "when": {"not_scratch": True, "user": "grace"}}
    box.publish(D1, {"generation": "D", **QUICK, "rules": [bad]})
    said = bump(box)
    assert (said["outcome"], results(said)) == ("rolled_back", {"ada": "restarted", "grace": "rolled_back"}), said
    everybody_is_well(box, {"ada": D1, "grace": C})
    assert "statev2.sqlite" in names(state_of(box, "ada"))
    assert not any(name.startswith("statev2") for name in names(state_of(box, "grace")))
    assert {user: (state_of(box, user) / "environment-id").read_text() for user in BOTH} == identity
    [kept] = state_of(box, "grace").glob("replaced-*")
    assert "statev2.sqlite" in names(kept)

    box.control("grace", "thread", title="written in between")
    assert box.t3flow("unfreeze").returncode == 0
    box.publish(D2, {"generation": "D", **QUICK})
    said = bump(box)
    assert (said["outcome"], results(said)) == ("updated", dict.fromkeys(BOTH, "restarted")), said
    everybody_is_well(box, dict.fromkeys(BOTH, D2))
    assert has(state_of(box, "grace") / "statev2.sqlite", "written in between"), "it was made anew of the first"
    listed(box)
    taken_back(box)


def listed(box: Sandbox) -> None:
    """One entry a set, with all that is in it."""
    sets = [each for each in box.document("backups", "ada") if each["kind"] == "snapshot"]
    newest: dict[str, Any] = next(each for each in reversed(sets) if each["before"] == D2)
    assert {"state.sqlite", "statev2.sqlite", "environment-id"} <= set(newest["files"])
    assert newest["bytes"] == sum(newest["files"].values())
    assert "statev2.sqlite" in box.t3flow("backups", "ada").stdout
    known = version_schemas.schema_of_version(box.journal, D2)
    assert known is not None
    assert known["statev2.sqlite"][-1][0] == 56


def taken_back(box: Sandbox) -> None:
    """Within the generation the program alone goes back; across it the whole set, and what was written since is kept."""
    box.control("ada", "thread", title="of the newer one")
    said = box.document("enqueue", "rollback", "--user", "ada", "--to", D1, "--wait")
    assert said["users"]["ada"]["result"] == "rolled_back", said
    assert "only the program went back" in said["users"]["ada"]["reason"]
    assert has(state_of(box, "ada") / "statev2.sqlite", "of the newer one")
    box.control("grace", "thread", title="of the newer one")
    said = box.document("enqueue", "rollback", "--user", "grace", "--to", C, "--wait")
    assert said["users"]["grace"]["result"] == "rolled_back", said
    everybody_is_well(box, {"ada": D1, "grace": C})
    assert not any(name.startswith("statev2") for name in names(state_of(box, "grace")))
    kept = max(state_of(box, "grace").glob("replaced-*"))
    assert has(kept / "statev2.sqlite", "of the newer one")
    said = box.document("restore", "grace", kept.name, "--wait")
    assert said["users"]["grace"]["result"] == "rolled_back", said
    assert has(state_of(box, "grace") / "statev2.sqlite", "of the newer one")
    everybody_is_well(box, {"ada": D1, "grace": D2})


def test_the_same_level_is_no_proof_and_a_trial_is(make_box: Callable[..., Sandbox]) -> None:
    """Of what an earlier t3flow has left only levels are known: the older version is tried on a copy, so that nothing newer is put away for nothing."""
    rule = {"fault": "mint_fails", "when": {"database_has_project_title": "odd"}}
    box = make_box(BOTH, behavior={"schema_level": 30, "rules": [rule]})
    box.publish(NEXT, {"schema_level": 30})
    assert bump(box)["outcome"] == "updated"
    with box.journal.transaction() as connection:
        for table in ("schemas", "backup_sets"):
            connection.execute(f"drop table {table}")
    write(box.database("ada"), "create table since as select 'precious' as word")
    box.control("grace", "thread", title="odd")
    write(box.database("grace"), "insert into effect_sql_migrations values (99, '2026', 'Later')")
    for each in (box.top / "backups" / "grace").iterdir():
        each.unlink()
    said = box.document("enqueue", "rollback", "--wait")
    assert results(said) == {"ada": "rolled_back", "grace": "skipped"}, said
    assert "only the program went back" in said["users"]["ada"]["reason"]
    assert has(box.database("ada"), "precious")
    reason = said["users"]["grace"]["reason"]
    assert "the snapshot of grace" in reason
    assert "has migration 99 Later" in reason, "by now it is known what the older version knows"
    assert "tried on a copy" in reason
    everybody_is_well(box, {"ada": FIRST})
    assert box.assigned("grace") == NEXT
