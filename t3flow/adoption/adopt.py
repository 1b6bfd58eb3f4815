"""Take over a host from the shell tracker without stopping a server.

Everything is prepared first: the old timers are off, slots are installed, every account has an assignment, markers are deferrals. The launcher comes
last, by one rename: until then units, mints and users at a shell run what they ran before.
"""

import shlex
import time
from pathlib import Path
from typing import Any

from t3flow import tasks
from t3flow.adoption import shell_tracker, tracker_backups
from t3flow.adoption.survey import Decision, Found, decide, is_version, known_schemas, survey_host, versions_wanted
from t3flow.deferrals import deferral
from t3flow.engine.errors import StepFailed
from t3flow.engine.files import DiskError, require_space
from t3flow.engine.step import current_run, step
from t3flow.gate import trials
from t3flow.host import slots
from t3flow.host.host import current_host
from t3flow.host.npm import packages
from t3flow.host.npm.staging import slot_bytes, versions_dir_for
from t3flow.host.pairing import last_pairings
from t3flow.host.records import catalog, facts, rejections
from t3flow.host.records.version_schemas import Schemas
from t3flow.host.slots import creation, launcher, mounts, running_version
from t3flow.host.users import Result, result_of
from t3flow.t3.versions import parse

ADOPTED = "adopted"
"""The fact that holds the former state of the host: version, timers, markers, modes of folders."""
NO_END = 1e11


def take_over(dry_run: bool) -> tuple[Decision, dict[str, Result]]:
    """Adopt the host within the caller's saga. With `dry_run`, end with the decision, made on slots in scratch. Raises StepFailed, Interrupted."""
    found = survey_host()
    if not dry_run:
        switch_timers(found["timers"], False)
    tasks.open_scratch()
    schemas, notices = ready_versions(found, dry_run)
    decision = decide(found, schemas, notices)
    results = {user: fate(user, found, decision) for user in found["servers"]}
    if dry_run:
        return decision, results
    fresh = {**{user: decision["links"][user] for user in decision["fresh"]}, **decision.get("others", {})}
    make_links(
        "" if found["default"] else decision["default"], fresh, {user: found["links"].get(user, "") for user in fresh}
    )
    decision["notices"] += take_backups(found["folders"], decision["default"])
    take_markers(found["markers"], decision["deferrals"], decision["first"], decision["broken"])
    note_adoption(adoption_record(), remembered(found))
    tasks.clean_scratch()
    put_launcher()
    return decision, results


def summary(decision: Decision, dry_run: bool) -> tuple[str, str]:
    """Return the outcome of an adoption and one line about it."""
    users = len(decision["links"])
    effect = f"{users} user{'' if users == 1 else 's'} assigned a version, {len(decision['deferrals'])} deferred, default {decision['default']}"
    first = decision["first"]
    drain = f"; drain first: t3flow enqueue drain {shlex.join(first)}" if first else ""
    if dry_run:
        return "dry_run_passed", f"adoption would change: {effect}{drain}"
    return "done", f"{effect}{drain}; to undo: t3flow adopt --undo"


def ready_versions(found: Found, dry_run: bool) -> tuple[dict[str, Schemas], list[str]]:
    """Install a slot for each version that a user may need, and try it once on an empty base dir.

    Return which migrations each knows, and notices about the versions that cannot be used.
    """
    schemas: dict[str, Schemas] = {}
    notices: list[str] = []
    wanted = versions_wanted(found)
    known = known_schemas(wanted)
    for version in wanted:
        try:
            if version == found["installed"]:
                slot = import_install(version, dry_run, found["tree"], found["program"])
            else:
                slot = tasks.stage(version, dry_run)["slot"]
        except StepFailed as failure:
            notices.append(f"{version} cannot be installed: {failure.reason}")
            continue
        if version in known:
            schemas[version] = known[version]
            continue
        verdict = trials.run_trials(slot, version, [trials.empty_seed(version)], 1, NO_END)[0]
        if verdict["verdict"] == "pass":
            schemas[version] = verdict["schema"]
        else:
            notices.append(f"{version} does not work here: {verdict['failed']}")
    return schemas, notices


def fate(user: str, found: Found, decision: Decision) -> Result:
    """Return what the adoption means for a user, as a result to show."""
    runs, assigned = found["servers"][user], decision["links"].get(user) or ""
    target = decision["deferrals"].get(user)
    if reason := found.get("unmanaged", {}).get(user):
        return result_of("skipped", assigned, reason)
    reason = decision["broken"].get(user) or (
        f"runs {runs} until the next restart" if runs else "the server is not running"
    )
    if user in decision["first"] and user not in decision["broken"]:
        reason = f"runs {runs} but is assigned {assigned}: the next pairing may migrate the database under the server"
    kind = "deferred" if target else "untouched"
    return result_of(kind, assigned or runs, f"{reason}; moves to {target} once idle" if target else reason)


def remembered(found: Found) -> dict[str, Any]:
    """Return what is recorded of an adoption for its undo."""
    return {key: found[key] for key in ("installed", "timers", "markers", "folders")}


# Steps -------------------------------------------------------------------------------------------------------------


@step()
def switch_back(timers: list[str], on: bool) -> None:
    """Undo switching the timers. Idempotent."""
    for timer in timers:
        current_host().services.set_enabled(timer, not on)


@step(undo=switch_back)
def switch_timers(timers: list[str], on: bool) -> None:
    """Turn the shell tracker's timers on or off. Idempotent."""
    for timer in timers:
        current_host().services.set_enabled(timer, on)


@step(former_names=("leave_out",))
def undo_import(version: str, in_scratch: bool, tree: str, program: str) -> None:
    """Undo an import: remove the slot unless a user was assigned to it. Idempotent."""
    tasks.unstage.unjournaled(version, in_scratch)


@step(interruptible=True, undo=undo_import, former_names=("take_in",))
def import_install(version: str, in_scratch: bool, tree: str, program: str) -> str:
    """Copy the global install into a slot; return its path. Idempotent: a complete slot is kept, a partial one is discarded."""
    host = current_host()
    versions_dir = versions_dir_for(in_scratch)
    mounts.require_executable(host, slots.slots_dir(host.settings.paths.versions_dir), make=not in_scratch)
    try:
        versions_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        require_space(versions_dir, slot_bytes(), f"the slot of {version}")
        note = {"run": current_run(), "taken_from": tree}
        package = host.settings.track.package
        path = creation.create_slot(versions_dir, version, Path(tree), packages.node_path(), note, package, program)
    except OSError as error:
        raise DiskError(
            f"the slot of {version} cannot be written ({error.strerror}): check paths.versions_dir"
        ) from error
    return str(path)


@step()
def unmake_links(default: str, links: dict[str, str], former: dict[str, str]) -> None:
    """Undo making links: restore or remove them, unless the launcher is in place. Idempotent."""
    host = current_host()
    versions_dir = host.settings.paths.versions_dir
    if launcher.is_launcher(host.settings.paths.launcher):
        return
    for user, version in links.items():
        if slots.assigned(versions_dir, user) == version and former[user]:
            slots.assign(versions_dir, user, former[user])
        elif slots.assigned(versions_dir, user) == version:
            slots.remove_link(slots.user_link(versions_dir, user))
    if default and slots.default_version(versions_dir) == default:
        slots.remove_link(versions_dir / "current")


@step(undo=unmake_links)
def make_links(default: str, links: dict[str, str], former: dict[str, str]) -> None:
    """Assign these versions to these users, and the default to all others. Idempotent."""
    host = current_host()
    versions_dir = host.settings.paths.versions_dir
    for user, version in links.items():
        slots.assign(versions_dir, user, version)
    if default:
        slots.set_default(versions_dir, default)
    if default and slots.read_last_good(host.settings.paths.last_good_file) is None:
        slots.write_last_good(host.settings.paths.last_good_file, default)


@step()
def release_backups(folders: dict[str, list[int]], default: str) -> None:
    """Undo taking over backups: return their folders to the former owners, and drop the records. Idempotent."""
    host = current_host()
    tracker_backups.give_back(host, folders)
    for entry in catalog.backups(host.journal):
        if entry.run == current_run():
            catalog.drop_backups(host.journal, entry.path)


@step(undo=release_backups)
def take_backups(folders: dict[str, list[int]], default: str) -> list[str]:
    """Record the shell tracker's snapshots and take them out of their owners' reach; return notices about skipped ones. Idempotent."""
    host = current_host()
    notices = tracker_backups.take_over(host, current_run())
    before = {entry.version for entry in catalog.backups(host.journal) if is_version(entry.version)}
    accepted = facts.read(host.journal, tasks.ACCEPTED)
    if accepted is None:  # versions that it assigned count as accepted, so that they are kept as long
        earlier = sorted((version for version in before if parse(version) < parse(default)), key=parse)
        facts.write(host.journal, tasks.ACCEPTED, [*earlier, default])
    return notices


@step()
def return_markers(
    markers: dict[str, str], deferrals: dict[str, str], first: list[str], broken: dict[str, str]
) -> None:
    """Undo taking over markers: put them back and remove their deferrals. Idempotent."""
    host = current_host()
    for user in deferrals:
        deferral.settle_deferral.unjournaled(user)
    facts.write(host.journal, running_version.TRACKER_SERVERS, None)
    shell_tracker.move_markers(shell_tracker.markers_aside(host), shell_tracker.markers_dir(host), list(markers))


@step(undo=return_markers)
def take_markers(markers: dict[str, str], deferrals: dict[str, str], first: list[str], broken: dict[str, str]) -> None:
    """Turn markers into deferrals and keep the markers; users who cannot pair come first. Idempotent.

    A marker is moved once its deferral is journaled.
    """
    host = current_host()
    shell_tracker.note_servers(host)  # before a drain could count their users as moved
    for user in sorted(deferrals, key=lambda user: (user not in first, user)):
        if user not in first and user not in markers:  # on an older version, and nothing was tried on their databases
            rejections.note_untried(host.journal, deferrals[user], [user])
        deferral.put_off(deferrals[user], {user: "window"})
    for user, reason in broken.items():
        last_pairings.note_pairing(host.journal, user, reason)
    if markers:
        shell_tracker.move_markers(shell_tracker.markers_dir(host), shell_tracker.markers_aside(host), list(markers))


@step(former_names=("what_was_adopted",))
def adoption_record() -> dict[str, Any]:
    """Return what an earlier adoption recorded; empty for none. Only reads."""
    return dict(facts.read(current_host().journal, ADOPTED) or {})


@step()
def forget_adoption(former: dict[str, Any], new: dict[str, Any]) -> None:
    """Undo the record: restore the earlier one, and without one drop the former launcher that was kept. Idempotent."""
    host = current_host()
    facts.write(host.journal, ADOPTED, former or None)
    if not former:
        launcher.drop_former_launcher(host.settings.paths.launcher)


@step(undo=forget_adoption)
def note_adoption(former: dict[str, Any], new: dict[str, Any]) -> None:
    """Record the state of the host for `--undo`, and keep the former launcher. What was recorded first stays. Idempotent."""
    host = current_host()
    launcher.keep_former_launcher(host.settings.paths.launcher)
    merged = {
        "at": former.get("at", time.time()),
        "installed": new["installed"] or former.get("installed", ""),
        "timers": sorted({*former.get("timers", []), *new["timers"]}),
        "markers": {**new["markers"], **former.get("markers", {})},
        "folders": {**new["folders"], **former.get("folders", {})},
    }
    facts.write(host.journal, ADOPTED, merged)


@step()
def put_launcher() -> None:
    """Install the launcher by one rename, and record which servers still run from the old place. Idempotent.

    The last step: nothing may fail after it.
    """
    host = current_host()
    paths = host.settings.paths
    sandbox = host.settings.serve.backend == "process"
    launcher.install_launcher(paths.launcher, paths.versions_dir, sandbox=sandbox)
    shell_tracker.note_servers(host)
