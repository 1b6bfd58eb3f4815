"""Rolling back one user because somebody asked: no idle question, and nothing is lost.

The program alone goes back where the older version is known to know every migration that the databases have been through, or was tried on a copy
of them. Otherwise the newest snapshot of that version is put in place, and the present state is kept aside. What fails is put back as it was.
"""

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
from t3flow.host import manageable, own_activity, preflight, slots
from t3flow.host.backups import compatibility, replaced, restoring, store
from t3flow.host.host import Host, this_host
from t3flow.host.records import catalog, facts, known_schemas, rejections
from t3flow.host.termination import take_away
from t3flow.host.users import Person, Result, result_of
from t3flow.restart import start_server, time_now, verify_user
from t3flow.rollout.revive import start_or_owe
from t3flow.rollout.stop import verify_again
from t3flow.t3 import files
from t3flow.t3.versions import parse
from t3flow.tasks import ACCEPTED, Snapshot, back_up

RUNNING, FAILING, STOPPED = "running", "failing", "stopped"


class Way(TypedDict):
    """Where a user goes back to, and the snapshot for it ("" if none is left) with its level. `stays`: skipped or untouched, and why."""

    target: str
    snapshot: str
    level: int
    stays: str
    reason: str


@step()
def cannot_roll_back_to(version: str) -> str:
    """Why nobody can go back to a version, or "". Only reads."""
    return why_not_to(this_host(), version)


def why_not_to(host: Host, version: str) -> str:
    """As `cannot_roll_back_to`, for the command line, which freezes tracking only if there is a way."""
    versions_dir = host.settings.paths.versions_dir
    if slots.has_slot(versions_dir, version):
        return preflight.trouble(host, [version])
    there = ", ".join(slots.installed(versions_dir)) or "none"
    return f"there is no slot of {version}, so nobody was rolled back and nothing was frozen; there are: {there}"


def freeze_reason(users: list[str], to: str | None) -> str:
    """Why a rollback freezes tracking."""
    return f"a rollback of {', '.join(users) or 'everybody'} to {to or 'the version before'}"


@step()
def find_way_back(user: str, present: str, to: str | None) -> Way:
    """Where a user goes back to: as asked, else the version before the last accepted bump, by what was noted of their snapshots. Only reads."""
    host = this_host()
    versions_dir = host.settings.paths.versions_dir
    of_user = catalog.backups(host.journal, user)
    forward = [
        entry
        for entry in of_user
        if entry.written_by not in ("", entry.version) and not entry.run.startswith(("rollback-", "restore-"))
    ]
    target = to or next((entry.written_by for entry in reversed(forward) if entry.version == present), "")
    accepted: list[str] = facts.read(host.journal, ACCEPTED) or []
    if not to and accepted and is_older(present, accepted[-1]):
        return _stays("untouched", f"on {present}, from before the last accepted bump; to go further back: --to")
    if target == present:
        return _stays("untouched", f"on {present} already")
    if trouble := preflight.trouble(host, [target] if target else []):
        return _stays("skipped", trouble)
    if not target:
        return _stays("skipped", f"no snapshot says what was before {present}: name it with --to")
    if not slots.has_slot(versions_dir, target):
        return _stays(
            "skipped", f"there is no slot of {target} any more: t3flow enqueue bump --target {target} makes one"
        )
    theirs = [entry for entry in of_user if entry.written_by == target]
    there = [entry for entry in theirs if entry.exists]
    if not theirs:
        return _stays("skipped", f"no snapshot of {user} belongs to {target}: see t3flow backups {user}")
    chosen = there[-1] if there else theirs[-1]
    return {
        "target": target,
        "snapshot": there[-1].path if there else "",
        "level": chosen.level,
        "stays": "",
        "reason": "",
    }


def is_older(version: str, other: str) -> bool:
    """Whether a version is older than another. Who is led nowhere, or held by a rollback that failed, is on none."""
    return {"", slots.HOLD}.isdisjoint((version, other)) and parse(version) < parse(other)


def _stays(kind: str, reason: str) -> Way:
    return {"target": "", "snapshot": "", "level": 0, "stays": kind, "reason": reason}


def roll_back(person: Person, to: str | None) -> Result:
    """Takes one user back, or leaves them as they are: rolled_back, untouched, skipped or failed, with the reason."""
    user, present = person["user"], person["version"]
    try:
        way = find_way_back(user, present, to)
    except StepFailed as failure:
        return result_of("failed", present, failure.reason)
    if way["stays"]:
        return result_of(way["stays"], present, way["reason"])
    target, snapshot = way["target"], way["snapshot"]
    state = state_for_the_record(user, present, target)
    fit = fits_as_it_is(target, way["level"], state)
    aside: list[str] = []
    if state is not None and fit["reason"] and (fit["is_open"] or not snapshot):
        fit = serves_as_it_is(user, present, target, state, fit)
        aside = fit["aside"]
    if not fit["reason"]:
        snapshot, what = "", f"the program alone: {target} knows the databases as they are"
    elif snapshot:
        what = f"its snapshot {Path(snapshot).name} is in place"
    else:
        gone = f"the snapshot of {user} for {target} is gone, and {target} cannot go on from what is there"
        return result_of("skipped", present, f"{gone}: {fit['reason']}; see t3flow backups {user}")
    return take_there(person, target, snapshot, way["level"], what, aside)


class Fit(TypedDict):
    """Why a version cannot go on from databases as they are ("": it can). `is_open`: it may all the same, by what an earlier t3flow noted.

    `aside`: the databases that it does not open, which would be taken up later by a version that does. `slot`: where it is.
    """

    slot: str
    reason: str
    is_open: bool
    aside: list[str]


@step()
def fits_as_it_is(target: str, level: int, state: Snapshot | None) -> Fit:
    """Whether a version knows all migrations that a user's databases have been through. Only reads.

    Where nothing but levels was noted, the same level is no proof: numbers were reused.
    """
    host = this_host()
    slot = str(slots.slot_path(host.settings.paths.versions_dir, target))
    if state is None:
        return {"slot": slot, "reason": "the databases as they are cannot be copied", "is_open": False, "aside": []}
    known = known_schemas.schema_of_version(host.journal, target)
    is_open = known is None and level == state["level"]
    return {
        "slot": slot,
        "reason": compatibility.unknown_migration(known, state["schema"]),
        "is_open": is_open,
        "aside": [],
    }


def serves_as_it_is(user: str, present: str, target: str, state: Snapshot, fit: Fit) -> Fit:
    """Tries a version on a copy of a user's databases as they are, in the cell."""
    tasks.open_scratch()
    seed: Seed = {
        "user": user,
        "version": present,
        "path": state["path"],
        "bytes": state["bytes"],
        "level": state["level"],
        "files": state["files"],
    }
    verdict = trials.try_on(fit["slot"], target, [seed], 1, trials.NO_END)[0]
    tasks.clean_scratch()
    if verdict["verdict"] != "pass":
        return {**fit, "reason": f"{fit['reason']}; tried on a copy: {verdict['failed']}"}
    used = (*(verdict["live"] or []), files.FIRST_DATABASE)
    aside = [name for name, listed in state["schema"].items() if listed is not None and name not in used]
    return {**fit, "reason": "", "aside": aside}


def take_there(person: Person, target: str, snapshot: str, level: int, what: str, aside: Sequence[str] = ()) -> Result:
    """Takes a user to a version with a snapshot ("": with the state as it is, but for the databases `aside`).

    The result is rolled_back, or failed and as they were.
    """
    user, present = person["user"], person["version"]
    with current_flow().shielded():
        try:
            with current_flow().saga():
                began = time_now()
                kept_name = f"replaced-{datetime.fromtimestamp(began, UTC):%Y%m%dT%H%M%SZ}"
                found = server_was(user)
                was = RUNNING if found == STOPPED and person["running"] else found
                go_back(user, present, target, snapshot, level, kept_name, was, list(aside))
                if was != STOPPED:
                    start_server(user)
                    paired_at = verify_user(user, target)
                compare_rows(user)
        except UndoFailed as failure:
            logger.error("ROLLBACK FAILED for {}: {}", user, failure)
            return result_of("failed", present, f"ROLLBACK FAILED: {failure}")
        except StepFailed as failure:
            if failure.step == compare_rows.name:
                logger.error("ROLLBACK FAILED for {}: {}", user, failure)
                return result_of("failed", present, f"ROLLBACK FAILED: stays on {present}: {failure}")
            return result_of("failed", present, f"stays on {present}: {failure}")
    if snapshot or aside:
        what += f", what was written since is kept in userdata/{kept_name}"
    if was == STOPPED:
        return result_of("rolled_back", target, f"{what}; the server did not run, so it was not verified")
    return {**result_of("rolled_back", target, what), "downtime_s": round(paired_at - began, 3)}


def state_for_the_record(user: str, present: str, target: str) -> Snapshot | None:
    """Takes a snapshot of what is there, if it can be had. A rollback does not wait for sound databases."""
    try:
        taken = back_up(user, present, target, False)
    except StepFailed:
        return None
    return None if taken["problem"] else taken


@step()
def compare_rows(user: str) -> None:
    """Compares the rows of what was put in place with its snapshot's: a server that hides what was there has not gone back. Only reads."""
    restoring.check_restored(this_host(), user)


@step()
def server_was(user: str) -> str:
    """How a server was before it was touched: RUNNING, FAILING (which a rollback is often asked for) or STOPPED. Only reads."""
    server = this_host().services.state(user)
    return RUNNING if server.active else FAILING if server.is_failing else STOPPED


@step()
def stay(
    user: str,
    former: str,
    target: str,
    snapshot: str,
    level: int,
    kept_name: str,
    was: str,
    aside: Sequence[str] = (),
) -> None:
    """Undo of going back: the kept database is moved back into place, the user led to their version, the server started.

    Repeating it is harmless: each part finds its end reached, or does the same again. One that was failing need not pair.
    """
    host = this_host()
    versions_dir = host.settings.paths.versions_dir
    logger.error("{} could not go back to {}: putting {} back", user, target, former)
    try:
        take_away(host, user)
        if snapshot or aside:
            restoring.undo_restore(host, user, kept_name)
            replaced.forget(host.journal, user, kept_name)
    except T3flowError:
        # The version that fits the database as it is: nobody is left on `hold`.
        slots.assign(versions_dir, user, target if replaced.is_recorded(host.journal, user, kept_name) else former)
        if was != STOPPED:
            start_or_owe(host, user)
        raise
    slots.assign(versions_dir, user, former)
    if was != STOPPED:
        start_or_owe(host, user)
    if was == RUNNING:
        verify_again(host, user, former)
    else:
        own_activity.restarted(host.journal, user)


@step(undo=stay)
def go_back(
    user: str,
    former: str,
    target: str,
    snapshot: str,
    level: int,
    kept_name: str,
    was: str,
    aside: Sequence[str] = (),
) -> None:
    """Stops the server, puts the snapshot ("" for none) in place of the state, which is kept as `kept_name`, and leads the user to the target.

    Repeating it is harmless: held, nobody opens the database meanwhile, and what was kept first stays kept.
    """
    host = this_host()
    versions_dir = host.settings.paths.versions_dir
    logger.warning("rolling back {} from {} to {}, as asked", user, former, target)
    take_away(host, user)
    if snapshot:
        restoring.restore(host, user, store.on_record(host, user, snapshot), kept_name)
    elif aside:
        restoring.set_aside(host, user, list(aside), kept_name)
    if snapshot or aside:
        replaced.note(host.journal, user, kept_name, former)
    slots.assign(versions_dir, user, target)
    if was == STOPPED:
        own_activity.restarted(host.journal, user)


@step()
def reject_left(reasons: dict[str, str]) -> None:
    """Remembers versions that were rolled back from, so that no bump returns to them on its own. A reason that is there stays."""
    journal = this_host().journal
    known = rejections.rejected(journal)
    for version, reason in reasons.items():
        if version not in known:
            rejections.reject(journal, version, reason, [])


@step()
def where_all_are() -> str:
    """The version that every user is led to whom t3flow can manage, if it is one and not the default; else "". Only reads."""
    host = this_host()
    versions_dir = host.settings.paths.versions_dir
    found = manageable.survey(host, [entry.name for entry in host.user_map().users])
    led_to = {slots.effective(versions_dir, user) or "" for user, (_, why) in found.items() if not why}
    version = led_to.pop() if len(led_to) == 1 else ""
    return "" if version == slots.default_version(versions_dir) else version


def how_it_went(results: dict[str, Result], what: str = "rolled back") -> tuple[str, str]:
    """The outcome of a rollback, or of `what` was done, and one line of reason: `error` if anybody had to be left as they were."""
    if managed := {user: found for user, found in results.items() if found["waiting_for"] != "unmanaged"}:
        results = managed  # those whom t3flow cannot manage are no failure of what was done for others
    back = sum(found["result"] == "rolled_back" for found in results.values())
    wrong = [
        f"{user}: {found['reason']}" for user, found in results.items() if found["result"] in ("failed", "skipped")
    ]
    untouched = len(results) - back - len(wrong)
    reason = f"{back} {what}, {untouched} untouched; tracking is frozen: t3flow unfreeze"
    return "error" if wrong else "done", "; ".join([reason, *wrong])
