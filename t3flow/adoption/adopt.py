"""Taking a host over from the shell tracker, without stopping a server; and giving it back.

Everything is made ready first: the old timers are off, slots are there, everybody has a link, markers are deferrals. The launcher comes last,
by one rename: until then units, minting and people run what they ran before.
"""

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
from t3flow.host import launcher, mounts, pairing_results, slots
from t3flow.host.host import this_host
from t3flow.host.npm import install
from t3flow.host.records import catalog, facts, rejections
from t3flow.host.records.known_schemas import Schemas
from t3flow.host.services import running_version
from t3flow.host.staging import slot_bytes, versions_dir_for
from t3flow.host.users import Result, result_of
from t3flow.t3.versions import parse

ADOPTED = "adopted"
"""The fact that says what the host was like: version, timers, markers, modes of folders."""
NO_END = 1e11


def take_over(dry_run: bool) -> tuple[Decision, dict[str, Result]]:
    """The adoption, within the caller's saga. Raises StepFailed, Interrupted. With `dry_run` it ends with the decision, made on slots in scratch."""
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
    """The outcome of an adoption and one line about it."""
    users = len(decision["links"])
    does = f"{users} user{'' if users == 1 else 's'} linked, {len(decision['deferrals'])} deferred, default {decision['default']}"
    first = decision["first"]
    drain = f"; to be drained first: {', '.join(first)} (t3flow enqueue drain {' '.join(first)})" if first else ""
    if dry_run:
        return "dry_run_passed", f"would do: {does}{drain}"
    return "done", f"{does}{drain}; undo: t3flow adopt --undo"


def ready_versions(found: Found, dry_run: bool) -> tuple[dict[str, Schemas], list[str]]:
    """A slot for each version that somebody may need, tried once on an empty base dir.

    Returns what migrations each knows, and what was not to be had.
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
            notices.append(f"{version} cannot be had: {failure.reason}")
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
    """What a user gets, as a result to show."""
    runs, led_to = found["servers"][user], decision["links"].get(user) or ""
    target = decision["deferrals"].get(user)
    if why := found.get("unmanaged", {}).get(user):
        return result_of("skipped", led_to, why)
    reason = decision["broken"].get(user) or (f"runs {runs} until the next restart" if runs else "does not run")
    if user in decision["first"] and user not in decision["broken"]:
        reason = f"runs {runs}, is led to {led_to}: the next pairing may part server and database"
    kind = "deferred" if target else "untouched"
    return result_of(kind, led_to or runs, f"{reason}; to move to {target} once idle" if target else reason)


def remembered(found: Found) -> dict[str, Any]:
    """What is noted of an adoption, for its undo."""
    return {key: found[key] for key in ("installed", "timers", "markers", "folders")}


# Taking over --------------------------------------------------------------------------------------------------------


@step()
def switch_back(timers: list[str], on: bool) -> None:
    """Undo of switching timers. Repeating it is harmless."""
    for timer in timers:
        this_host().services.switch(timer, not on)


@step(undo=switch_back)
def switch_timers(timers: list[str], on: bool) -> None:
    """Turns the shell tracker's timers on or off. Repeating it is harmless."""
    for timer in timers:
        this_host().services.switch(timer, on)


@step(former_names=("leave_out",))
def undo_import(version: str, in_scratch: bool, tree: str, program: str) -> None:
    """Undo of taking a version in: its slot goes unless somebody was led to it. A second time finds nothing to do."""
    tasks.unstage.unjournaled(version, in_scratch)


@step(interruptible=True, undo=undo_import, former_names=("take_in",))
def import_install(version: str, in_scratch: bool, tree: str, program: str) -> str:
    """Copies the global install into a slot; returns its path. Repeating it is harmless: a complete slot is kept, half of one is thrown away."""
    host = this_host()
    versions_dir = versions_dir_for(in_scratch)
    mounts.require_running(host, slots.versions(host.settings.paths.versions_dir), make=not in_scratch)
    try:
        versions_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        require_space(versions_dir, slot_bytes(), f"the slot of {version}")
        note = {"run": current_run(), "taken_from": tree}
        package = host.settings.track.package
        path = slots.make_slot(versions_dir, version, Path(tree), install.node_path(), note, package, program)
    except OSError as error:
        raise DiskError(
            f"the slot of {version} cannot be written ({error.strerror}): mend paths.versions_dir"
        ) from error
    return str(path)


@step()
def unmake_links(default: str, links: dict[str, str], former: dict[str, str]) -> None:
    """Undo of making links: they lead where they led before, or go, unless our launcher is in place. Repeating it is harmless."""
    host = this_host()
    versions_dir = host.settings.paths.versions_dir
    if launcher.is_launcher(host.settings.paths.launcher):
        return
    for user, version in links.items():
        if slots.assigned(versions_dir, user) == version and former[user]:
            slots.assign(versions_dir, user, former[user])
        elif slots.assigned(versions_dir, user) == version:
            slots.unlink(slots.user_link(versions_dir, user))
    if default and slots.default_version(versions_dir) == default:
        slots.unlink(versions_dir / "current")


@step(undo=unmake_links)
def make_links(default: str, links: dict[str, str], former: dict[str, str]) -> None:
    """Gives these users links of their own, then the others the default. Repeating it makes the same."""
    host = this_host()
    versions_dir = host.settings.paths.versions_dir
    for user, version in links.items():
        slots.assign(versions_dir, user, version)
    if default:
        slots.set_default(versions_dir, default)
    if default and slots.read_last_good(host.settings.paths.last_good_file) is None:
        slots.write_last_good(host.settings.paths.last_good_file, default)


@step()
def release_backups(folders: dict[str, list[int]], default: str) -> None:
    """Undo of taking backups over: their folders belong to whom they did, and they are off the record. Repeating it is harmless."""
    host = this_host()
    tracker_backups.give_back(host, folders)
    for entry in catalog.backups(host.journal):
        if entry.run == current_run():
            catalog.drop_backups(host.journal, entry.path)


@step(undo=release_backups)
def take_backups(folders: dict[str, list[int]], default: str) -> list[str]:
    """Puts the shell tracker's snapshots on record and out of their owners' reach; returns what was left out. Repeating it finds them there."""
    host = this_host()
    notices = tracker_backups.take_over(host, current_run())
    before = {entry.version for entry in catalog.backups(host.journal) if is_version(entry.version)}
    accepted = facts.read(host.journal, tasks.ACCEPTED)
    if accepted is None:  # whatever it gave to people counts, so that it is kept as long as it would have been
        earlier = sorted((version for version in before if parse(version) < parse(default)), key=parse)
        facts.write(host.journal, tasks.ACCEPTED, [*earlier, default])
    return notices


@step()
def return_markers(
    markers: dict[str, str], deferrals: dict[str, str], first: list[str], broken: dict[str, str]
) -> None:
    """Undo of taking markers: they are back where they were, and their deferrals gone. Repeating it is harmless."""
    host = this_host()
    for user in deferrals:
        deferral.settle_deferral.unjournaled(user)
    facts.write(host.journal, running_version.OLD_SERVERS, None)
    shell_tracker.move_markers(shell_tracker.markers_aside(host), shell_tracker.markers_dir(host), list(markers))


@step(undo=return_markers)
def take_markers(markers: dict[str, str], deferrals: dict[str, str], first: list[str], broken: dict[str, str]) -> None:
    """Makes deferrals of the markers, which are kept aside; who cannot pair comes first. Repeating it finds them made.

    A marker is moved once its deferral is journaled.
    """
    host = this_host()
    shell_tracker.note_servers(host)  # before a drain could take their users for migrated
    for user in sorted(deferrals, key=lambda user: (user not in first, user)):
        if user not in first and user not in markers:  # left on an older version, whose databases nothing was tried on
            rejections.note_untried(host.journal, deferrals[user], [user])
        deferral.put_off(deferrals[user], {user: "window"})
    for user, reason in broken.items():
        pairing_results.note_pairing(host.journal, user, reason)
    if markers:
        shell_tracker.move_markers(shell_tracker.markers_dir(host), shell_tracker.markers_aside(host), list(markers))


@step(former_names=("what_was_adopted",))
def adoption_record() -> dict[str, Any]:
    """What an earlier adoption noted; empty for none. Only reads."""
    return dict(facts.read(this_host().journal, ADOPTED) or {})


@step()
def forget_adoption(former: dict[str, Any], new: dict[str, Any]) -> None:
    """Undo of the note: what was noted before, and without an adoption before it no former launcher is kept aside. Repeating it is harmless."""
    host = this_host()
    facts.write(host.journal, ADOPTED, former or None)
    if not former:
        launcher.forget_former(host.settings.paths.launcher)


@step(undo=forget_adoption)
def note_adoption(former: dict[str, Any], new: dict[str, Any]) -> None:
    """Notes what the host was like, for `--undo`, and keeps the former launcher aside. What was noted first stays. Repeating it is harmless."""
    host = this_host()
    launcher.keep_former(host.settings.paths.launcher)
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
    """Puts the launcher in place by one rename, and notes which servers still run from the old place. Repeating it is harmless.

    The last step: nothing may fail after it.
    """
    host = this_host()
    paths = host.settings.paths
    sandbox = host.settings.serve.backend == "process"
    launcher.install_launcher(paths.launcher, paths.versions_dir, sandbox=sandbox)
    shell_tracker.note_servers(host)
