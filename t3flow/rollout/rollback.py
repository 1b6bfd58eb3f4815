"""Roll back one user because an operator asked: idleness is not checked, and no data is lost.

If the older version is known to know every migration of the present databases, or passes on a copy of them, only the program goes back. Otherwise the
newest snapshot of that version replaces them, and the present databases are kept. A failure is undone.
"""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

from loguru import logger

from t3flow import T3flowError, tasks
from t3flow.engine.errors import StepFailed, UndoFailed
from t3flow.engine.flow import current_flow
from t3flow.engine.step import step
from t3flow.gate import trials
from t3flow.gate.trials import Seed
from t3flow.host import management, slots
from t3flow.host.activity.termination import stop_all
from t3flow.host.backups import compatibility, replaced, restoring, store
from t3flow.host.host import Host, current_host
from t3flow.host.pairing import own_activity
from t3flow.host.records import catalog, facts, holds, rejections, version_schemas
from t3flow.host.records.holds import HELD_BY
from t3flow.host.slots import preflight
from t3flow.host.users import Result, result_of
from t3flow.restart import start_server, time_now, verify_user
from t3flow.rollout.revive import start_or_owe
from t3flow.rollout.snapshots import back_up
from t3flow.rollout.stop import verify_again
from t3flow.t3 import files
from t3flow.t3.versions import parse
from t3flow.tasks import ACCEPTED, Snapshot

RUNNING, FAILING, STOPPED = "running", "failing", "stopped"


class Way(TypedDict):
    """Where a user goes back to, and the snapshot for it ("": none is left) with its level. `stays`: skipped or untouched, with the reason."""

    target: str
    snapshot: str
    level: int
    stays: str
    reason: str


@step()
def cannot_roll_back_to(version: str) -> str:
    """Return why no user can go back to a version, or "". Only reads."""
    return why_not_to(current_host(), version)


def why_not_to(host: Host, version: str) -> str:
    """Return the same as `cannot_roll_back_to`, for the command line, which asks before it freezes tracking."""
    versions_dir = host.settings.paths.versions_dir
    if slots.has_slot(versions_dir, version):
        return preflight.problem(host, [version])
    there = ", ".join(slots.installed(versions_dir)) or "none"
    return f"there is no slot of {version}, so no user was rolled back and tracking was not frozen; installed: {there}"


def freeze_reason(users: list[str], to: str | None) -> str:
    """Return why a rollback freezes tracking."""
    return f"a rollback of {', '.join(users) or 'all users'} to {to or 'the version before'}"


@step(former_names=("find_way_back",))
def plan_rollback(user: str, previous: str, to: str | None) -> Way:
    """Return where a user goes back to: `to`, else the version before the last accepted bump, as recorded with their snapshots. Only reads."""
    host = current_host()
    versions_dir = host.settings.paths.versions_dir
    of_user = catalog.backups(host.journal, user)
    version = to or catalog.version_before(of_user, previous)
    accepted: list[str] = facts.read(host.journal, ACCEPTED) or []
    if not to and accepted and is_older(previous, accepted[-1]):
        return _stays(
            "untouched",
            f"on {previous}, which is older than the last accepted version; to go further back, name a version: --to VERSION",
        )
    if version == previous:
        return _stays("untouched", f"already on {previous}")
    if trouble := preflight.problem(host, [version] if version else []):
        return _stays("skipped", trouble)
    if not version:
        return _stays("skipped", f"no snapshot records the version before {previous}: name one with --to VERSION")
    if not slots.has_slot(versions_dir, version):
        return _stays("skipped", f"the slot of {version} is gone: t3flow enqueue bump --target {version} installs it")
    matching = [entry for entry in of_user if entry.written_by == version]
    present = [entry for entry in matching if entry.exists]
    if not matching:
        return _stays("skipped", f"{user} has no snapshot from {version}: t3flow backups {shlex.quote(user)}")
    chosen = present[-1] if present else matching[-1]
    return {
        "target": version,
        "snapshot": present[-1].path if present else "",
        "level": chosen.level,
        "stays": "",
        "reason": "",
    }


def is_older(version: str, other: str) -> bool:
    """Return whether a version is older than another. A user without a version, or left at `hold` by a failed rollback, is on none."""
    return {"", slots.RESTORING}.isdisjoint((version, other)) and parse(version) < parse(other)


def _stays(kind: str, reason: str) -> Way:
    return {"target": "", "snapshot": "", "level": 0, "stays": kind, "reason": reason}


def roll_back(user: str, previous: str, to: str | None, *, was_running: bool) -> Result:
    """Roll back one user, or leave them as they are. The result is rolled_back, untouched, skipped or failed, with the reason."""
    try:
        way = plan_rollback(user, previous, to)
    except StepFailed as failure:
        return result_of("failed", previous, failure.reason)
    if way["stays"]:
        return result_of(way["stays"], previous, way["reason"])
    version, snapshot = way["target"], way["snapshot"]
    state = state_for_the_record(user, previous, version)
    fit = check_schema_fit(version, way["level"], state)
    aside: list[str] = []
    if state is not None and fit["reason"] and (fit["is_open"] or not snapshot):
        fit = serves_as_it_is(user, previous, version, state, fit)
        aside = fit["aside"]
    if not fit["reason"]:
        snapshot, how = "", f"only the program went back: {version} knows the present databases"
    elif snapshot:
        how = f"restored the snapshot {Path(snapshot).name}"
    else:
        gone = f"the snapshot of {user} for {version} is gone, and {version} cannot use the present databases"
        return result_of("skipped", previous, f"{gone}: {fit['reason']}; t3flow backups {shlex.quote(user)}")
    return move_back(user, previous, version, snapshot, way["level"], how, aside, was_running=was_running)


class Fit(TypedDict):
    """Why a version cannot use the present databases ("": it can). `is_open`: it may be able to, as an earlier t3flow recorded only levels.

    `aside`: databases that it does not open, which a later version would take up again. `slot`: its folder.
    """

    slot: str
    reason: str
    is_open: bool
    aside: list[str]


@step(former_names=("fits_as_it_is",))
def check_schema_fit(version: str, level: int, state: Snapshot | None) -> Fit:
    """Return whether a version knows all migrations of a user's databases. Only reads.

    If only levels were recorded, an equal level is no proof: numbers were reused.
    """
    host = current_host()
    slot = str(slots.slot_path(host.settings.paths.versions_dir, version))
    if state is None:
        return {"slot": slot, "reason": "the present databases cannot be copied", "is_open": False, "aside": []}
    known = version_schemas.schema_of_version(host.journal, version)
    is_open = known is None and level == state["level"]
    return {
        "slot": slot,
        "reason": compatibility.unknown_migration(known, state["schema"]),
        "is_open": is_open,
        "aside": [],
    }


def serves_as_it_is(user: str, previous: str, version: str, state: Snapshot, fit: Fit) -> Fit:
    """Try a version in the cell on a copy of a user's present databases."""
    tasks.open_scratch()
    seed: Seed = {
        "user": user,
        "version": previous,
        "path": state["path"],
        "bytes": state["bytes"],
        "level": state["level"],
        "files": state["files"],
    }
    verdict = trials.run_trials(fit["slot"], version, [seed], 1, trials.NO_END)[0]
    tasks.clean_scratch()
    if verdict["verdict"] != "pass":
        return {**fit, "reason": f"{fit['reason']}; tried on a copy: {verdict['failed']}"}
    used = (*(verdict["live"] or []), files.FIRST_DATABASE)
    aside = [name for name, listed in state["schema"].items() if listed is not None and name not in used]
    return {**fit, "reason": "", "aside": aside}


def move_back(
    user: str,
    previous: str,
    version: str,
    snapshot: str,
    level: int,
    how: str,
    aside: Sequence[str] = (),
    *,
    was_running: bool,
) -> Result:
    """Move a user to a version with a snapshot ("": with the present databases, except those in `aside`).

    The result is rolled_back, or failed with everything as it was. `how` says in the reason what became of the databases.
    """
    with current_flow().shielded():
        try:
            with current_flow().saga():
                began = time_now()
                replaced_name = f"replaced-{datetime.fromtimestamp(began, UTC):%Y%m%dT%H%M%SZ}"
                state_before = server_state(user)
                state_before = RUNNING if state_before == STOPPED and was_running else state_before
                roll_back_user(user, previous, version, snapshot, level, replaced_name, state_before, list(aside))
                if state_before != STOPPED:
                    start_server(user)
                    paired_at = verify_user(user, version)
                compare_rows(user)
        except UndoFailed as failure:
            logger.error("ROLLBACK FAILED for {}: {}", user, failure)
            return result_of("failed", previous, f"ROLLBACK FAILED: {failure}")
        except StepFailed as failure:
            if failure.step == compare_rows.name:
                logger.error("ROLLBACK FAILED for {}: {}", user, failure)
                return result_of("failed", previous, f"ROLLBACK FAILED: stays on {previous}: {failure}")
            return result_of("failed", previous, f"stays on {previous}: {failure}")
    if snapshot or aside:
        how += f"; the databases as they were are kept in userdata/{replaced_name}"
    if state_before == STOPPED:
        return result_of("rolled_back", version, f"{how}; the server was stopped, so pairing was not verified")
    return {**result_of("rolled_back", version, how), "downtime_s": round(paired_at - began, 3)}


def state_for_the_record(user: str, previous: str, version: str) -> Snapshot | None:
    """Take a snapshot of the present databases if possible. A rollback does not require sound databases."""
    try:
        taken = back_up(user, previous, version, False)
    except StepFailed:
        return None
    return None if taken["problem"] else taken


@step()
def compare_rows(user: str) -> None:
    """Compare the rows of the restored databases with the snapshot's: a server that hides earlier data has not gone back. Only reads."""
    restoring.check_restored(current_host(), user)


@step(former_names=("server_was",))
def server_state(user: str) -> str:
    """Return the state of a server before the rollback: RUNNING, FAILING (a common reason for a rollback) or STOPPED. Only reads."""
    server = current_host().services.state(user)
    return RUNNING if server.active else FAILING if server.is_failing else STOPPED


@step(
    former_names=("stay",),
    former_parameters={"former": "previous", "target": "version", "kept_name": "replaced_name", "was": "state_before"},
)
def undo_roll_back(
    user: str,
    previous: str,
    version: str,
    snapshot: str,
    level: int,
    replaced_name: str,
    state_before: str,
    aside: Sequence[str] = (),
) -> None:
    """Undo a rollback: put the replaced databases back, assign the previous version, start the server.

    Idempotent: each part is skipped or ends the same. A server that was failing before need not pair.
    """
    host = current_host()
    versions_dir = host.settings.paths.versions_dir
    logger.error("{} could not be moved back to {}: returning to {}", user, version, previous)
    try:
        stop_all(host, user)
        if snapshot or aside:
            restoring.undo_restore(host, user, replaced_name)
            replaced.forget(host.journal, user, replaced_name)
    except T3flowError:
        # The version that fits the present databases: no user is left at `hold`.
        slots.assign(
            versions_dir, user, version if replaced.is_recorded(host.journal, user, replaced_name) else previous
        )
        if state_before != STOPPED:
            start_or_owe(host, user)
        raise
    slots.assign(versions_dir, user, previous)
    if state_before != STOPPED:
        start_or_owe(host, user)
    if state_before == RUNNING:
        verify_again(host, user, previous)
    else:
        own_activity.note_restart_end(host.journal, user)


@step(undo=undo_roll_back, former_names=("go_back",))
def roll_back_user(
    user: str,
    previous: str,
    version: str,
    snapshot: str,
    level: int,
    replaced_name: str,
    state_before: str,
    aside: Sequence[str] = (),
) -> None:
    """Stop the server, restore the snapshot ("": none), keep the present databases as `replaced_name`, and assign the version.

    Idempotent: at `hold` no program opens the databases meanwhile, and what was kept first stays kept.
    """
    host = current_host()
    versions_dir = host.settings.paths.versions_dir
    logger.warning("rolling back {} from {} to {}, as requested", user, previous, version)
    stop_all(host, user)
    if snapshot:
        restoring.restore(host, user, store.on_record(host, user, snapshot), replaced_name)
    elif aside:
        restoring.set_aside(host, user, list(aside), replaced_name)
    if snapshot or aside:
        replaced.note(host.journal, user, replaced_name, previous)
    slots.assign(versions_dir, user, version)
    if state_before == STOPPED:
        own_activity.note_restart_end(host.journal, user)


@step(former_names=("reject_left",))
def reject_abandoned(reasons: dict[str, str]) -> None:
    """Reject versions that were rolled back from, so that no bump returns to them on its own. A reason on record stays."""
    journal = current_host().journal
    known = rejections.rejected_here(journal)
    for version, reason in reasons.items():
        if version not in known:
            rejections.reject(journal, version, reason, [])


@step(former_names=("where_all_are",))
def common_version() -> str:
    """Return the version that every managed user whom no operator holds is assigned, if it is one and not the default; else "". Only reads."""
    host = current_host()
    versions_dir = host.settings.paths.versions_dir
    found = management.survey(host, [entry.name for entry in host.user_map().users])
    held = holds.holds(host.journal)
    led_to = {
        slots.effective(versions_dir, user) or "" for user, (_, why) in found.items() if not why and user not in held
    }
    version = led_to.pop() if len(led_to) == 1 else ""
    return "" if version == slots.default_version(versions_dir) else version


def summary(results: dict[str, Result], done: str = "rolled back") -> tuple[str, str]:
    """Return the outcome of a rollback or restore and one line of reason: `error` if any managed user was left as they were."""
    if managed := {user: found for user, found in results.items() if found["waiting_for"] != "unmanaged"}:
        results = managed  # an unmanaged user is no failure of the others
    held = [user for user, found in results.items() if found["reason"].startswith(HELD_BY)]
    results = {user: found for user, found in results.items() if user not in held}
    back = sum(found["result"] == "rolled_back" for found in results.values())
    wrong = [
        f"{user}: {found['reason']}" for user, found in results.items() if found["result"] in ("failed", "skipped")
    ]
    untouched = len(results) - back - len(wrong)
    reason = f"{back} {done}, {untouched} untouched; tracking is frozen: t3flow unfreeze"
    skipped = [f"held and skipped: {', '.join(held)}; to roll one back, name them with --user"] if held else []
    return "error" if wrong else "done", "; ".join([reason, *skipped, *wrong])
