"""Restoring one backup of one user because somebody asked: the present database is kept aside, and the version that knows the backup comes with it.

A backup is a snapshot by the name of its file, or a database that was kept in `userdata/replaced-TIME`. The latter is first made a snapshot, so
that all that follows is the same.
"""

from pathlib import Path
from typing import TypedDict

from t3flow import T3flowError
from t3flow.engine.errors import StepFailed
from t3flow.engine.step import current_run, step
from t3flow.gate import trials
from t3flow.gate.trials import NO_END, Seed, empty_seed
from t3flow.host import slots
from t3flow.host.backups import compatibility, replaced, store
from t3flow.host.host import Host, this_host
from t3flow.host.records import catalog, known_schemas
from t3flow.host.records.known_schemas import Schemas
from t3flow.host.users import Person, Result, result_of
from t3flow.rollout.rollback import state_for_the_record, take_there
from t3flow.t3 import ledger
from t3flow.t3.versions import parse


class RestoreError(T3flowError):
    """This backup cannot be put in place. The text says why, and what to do."""


class Wanted(TypedDict):
    """A backup that was asked for: its path ("" for a kept one), schema level, and the version that it belongs to ("": not known).

    `schema`: the migrations of each database; empty for a snapshot of which an earlier t3flow noted the level alone.
    """

    path: str
    level: int
    wrote: str
    schema: Schemas


class Candidate(TypedDict):
    """A version that may come with a backup: its slot, and what migrations it knows (None: that has to be seen)."""

    version: str
    slot: str
    schema: dict[str, ledger.Schema] | None


def find_backup(host: Host, user: str, name: str) -> Wanted:
    """The backup of that name. Raises RestoreError when there is none, or it cannot be read; OwnerProblem."""
    snapshot = next((entry for entry in catalog.backups(host.journal, user) if Path(entry.path).name == name), None)
    if snapshot is not None:
        if gone := next((path for path in snapshot.paths.values() if not path.is_file()), None):
            raise RestoreError(f"{gone} is gone, so nothing was restored: see t3flow backups {user}")
        return {
            "path": snapshot.path,
            "level": snapshot.level,
            "wrote": snapshot.written_by,
            "schema": snapshot.schema,
        }
    aside = replaced.find(host, user, name) if name.startswith(replaced.PREFIX) else None
    if aside is None:
        raise RestoreError(f"{user} has no backup {name!r}: t3flow backups {user} lists them")
    if aside.level is None:
        raise RestoreError(f"{name} of {user} is no database that can be read, so nothing was restored")
    schema = compatibility.read_schemas(host, user, replaced=name)
    return {"path": "", "level": aside.level, "wrote": aside.written_by, "schema": schema}


def freeze_reason(user: str, backup: str) -> str:
    """Why a restore freezes tracking."""
    return f"restoring {backup} of {user}"


@step()
def look_up(user: str, name: str) -> Wanted:
    """The backup that was asked for. Only reads."""
    return find_backup(this_host(), user, name)


@step()
def candidates(wrote: str) -> list[Candidate]:
    """The versions that may come with a backup, the best first: the one that wrote it, else the lowest. Only reads."""
    host = this_host()
    versions_dir = host.settings.paths.versions_dir
    there = [version for version in slots.installed(versions_dir) if slots.has_slot(versions_dir, version)]
    return [
        {
            "version": version,
            "slot": str(slots.slot_path(versions_dir, version)),
            "schema": known_schemas.schema_of_version(host.journal, version),
        }
        for version in sorted(there, key=lambda version: (version != wrote, parse(version)))
    ]


@step()
def snapshot_of_kept(user: str, name: str, wrote: str, target: str) -> str:
    """Makes a snapshot of a kept database, checked; returns its path. Repeating it makes another."""
    return store.take(this_host(), user, written_by=wrote, version=target, run=current_run(), replaced=name).path


def version_for(wanted: Wanted) -> str:
    """The version that wrote a backup, if it has a slot; else the lowest that knows its migrations. "" when none does.

    What a version knows is seen on an empty base dir, where it was not seen before. Where no migrations were noted of the backup, a version is
    tried on a copy of it.
    """
    for candidate in candidates(wanted["wrote"]):
        version, slot = candidate["version"], candidate["slot"]
        if version == wanted["wrote"]:
            return version
        schema = wanted.get("schema") or {}
        if not schema:
            seed = seed_of(wanted, version)
            if trials.try_on(slot, version, [seed], 1, NO_END)[0]["verdict"] == "pass":
                return version
            continue
        known = candidate["schema"]
        if known is None:
            verdict = trials.try_on(slot, version, [empty_seed(version)], 1, NO_END)[0]
            known = verdict["schema"] if verdict["verdict"] == "pass" else None
        if not compatibility.unknown_migration(known, schema):
            return version
    return ""


def seed_of(wanted: Wanted, version: str) -> Seed:
    """A snapshot of which nothing but its file is known, to try a version on."""
    return {**empty_seed(version), "user": "backup", "path": wanted["path"], "bytes": 0, "level": wanted["level"]}


def restore_one(person: Person, wanted: Wanted, name: str, version: str) -> Result:
    """Puts a backup in place for a user, with the version; or leaves them as they are, with the reason."""
    user = person["user"]
    try:
        path = wanted["path"] or snapshot_of_kept(user, name, wanted["wrote"], version)
    except StepFailed as failure:
        return result_of("skipped", person["version"], f"{name} cannot be copied: {failure.reason}")
    state_for_the_record(user, person["version"], version)
    return take_there(person, version, path, wanted["level"], f"{name} is in place")
