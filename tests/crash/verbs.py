"""Rollbacks and restores: the user gets the snapshot's data, and later data is kept, complete and once."""

import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rig import BUSY, Attempt, Rig
from scenes import write
from sights import Rows, accepted_is, expect, frozen_for, kept_names, noted_versions, one_is_kept, rows, unrecorded

from t3flow.engine.journal import Run
from t3flow.host import slots
from t3flow.host.backups import replaced
from t3flow.host.host import open_host
from t3flow.host.records import catalog, deferral_records, rejections
from t3flow.sandbox.packages import PACKAGE
from t3flow.service.consumer import open_journal

ADA = "ada"
FAILS = [{"fault": "pairing_500", "when": {"not_scratch": True}}]


@dataclass(frozen=True)
class Scenario:
    """Whether the previous version has another schema level, whether it fails in place, and whether one user is deferred and stays."""

    other_level: bool = True
    fails: bool = False
    deferred: bool = False


ROLLBACKS = {
    "rollback": Scenario(),
    "rollback_program": Scenario(other_level=False, deferred=True),
    "rollback_fails": Scenario(fails=True),
}
RESTORES = ("restore", "restore_kept")


def play_rollback(rig: Rig, found: Attempt) -> Generator[tuple[str, dict[str, Any]], Run, None]:
    """Play `enqueue rollback` of all users, one busy or deferred. After a success, the next bump updates them again."""
    scenario = ROLLBACKS[found.scenario]
    sees_a_bump(rig)
    turn = rig.box.control(BUSY, "turn/start", agent="claude")["turn"]
    if scenario.deferred:
        bump(rig, rig.level, [ADA])
    present, former = (rig.version, rig.level), rig.before or ("", 0)
    written = {user: write_since(rig, user) for user in rig.box.users}
    names = {user: kept_names(rig, user) for user in rig.box.users}
    if scenario.fails:
        misbehave(rig, former[0], FAILS)

    ended = yield "rollback", {"users": [], "to": None}

    goes_back = [] if scenario.fails else [ADA] if scenario.deferred else rig.box.users
    other = "failed" if scenario.fails else "untouched"
    expect(found, "the outcome", ended.outcome, "error" if scenario.fails else "done")
    results = {user: entry["result"] for user, entry in ended.result["users"].items()}
    expect(found, "results", results, {user: "rolled_back" if user in goes_back else other for user in rig.box.users})
    for user in rig.box.users:
        rig.user_is_on(found, user, *(present if scenario.fails else former))
        if user in goes_back and scenario.other_level:
            has_gone_back(
                rig, found, user, rows(newest_of(rig, user, former[0])), written[user], names[user], present[0]
            )
        else:
            has_stayed(rig, found, user, written[user], names[user], undone=scenario.fails)
    frozen_for(rig, found, "a rollback of all users to the version before")
    deferred = [entry.user for entry in deferral_records.deferrals(rig.journal)]
    expect(found, "who is deferred", deferred, [BUSY] if scenario.deferred else [])
    expect(
        found,
        "whether the version left is rejected",
        present[0] in rejections.rejected(rig.journal),
        not scenario.fails,
    )
    accepted_is(rig, found, present[0] if scenario.fails else former[0])
    found.wrong += unrecorded(rig)
    rig.nothing_half_done(found, ended)

    go_on(rig)
    if scenario.fails:
        misbehave(rig, former[0], [])
        forget_turns(rig, BUSY)
    else:
        if scenario.deferred:
            rig.box.control(BUSY, "turn/end", turn=turn)
        rig.version, rig.level = former
        bump(rig, rig.level + 1, rig.box.users)


def play_restore(rig: Rig, found: Attempt) -> Generator[tuple[str, dict[str, Any]], Run, None]:
    """Play `restore` of a user's snapshot from before the bump, or of the replaced database; then the reverse."""
    sees_a_bump(rig)
    present, former = (rig.version, rig.level), rig.before or ("", 0)
    named = newest_of(rig, ADA, former[0])
    there, then = write_since(rig, ADA), rows(named)
    name = named.name
    if found.scenario == "restore_kept":
        [name] = restored(rig, name)
        there, then = write_since(rig, ADA), there
        present, former = former, present
    names, others = kept_names(rig, ADA), rig.server(BUSY)

    ended = yield "restore", {"user": ADA, "backup": name}

    expect(found, "the outcome", ended.outcome, "done")
    results = {user: entry["result"] for user, entry in ended.result["users"].items()}
    expect(found, "results", results, {ADA: "rolled_back"})
    rig.user_is_on(found, ADA, *former)
    rig.user_is_on(found, BUSY, rig.version, rig.level)
    if not rig.whom.startswith("power:"):
        expect(found, "the server of who was not named", rig.server(BUSY), others)
    has_gone_back(rig, found, ADA, then, there, names, present[0])
    frozen_for(rig, found, f"restoring {name} of {ADA}")
    expect(found, "who is deferred", deferral_records.deferrals(rig.journal), [])
    expect(found, "whether a version is rejected", {*former, *present} & rejections.rejected(rig.journal).keys(), set())
    accepted_is(rig, found, rig.version)
    found.wrong += unrecorded(rig)
    rig.nothing_half_done(found, ended)

    if found.scenario == "restore":
        rig.unfreeze()
        restored(rig, *(kept_names(rig, ADA) - names))
        rig.user_is_on(found, ADA, *present)
        expect(found, "the data of ada in the end", rows(rig.box.database(ADA)), there)
    go_on(rig)


# Checks -------------------------------------------------------------------------------------------------------------


def has_gone_back(
    rig: Rig, found: Attempt, user: str, snapshot: Rows, written: Rows, names: set[str], present: str
) -> None:
    """Check that the snapshot's data is in place, and that the replaced database is kept once, complete, and recorded with its version."""
    expect(found, f"the data of {user}", rows(rig.box.database(user)), snapshot)
    one_is_kept(rig, found, user, kept_names(rig, user) - names, written)
    expect(found, f"what is noted as kept of {user}", noted_versions(rig, user, names), [present])


def has_stayed(rig: Rig, found: Attempt, user: str, written: Rows, names: set[str], *, undone: bool) -> None:
    """Check that the user's own data is in place and not replaced; `undone`: the temporary database is kept."""
    expect(found, f"the data of {user}", rows(rig.box.database(user)), written)
    left = [name.endswith("-undone") for name in kept_names(rig, user) - names]
    expect(found, f"what was put aside of {user}", left, [True] if undone else [])
    expect(found, f"what is noted as kept of {user}", noted_versions(rig, user, names), [])


# Preparation and cleanup --------------------------------------------------------------------------------------------


def sees_a_bump(rig: Rig) -> None:
    """Return a host with all users on a version that a bump across a schema level accepted."""
    if rig.before is None:
        bump(rig, rig.level + 1, rig.box.users)


def bump(rig: Rig, level: int, moved: list[str]) -> None:
    """Bump to the next version without disturbance; only these users are restarted."""
    target = rig.publish(level)
    ended = rig.quietly("bump", {"target": target})
    restarted = [user for user, entry in ended.result["users"].items() if entry["result"] == "restarted"]
    assert (ended.outcome, set(restarted)) == ("updated", set(moved)), ended.result
    rig.before = (rig.version, rig.level)
    rig.version, rig.level = target, level


def restored(rig: Rig, name: str) -> set[str]:
    """Restore without disturbance, and return the names of the replaced databases."""
    names = kept_names(rig, ADA)
    ended = rig.quietly("restore", {"user": ADA, "backup": name})
    assert ended.outcome == "done", ended.result
    rig.unfreeze()
    return kept_names(rig, ADA) - names


def newest_of(rig: Rig, user: str, version: str) -> Path:
    """Return the newest snapshot of a user that a version wrote."""
    return next(Path(each.path) for each in reversed(catalog.backups(rig.journal, user)) if each.written_by == version)


def write_since(rig: Rig, user: str) -> Rows:
    """Write new data to a user's database and return all of its rows."""
    write(rig.box.database(user), "create table if not exists since (word text)")
    write(rig.box.database(user), "insert into since values (hex(randomblob(8)))")
    return rows(rig.box.database(user))


def forget_turns(rig: Rig, user: str) -> None:
    """End an interrupted turn. One that began less than 5 s before the server's start counts as live, in case the clock was set."""
    write(rig.box.database(user), "update projection_thread_sessions set active_turn_id = null")


def misbehave(rig: Rig, version: str, rules: list[dict[str, Any]]) -> None:
    """Give an installed version a fault."""
    path = slots.slot_path(rig.settings.paths.versions_dir, version) / "node_modules" / PACKAGE / "behavior.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rules": rules}))


def go_on(rig: Rig) -> None:
    """Unfreeze and drop replaced databases, like an operator."""
    rig.unfreeze()
    journal = open_journal(rig.settings)
    for user in rig.box.users:
        for name in kept_names(rig, user):
            replaced.drop(
                open_host(rig.settings, journal), replaced.ReplacedSet(user, name, 0, 0, None, {}, ""), force=True
            )
