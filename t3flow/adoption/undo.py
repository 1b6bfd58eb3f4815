"""Undo an adoption: give the host back to the shell tracker while servers keep running.

The launcher comes first, so that no process uses t3flow's while links are removed. The old timers come last, so that the tracker finds everything.
"""

import os
import shlex
from typing import Any

from t3flow import T3flowError, tasks
from t3flow.adoption import shell_tracker, tracker_backups
from t3flow.adoption.adopt import ADOPTED, adoption_record, switch_timers
from t3flow.adoption.shell_tracker import OldTrackerError
from t3flow.adoption.survey import schemas_read
from t3flow.deferrals import deferral
from t3flow.engine.flow import current_flow
from t3flow.engine.step import step
from t3flow.host import slots
from t3flow.host.backups import compatibility
from t3flow.host.host import current_host
from t3flow.host.records import deferral_records, facts, version_schemas
from t3flow.host.slots import launcher, removal, running_version


def give_back(dry_run: bool) -> str:
    """Undo the adoption of the host; return what was done. Raises StepFailed if there is nothing to undo, or it is unsafe."""
    record = adoption_record()
    version = check_undo(record)
    if dry_run:
        return f"would restore {version or 'no t3'} as the launcher and turn on {', '.join(record['timers']) or 'no timer'}"
    with current_flow().shielded():
        restore_launcher()
        end_deferrals()
        drop_links()
        restore_markers(list(record["markers"]), record["folders"])
        switch_timers(record["timers"], True)
        clear_adoption()
    return f"restored {version or 'no t3'} as the launcher and turned on {', '.join(record['timers']) or 'no timer'}; servers keep running"


@step(former_names=("check_giving_back",))
def check_undo(noted: dict[str, Any]) -> str:
    """Return the version that all users would run again. Raises OldTrackerError if a user could not pair then. Only reads."""
    host = current_host()
    if not noted:
        raise OldTrackerError("this host was not adopted, so there is nothing to undo")
    former = launcher.former_path(host.settings.paths.launcher)
    install = shell_tracker.find_global(host, behind=former)
    if install is None and not os.path.lexists(former):
        raise OldTrackerError(
            "this host had no t3 before t3flow, and no user could pair without one, so nothing was undone; "
            "to remove t3flow and leave a plain t3: deploy/uninstall.sh"
        )
    if install is None:
        return ""
    known = version_schemas.schema_of_version(host.journal, install.version)
    for entry in host.user_map().users:
        try:
            schema = schemas_read(entry.name)
        except T3flowError as problem:
            if str(problem) == tasks.NO_DATABASE:
                continue
            raise OldTrackerError(
                f"the databases of {entry.name} cannot be read, so nothing was undone: {problem}"
            ) from problem
        if unknown := compatibility.unknown_migration(known, schema):
            raise OldTrackerError(
                f"{entry.name} could no longer pair: the global install is {install.version}, and {unknown}; "
                f"first: t3flow enqueue rollback --user {shlex.quote(entry.name)}; or remove t3flow and leave a plain t3: deploy/uninstall.sh"
            )
    return install.version


@step(former_names=("bring_back_launcher",))
def restore_launcher() -> None:
    """Restore the former launcher by one rename. Idempotent."""
    launcher.restore_former_launcher(current_host().settings.paths.launcher)


@step()
def end_deferrals() -> None:
    """Remove every deferral. Idempotent."""
    for pending in deferral_records.deferrals(current_host().journal):
        deferral.settle_deferral.unjournaled(pending.user)


@step()
def drop_links() -> None:
    """Remove all links, and the slots that no server runs from. Idempotent."""
    host = current_host()
    versions_dir = host.settings.paths.versions_dir
    slots.remove_link(versions_dir / "current")
    for user in slots.links(versions_dir):
        slots.remove_link(slots.user_link(versions_dir, user))
    for version in slots.installed(versions_dir):
        removal.remove_slot(versions_dir, version)
    removal.remove_partials(versions_dir)


@step(former_names=("bring_back_markers",))
def restore_markers(users: list[str], folders: dict[str, list[int]]) -> None:
    """Move the markers back, and return the folders of backups to their owners. Idempotent.

    Users who were moved since get theirs too: the shell tracker drops a marker whose user was restarted.
    """
    host = current_host()
    shell_tracker.move_markers(shell_tracker.markers_aside(host), shell_tracker.markers_dir(host), users)
    tracker_backups.give_back(host, folders)


@step(former_names=("forget",))
def clear_adoption() -> None:
    """Remove the record that the host was adopted. Idempotent."""
    for key in (ADOPTED, running_version.TRACKER_SERVERS, tasks.ACCEPTED):
        facts.write(current_host().journal, key, None)
