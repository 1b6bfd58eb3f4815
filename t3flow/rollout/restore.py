"""Restore one backup of one user because an operator asked: the present databases are kept, and the version that knows the backup comes with it.

A backup is a snapshot, named by its file, or databases that were kept in `userdata/replaced-TIME`. The latter are made a snapshot first, so that the
rest is the same.
"""

import shlex
from pathlib import Path
from typing import TypedDict

from t3flow import T3flowError
from t3flow.engine.errors import StepFailed
from t3flow.engine.step import current_run, step
from t3flow.gate import trials
from t3flow.gate.trials import NO_END, Seed, empty_seed
from t3flow.host import slots
from t3flow.host.backups import compatibility, replaced, store
from t3flow.host.host import Host, current_host
from t3flow.host.records import catalog, version_schemas
from t3flow.host.records.version_schemas import Schemas
from t3flow.host.users import Result, result_of
from t3flow.rollout.outcomes import STILL_FROZEN
from t3flow.rollout.rollback import move_back, state_for_the_record
from t3flow.t3 import ledger
from t3flow.t3.versions import parse


class RestoreError(T3flowError):
    """A backup cannot be restored. The text says why, and what to do."""


class Wanted(TypedDict):
    """A requested backup: its path ("" for replaced databases), schema level, and the version that wrote it ("": not known).

    `schema`: the migrations of each database; empty for a snapshot of which an earlier t3flow recorded only the level.
    """

    path: str
    level: int
    wrote: str
    schema: Schemas


class Candidate(TypedDict):
    """A version that may come with a backup: its slot, and which migrations it knows (None: not known yet)."""

    version: str
    slot: str
    schema: dict[str, ledger.Schema] | None


def find_backup(host: Host, user: str, name: str) -> Wanted:
    """Return the backup of that name. Raises RestoreError if there is none or it cannot be read, OwnerProblem."""
    snapshot = next((entry for entry in catalog.backups(host.journal, user) if Path(entry.path).name == name), None)
    if snapshot is not None:
        if gone := next((path for path in snapshot.paths.values() if not path.is_file()), None):
            raise RestoreError(f"{gone} is gone, so nothing was restored: t3flow backups {shlex.quote(user)}")
        return {
            "path": snapshot.path,
            "level": snapshot.level,
            "wrote": snapshot.written_by,
            "schema": snapshot.schema,
        }
    aside = replaced.find(host, user, name) if name.startswith(replaced.PREFIX) else None
    if aside is None:
        raise RestoreError(f"{user} has no backup {name!r}; list them with: t3flow backups {shlex.quote(user)}")
    if aside.level is None:
        raise RestoreError(f"{name} of {user} cannot be read as a database, so nothing was restored")
    schema = compatibility.read_schemas(host, user, replaced=name)
    return {"path": "", "level": aside.level, "wrote": aside.written_by, "schema": schema}


def freeze_reason(user: str, backup: str) -> str:
    """Return why a restore freezes tracking."""
    return f"restoring {backup} of {user}"


@step(former_names=("look_up",))
def resolve_backup(user: str, name: str) -> Wanted:
    """Return the requested backup. Only reads."""
    return find_backup(current_host(), user, name)


@step(former_names=("candidates",))
def candidate_versions(wrote: str) -> list[Candidate]:
    """Return the versions that may come with a backup, the best first: the one that wrote it, then the lowest. Only reads."""
    host = current_host()
    versions_dir = host.settings.paths.versions_dir
    installed = [version for version in slots.installed(versions_dir) if slots.has_slot(versions_dir, version)]
    return [
        {
            "version": version,
            "slot": str(slots.slot_path(versions_dir, version)),
            "schema": version_schemas.schema_of_version(host.journal, version),
        }
        for version in sorted(installed, key=lambda version: (version != wrote, parse(version)))
    ]


@step(former_names=("snapshot_of_kept",))
def snapshot_replaced(user: str, name: str, wrote: str, version: str) -> str:
    """Make a checked snapshot of replaced databases; return its path. A repeat makes another."""
    return store.take(current_host(), user, written_by=wrote, version=version, run=current_run(), replaced=name).path


def version_for(wanted: Wanted) -> str:
    """Return the version that wrote a backup if it is installed, else the lowest that knows its migrations; "" if none does.

    A version whose migrations are not known is tried on an empty base dir; a backup whose migrations are not known is itself tried, as a copy.
    """
    for candidate in candidate_versions(wanted["wrote"]):
        version, slot = candidate["version"], candidate["slot"]
        if version == wanted["wrote"]:
            return version
        schema = wanted.get("schema") or {}
        if not schema:
            seed = seed_of(wanted, version)
            if trials.run_trials(slot, version, [seed], 1, NO_END)[0]["verdict"] == "pass":
                return version
            continue
        known = candidate["schema"]
        if known is None:
            verdict = trials.run_trials(slot, version, [empty_seed(version)], 1, NO_END)[0]
            known = verdict["schema"] if verdict["verdict"] == "pass" else None
        if not compatibility.unknown_migration(known, schema):
            return version
    return ""


def seed_of(wanted: Wanted, version: str) -> Seed:
    """Return a seed of a snapshot of which nothing but its file is known."""
    return {**empty_seed(version), "user": "backup", "path": wanted["path"], "bytes": 0, "level": wanted["level"]}


def no_version_reason(backup: str, wanted: Wanted) -> str:
    """Return why a backup that no installed version knows was not restored, and what to run."""
    fix = "install a version that does"
    if wanted["wrote"]:
        fix = f"t3flow enqueue bump --target {wanted['wrote']} installs it"
    level = wanted["level"]
    return f"{backup} was not restored: no installed version knows its migrations (schema level {level}): {fix}; {STILL_FROZEN}"


def restore_user(user: str, previous: str, wanted: Wanted, backup: str, version: str, *, was_running: bool) -> Result:
    """Restore a backup of a user together with a version; on failure leave the user as they are, with the reason."""
    try:
        path = wanted["path"] or snapshot_replaced(user, backup, wanted["wrote"], version)
    except StepFailed as failure:
        return result_of("skipped", previous, f"{backup} cannot be copied: {failure.reason}")
    state_for_the_record(user, previous, version)
    how = f"restored {backup}"
    return move_back(user, previous, version, path, wanted["level"], how, was_running=was_running)
