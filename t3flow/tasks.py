"""The steps: each a task that is journaled, may be queued to run again, and may be repeated after a crash. Every docstring says why it may."""

import time
from pathlib import Path
from typing import Any, TypedDict

from loguru import logger

from t3flow.engine.files import DiskError, claim_folder, is_on_tmpfs, remove_tree, require_space
from t3flow.engine.step import current_run, step
from t3flow.host import freeze as freezing
from t3flow.host import manageable, mounts, preflight, pruning, slots, t3_accounts
from t3flow.host.backups import drop_box, store
from t3flow.host.host import this_host
from t3flow.host.npm import age, command, origin, registry
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.pairing import probe
from t3flow.host.processes import proc
from t3flow.host.pruning import ACCEPTED as ACCEPTED
from t3flow.host.pruning import TO_BE_ACCEPTED
from t3flow.host.records import catalog, deferral_records, facts, known_schemas, rejections
from t3flow.host.services.manager import ServiceError
from t3flow.host.staging import make_slot, scratch_folder, slot_bytes, versions_dir_for
from t3flow.host.users import ANOTHER, Person, ahead, is_behind
from t3flow.settings.user_map import UserMapError
from t3flow.t3.versions import parse

NIGHTLY = "nightly"
"""The one tag whose versions carry its name."""
LAST_BREATH_SECONDS = 5.0
LONGEST_CAUSE = 140
"""Characters of an earlier rejection that a refusal repeats, so that the command to run stays in sight."""
NO_DATABASE = "there is no database"


class Plan(TypedDict):
    """Where a bump goes from and to, whether a person named the target exactly, and what is to be told of its origin."""

    default: str
    target: str
    exact: bool
    notices: list[str]


# Looking ------------------------------------------------------------------------------------------------------------


@step()
def held() -> str:
    """Why tracking is frozen, or "". Only reads."""
    found = freezing.frozen(this_host().settings, this_host().journal)
    if found is None:
        return ""
    logger.warning("FROZEN since {}: {}; `t3flow unfreeze` lets it go on", time.ctime(found["since"]), found["reason"])
    return found["reason"]


@step(interruptible=True)
def resolve(target: str | None) -> Plan:
    """What to move to: the version named, else the pin, else what the tag points at. Only reads."""
    host = this_host()
    default = slots.default_version(host.settings.paths.versions_dir)
    if default is None:
        raise slots.SlotError("no version is installed yet: run `t3flow adopt` first, it takes over what is there")
    exact = target or pin()
    if exact:
        parse(exact)
        if not slots.has_slot(host.settings.paths.versions_dir, exact) and not registry.is_published(host, exact):
            raise command.PackageError(
                f"the registry has no {host.settings.track.package}@{exact}: name a version that is published"
            )
        return {"default": default, "target": exact, "exact": True, "notices": []}
    tag = host.settings.track.tag
    return {"default": default, "target": str(parse(registry.version_of_tag(host, tag))), "exact": False, "notices": []}


def pin() -> str:
    """The version to hold, or "": the consumer's environment, then `t3flow pin`, then the settings file."""
    host = this_host()
    from_environment = host.settings.sources["track.pin"].startswith("environment")
    noted = facts.read(host.journal, "pin")
    return host.settings.track.pin if from_environment or not noted else str(noted)


class Refusal(TypedDict):
    """Why a target is not taken: an outcome and one line; both empty when it is."""

    outcome: str
    reason: str


@step(interruptible=True)
def guard(plan: Plan, again: bool, without: list[str]) -> Refusal:
    """Strictly newer, of the channel, not rejected before (or only for databases that are left out), old enough. Only reads.

    The default itself is taken as long as a user whom t3flow can manage, and who is not left out, does not run it.

    A version that a person named exactly may be of any age and channel, and older.
    """
    host = this_host()
    target, default, tag = plan["target"], plan["default"], host.settings.track.tag
    if target == default and slots.has_slot(host.settings.paths.versions_dir, target):
        found = people.unjournaled(without)
        if not any(is_behind(person, target) for person in found):
            return {"outcome": "up_to_date", "reason": f"{target} is the default already{ahead(found, target)}"}
    if not plan["exact"] and tag == NIGHTLY and not parse(target).is_nightly(tag):
        reason = f"{target} is no {tag}: the tag points elsewhere; if it is meant, name it: t3flow enqueue bump --target {target}"
        return {"outcome": "refused_channel", "reason": reason}
    if not plan["exact"] and parse(target) < parse(default):
        reason = f"{target} is older than {default}; to go back: t3flow enqueue rollback --to {target}"
        return {"outcome": "refused_downgrade", "reason": reason}
    why = rejections.rejected(host.journal).get(target)
    only = rejections.rejected_for(host.journal, target)
    if why is not None and not again and not (only and set(only) <= set(without)):
        cause = why.removeprefix(f"{target} ").partition("; to ")[0]
        cause = cause if len(cause) <= LONGEST_CAUSE else f"{cause[: LONGEST_CAUSE - 1].rstrip()}…"
        reason = (
            f"{target} was rejected before: {cause}; to try it again: t3flow enqueue bump --target {target} --again"
        )
        return {"outcome": "refused_rejected", "reason": reason}
    if not plan["exact"] and (reason := age.too_young(host, target)):
        return {"outcome": "too_young", "reason": reason}
    reason = preflight.trouble(host)
    return {"outcome": "gate_inconclusive" if reason else "", "reason": reason}


@step()
def people(without: list[str]) -> list[Person]:
    """The users of the map and how they are, in its order; those that t3flow cannot manage with the reason. Only reads."""
    host = this_host()
    mapped = host.user_map()
    for problem in mapped.problems:
        logger.warning("user map: {}", problem)
    versions_dir = host.settings.paths.versions_dir
    if not mapped.users and (linked := sorted(slots.links(versions_dir))):
        raise UserMapError(
            f"{host.settings.paths.user_map} names nobody, but {linked[0]} has a t3 here: nothing is done until it names them"
        )
    found: list[Person] = []
    for user, (server, why) in manageable.survey(
        host, [entry.name for entry in mapped.users if entry.name not in without]
    ).items():
        if why:
            logger.warning("UNMANAGED {}: {}", user, why)
        pid = server.main_pid
        runs = probe.version_that_runs(host, user, pid) if pid is not None else None
        if pid is not None and runs is None and proc.is_launched(pid):
            runs = ANOTHER
        version = slots.effective(versions_dir, user) or ""
        found.append({"user": user, "version": version, "running": server.active, "runs": runs or "", "why": why})
    return found


# Staging and the gate -----------------------------------------------------------------------------------------------


@step()
def clean_scratch() -> None:
    """Removes the run's scratch folder. A second time finds nothing to do."""
    remove_tree(scratch_folder(current_run()))


@step(undo=clean_scratch)
def open_scratch() -> None:
    """Makes the run's scratch folder. Repeating it empties it."""
    folder = scratch_folder(current_run())
    try:
        claim_folder(folder, 0o711)
    except OSError as error:
        raise DiskError(f"{folder} cannot be made ({error.strerror}): mend paths.scratch_dir") from error
    if is_on_tmpfs(folder):
        raise DiskError(
            f"{folder} would be kept in memory: set paths.scratch_dir to a folder on a disk, such as /var/tmp"
        )
    require_space(folder, slot_bytes(), "a candidate")


@step()
def unstage(version: str, in_scratch: bool) -> None:
    """Removes the version's slot unless somebody was led to it, is to be, or may go back to it. A second time finds nothing to do.

    Processes of a trial that was just ended may take a moment to go.
    """
    journal = this_host().journal
    if not in_scratch and version in pruning.versions_that_wrote(journal) | pruning.versions_to_come(journal):
        return
    deadline = time.monotonic() + LAST_BREATH_SECONDS
    while (needed_by := slots.remove_slot(versions_dir_for(in_scratch), version)) is not None:
        if not needed_by.startswith("process") or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    if needed_by is not None:
        logger.info("slot {} stays: {} needs it", version, needed_by)


class Staged(TypedDict):
    """A slot, what people should hear of its origin, and whether npm verified the signatures (or why not)."""

    slot: str
    notices: list[str]
    signatures: str


@step(interruptible=True, retries=2, retry_delay_seconds=5, retry_on=(command.RegistryUnreachable,), undo=unstage)
def stage(version: str, in_scratch: bool) -> Staged:
    """Installs a version into a slot. Repeating it is harmless: a complete slot is kept, half of one is thrown away."""
    host = this_host()
    is_there = slots.has_slot(host.settings.paths.versions_dir, version)
    versions_dir = versions_dir_for(in_scratch and not is_there)
    mounts.require_running(host, slots.versions(host.settings.paths.versions_dir), make=not in_scratch)
    if in_scratch:
        mounts.require_running(host, slots.versions(versions_dir), "paths.scratch_dir")
    if not slots.has_slot(versions_dir, version):
        make_slot(versions_dir, version)
    notices = origin.notices(host, versions_dir, version)
    for notice in notices:
        logger.warning("{}", notice)
    signatures = origin.recorded_origin(versions_dir, version).get("signatures", "not known")
    return {"slot": str(slots.slot_path(versions_dir, version)), "notices": notices, "signatures": signatures}


class Snapshot(TypedDict):
    """A backup as a run needs it. `problem` is set instead of `path` when the user's own databases are at fault; `missing`: there are none.

    `files`: file of the state → path of its copy; `schema`: database → its migrations.
    """

    user: str
    path: str
    bytes: int
    level: int
    fingerprint: dict[str, Any] | None
    problem: str
    missing: bool
    files: dict[str, str]
    schema: known_schemas.Schemas


@step(interruptible=True, syncs_first=False)
def back_up(user: str, wrote: str, target: str, in_scratch: bool) -> Snapshot:
    """Take a snapshot. Repeating it takes another or finds that the last one still serves. A full disk fails it, a bad database is reported.

    It may begin before the last user's restart is on disk: it touches nothing of theirs, and names its files in a synced commit before it makes them.
    """
    folder = scratch_folder(current_run()) / "backups" if in_scratch else None
    if folder is not None:
        folder.mkdir(mode=0o711, exist_ok=True)
    try:
        made = _take(user, wrote, target, folder)
    except (OwnerProblem, drop_box.BackupError) as error:
        missing = str(error) == NO_DATABASE
        if missing and not in_scratch:  # whatever is there once they can be moved has not been tried
            rejections.note_untried(this_host().journal, target, [user])
        return {
            "user": user,
            "path": "",
            "bytes": 0,
            "level": 0,
            "fingerprint": None,
            "problem": str(error),
            "missing": missing,
            "files": {},
            "schema": {},
        }
    return {
        "user": user, "path": made.path, "bytes": made.size_bytes, "level": made.level,
        "fingerprint": made.fingerprint, "problem": "", "missing": False,
        "files": {name: str(path) for name, path in made.paths.items()}, "schema": made.schema,
    }  # fmt: skip


def _take(user: str, wrote: str, target: str, folder: Path | None) -> catalog.Backup:
    """Take a snapshot after the user's old ones are removed; on a disk without room for it, once more after everything old is.

    A dry run removes nothing, and neither does a run that goes back: it has chosen a snapshot already.
    """
    host = this_host()
    goes_back = current_run().startswith(pruning.GOING_BACK)
    if folder is None and not goes_back:
        pruning.make_room(host, user)
    try:
        return store.take(host, user, written_by=wrote, version=target, run=current_run(), folder=folder)
    except DiskError as error:
        if folder is not None or goes_back or not (gone := pruning.prune(host, target)):
            raise
        logger.warning("{}: {} old things were removed, and it is tried again", error, len(gone))
        return store.take(host, user, written_by=wrote, version=target, run=current_run(), folder=folder)


@step(syncs_first=False)
def tried_on(version: str) -> list[str]:
    """The users who are deferred to a version that has passed on their databases. Only reads."""
    journal = this_host().journal
    return [
        entry.user
        for entry in deferral_records.deferrals(journal)
        if entry.version == version and not rejections.is_untried(journal, entry.user, version)
    ]


@step()
def canary_order(users: list[Person], snapshots: list[Snapshot]) -> list[Person]:
    """The users in the order of restarts. Only reads."""
    if this_host().settings.canary.order == "map_order":
        return users
    size = {snapshot["user"]: snapshot["bytes"] for snapshot in snapshots}
    return sorted(users, key=lambda user: (size.get(user["user"], 0), user["user"]))


# Changing the host --------------------------------------------------------------------------------------------------


@step()
def link_everyone(default: str) -> list[str]:
    """Gives every account that has no link one to the version it has now, so that the default can move. Repeating it finds nothing to do.

    Every account that may have a t3, managed or not: see `everybody.accounts`.
    """
    return t3_accounts.link(this_host(), default)


@step(retries=4, retry_delay_seconds=2, retry_on=(UserMapError, ServiceError))
def accept(version: str) -> None:
    """Make a version the default and the last good one, and remove what is old by now. Idempotent: two renames, and pruning finds less to do."""
    host = this_host()
    _lead_to(version)
    accepted = [entry for entry in facts.read(host.journal, ACCEPTED) or [] if entry != version]
    facts.write(host.journal, ACCEPTED, [*accepted, version])
    facts.write(host.journal, TO_BE_ACCEPTED, None)
    pruning.prune(host)


@step(retries=4, retry_delay_seconds=2, retry_on=(UserMapError, ServiceError))
def return_to(version: str) -> None:
    """Moves default and last-good, for a version that all were taken back to: the last that was accepted by a bump is still the one that they left.

    Idempotent. What is old by now is removed.
    """
    _lead_to(version)
    pruning.prune(this_host())


def _lead_to(version: str) -> None:
    """Move default and last-good.

    Accounts that have come since get a link first, to what they have: else their next pairing would migrate under them.
    """
    host = this_host()
    if (default := slots.default_version(host.settings.paths.versions_dir)) is not None:
        link_everyone.unjournaled(default)
    slots.set_default(host.settings.paths.versions_dir, version)
    slots.write_last_good(host.settings.paths.last_good_file, version)
    rejections.unreject(host.journal, version)


@step()
def freeze_tracking(reason: str) -> None:
    """Writes the freeze file. Repeating it keeps the first reason."""
    host = this_host()
    freezing.freeze(host.settings, host.journal, reason, by=current_run())
    logger.error("FROZEN: {}", reason)


@step()
def alert(line: str) -> None:
    """Writes a line to the log that alert rules match. Repeating it says it twice."""
    logger.error("{}", line)


@step()
def reject(version: str, reason: str, users: list[str]) -> None:
    """Remembers that a version failed, and on whose databases alone ([]: that is not known). Repeating it writes the same."""
    rejections.reject(this_host().journal, version, reason, users)


@step()
def any_server_runs() -> bool:
    """Whether the server of any user runs whom t3flow can manage. Only reads."""
    host = this_host()
    found = manageable.survey(host, [entry.name for entry in host.user_map().users])
    return any(each.server.active and not each.why for each in found.values())


@step()
def prune(spare: str = "") -> list[str]:
    """Remove old snapshots, and slots but `spare` that nothing needs. Idempotent: repeating it finds less to do."""
    return pruning.prune(this_host(), spare)
