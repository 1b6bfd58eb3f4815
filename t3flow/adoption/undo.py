"""The undo of an adoption: the host as the shell tracker had it, servers running on.

The launcher comes first, so that nobody goes through ours while links go; the old timers come last, so that their tracker finds all of it.
"""

import os
from typing import Any

from t3flow import T3flowError, tasks
from t3flow.adoption import shell_tracker, tracker_backups
from t3flow.adoption.adopt import ADOPTED, adoption_record, switch_timers
from t3flow.adoption.shell_tracker import OldTrackerError
from t3flow.adoption.survey import schemas_read
from t3flow.deferrals import deferral
from t3flow.engine.flow import current_flow
from t3flow.engine.step import step
from t3flow.host import launcher, slots
from t3flow.host.backups import compatibility
from t3flow.host.host import this_host
from t3flow.host.records import deferral_records, facts, known_schemas
from t3flow.host.services import running_version


def give_back(dry_run: bool) -> str:
    """Undoes the adoption of the host; returns what was done. Raises StepFailed with the reason where nothing is to be undone, or may be."""
    noted = adoption_record()
    version = check_undo(noted)
    if dry_run:
        return f"would put {version or 'no t3'} back at the launcher's place, and on: {', '.join(noted['timers']) or 'no timer'}"
    with current_flow().shielded():
        restore_launcher()
        end_deferrals()
        drop_links()
        restore_markers(list(noted["markers"]), noted["folders"])
        switch_timers(noted["timers"], True)
        clear_adoption()
    return f"the launcher is {version or 'gone'} again, servers run on; on again: {', '.join(noted['timers']) or 'no timer'}"


@step(former_names=("check_giving_back",))
def check_undo(noted: dict[str, Any]) -> str:
    """The version that everybody would run again. Raises OldTrackerError where somebody could not pair then. Only reads."""
    host = this_host()
    if not noted:
        raise OldTrackerError("this host was not adopted, so there is nothing to undo")
    kept = launcher.kept_former(host.settings.paths.launcher)
    there = shell_tracker.find_global(host, behind=kept)
    if there is None and not os.path.lexists(kept):
        raise OldTrackerError(
            "there was no t3 here before t3flow, and nobody could pair without one, so nothing is undone; "
            "to take t3flow off and leave a plain t3: deploy/uninstall.sh"
        )
    if there is None:
        return ""
    known = known_schemas.schema_of_version(host.journal, there.version)
    for entry in host.user_map().users:
        try:
            theirs = schemas_read(entry.name)
        except T3flowError as problem:
            if str(problem) == tasks.NO_DATABASE:
                continue
            raise OldTrackerError(
                f"the database of {entry.name} cannot be read, so nothing is undone: {problem}"
            ) from problem
        if unknown := compatibility.unknown_migration(known, theirs):
            raise OldTrackerError(
                f"{entry.name} could not pair any more: the global install is {there.version}, and {unknown}; "
                f"first: t3flow enqueue rollback --user {entry.name}; or take t3flow off and leave a plain t3: deploy/uninstall.sh"
            )
    return there.version


@step(former_names=("bring_back_launcher",))
def restore_launcher() -> None:
    """Puts the former launcher back by one rename. Repeating it finds it there."""
    launcher.bring_back_former(this_host().settings.paths.launcher)


@step()
def end_deferrals() -> None:
    """Takes every deferral off the record. Repeating it finds none."""
    for pending in deferral_records.deferrals(this_host().journal):
        deferral.settle_deferral.unjournaled(pending.user)


@step()
def drop_links() -> None:
    """Removes all links, and the slots that no server runs from. Repeating it finds less to do."""
    host = this_host()
    versions_dir = host.settings.paths.versions_dir
    slots.unlink(versions_dir / "current")
    for user in slots.links(versions_dir):
        slots.unlink(slots.user_link(versions_dir, user))
    for version in slots.installed(versions_dir):
        slots.remove_slot(versions_dir, version)
    slots.remove_partials(versions_dir)


@step(former_names=("bring_back_markers",))
def restore_markers(users: list[str], folders: dict[str, list[int]]) -> None:
    """Moves the markers back, and gives the folders of backups back to their owners. Repeating it finds it done.

    Also of those who were migrated since: the shell tracker's drainer drops a marker whose user was restarted.
    """
    host = this_host()
    shell_tracker.move_markers(shell_tracker.markers_aside(host), shell_tracker.markers_dir(host), users)
    tracker_backups.give_back(host, folders)


@step(former_names=("forget",))
def clear_adoption() -> None:
    """Forgets that the host was adopted. Repeating it is harmless."""
    for key in (ADOPTED, running_version.OLD_SERVERS, tasks.ACCEPTED):
        facts.write(this_host().journal, key, None)
