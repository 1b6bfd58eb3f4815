"""Restoring one backup of one user because somebody asked: the present database is kept aside, and the version that knows the backup comes with it.

A backup is a snapshot by the name of its file, or a database that was kept in `userdata/replaced-TIME`. The latter is first made a snapshot, so
that all that follows is the same.
"""

from pathlib import Path
from typing import TypedDict

from t3flow import trials
from t3flow.engine.errors import StepFailed
from t3flow.engine.step import current_run, step
from t3flow.errors import T3flowError
from t3flow.host import backups, kept, records, slots
from t3flow.host.host import Host, this_host
from t3flow.restart import Result, result_of
from t3flow.rolling_back import level_for_the_record, take_there
from t3flow.tasks import Person
from t3flow.versions import parse

NO_END = 1e11


class RestoreError(T3flowError):
    """This backup cannot be put in place. The text says why, and what to do."""


class Wanted(TypedDict):
    """A backup that was asked for: its path ("" for a kept database), schema level, and the version that it belongs to ("": not known)."""

    path: str
    level: int
    wrote: str


class Candidate(TypedDict):
    """A version that may come with a backup: its slot, and its schema level (0: has to be tried)."""

    version: str
    slot: str
    level: int


def find_backup(host: Host, user: str, name: str) -> Wanted:
    """The backup of that name. Raises RestoreError when there is none, or it cannot be read; OwnerProblem."""
    snapshot = next((entry for entry in records.backups(host.journal, user) if Path(entry.path).name == name), None)
    if snapshot is not None:
        if not Path(snapshot.path).is_file():
            raise RestoreError(f"{snapshot.path} is gone, so nothing was restored: see t3flow backups {user}")
        return {"path": snapshot.path, "level": snapshot.level, "wrote": snapshot.wrote}
    aside = kept.find(host, user, name) if name.startswith(kept.PREFIX) else None
    if aside is None:
        raise RestoreError(f"{user} has no backup {name!r}: t3flow backups {user} lists them")
    if aside.level is None:
        raise RestoreError(f"{name} of {user} is no database that can be read, so nothing was restored")
    return {"path": "", "level": aside.level, "wrote": aside.wrote}


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
            "level": records.level_of_version(host.journal, version) or 0,
        }
        for version in sorted(there, key=lambda version: (version != wrote, parse(version)))
    ]


@step()
def snapshot_of_kept(user: str, name: str, wrote: str, target: str) -> str:
    """Makes a snapshot of a kept database, checked; returns its path. Repeating it makes another."""
    return backups.take(this_host(), user, wrote=wrote, target=target, run=current_run(), kept=name).path


def version_for(wanted: Wanted) -> str:
    """The version that wrote a backup, if it has a slot; else the lowest that knows its schema level. "" when none does."""
    for candidate in candidates(wanted["wrote"]):
        if candidate["version"] == wanted["wrote"]:
            return candidate["version"]
        level = candidate["level"]
        if level == 0:
            seed = trials.empty_seed(candidate["version"])
            verdict = trials.try_on(candidate["slot"], candidate["version"], [seed], 1, NO_END)[0]
            level = verdict["level"] if verdict["verdict"] == "pass" else -1
        if level >= wanted["level"]:
            return candidate["version"]
    return ""


def restore_one(person: Person, wanted: Wanted, name: str, version: str) -> Result:
    """Puts a backup in place for a user, with the version; or leaves them as they are, with the reason."""
    user = person["user"]
    try:
        path = wanted["path"] or snapshot_of_kept(user, name, wanted["wrote"], version)
    except StepFailed as failure:
        return result_of("skipped", person["version"], f"{name} cannot be copied: {failure.reason}")
    level_for_the_record(user, person["version"], version)
    return take_there(person, version, path, wanted["level"], f"{name} is in place")
