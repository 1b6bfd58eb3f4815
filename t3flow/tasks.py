"""The steps of the procedure: journaled, retried, and repeated after a crash. Each docstring says why a repeat is safe."""

import time
from typing import Any, NotRequired, TypedDict

from loguru import logger

from t3flow.engine.files import DiskError, claim_folder, is_on_tmpfs, remove_tree, require_space
from t3flow.engine.step import current_run, step
from t3flow.fleet.following import version_to_follow
from t3flow.fleet.members import is_on
from t3flow.host import freeze as freezing
from t3flow.host import management, pinning, pruning, slots, t3_accounts
from t3flow.host.host import current_host
from t3flow.host.npm import age, command, origin, registry
from t3flow.host.npm.staging import make_slot, scratch_folder, slot_bytes, versions_dir_for
from t3flow.host.pairing import probe
from t3flow.host.processes import proc
from t3flow.host.pruning import ACCEPTED as ACCEPTED
from t3flow.host.pruning import TO_BE_ACCEPTED
from t3flow.host.records import deferral_records, facts, holds, rejections, version_schemas
from t3flow.host.services.manager import ServiceError
from t3flow.host.slots import mounts, preflight, removal
from t3flow.host.users import ANOTHER, User, ahead, is_behind
from t3flow.settings.user_map import UserMapError
from t3flow.t3.versions import parse

NIGHTLY = "nightly"
"""The only tag whose versions carry its name."""
LAST_BREATH_SECONDS = 5.0
LONGEST_CAUSE = 140
"""Characters of an earlier rejection that a refusal repeats, so that the command to run stays in sight."""
NO_DATABASE = "there is no database"


class Plan(TypedDict):
    """Where a bump goes from and to, whether the version is exact (named by an operator or pinned), and notices about its origin.

    `soak_minutes`: how long pairings are watched after the first restart. `together`: all snapshots are one step. Runs that an earlier t3flow began
    have neither. `in_fleet`: there if the host belongs to a fleet, so that the bump waits for its turn.
    """

    default: str
    target: str
    exact: bool
    notices: list[str]
    soak_minutes: NotRequired[float]
    in_fleet: NotRequired[bool]
    together: NotRequired[bool]


# Checks -------------------------------------------------------------------------------------------------------------


@step(former_names=("held",))
def frozen_reason() -> str:
    """Return why tracking is frozen, or "". Only reads."""
    freeze = freezing.frozen(current_host().settings, current_host().journal)
    if freeze is None:
        return ""
    logger.warning("FROZEN since {}: {}; resume with: t3flow unfreeze", time.ctime(freeze["since"]), freeze["reason"])
    return freeze["reason"]


@step(interruptible=True)
def resolve(target: str | None) -> Plan:
    """Return the version to move to: the one named, else the pin, else the one that the tag points at. Only reads.

    A host of a later wave of a fleet follows the earlier waves instead.
    """
    host = current_host()
    default = slots.default_version(host.settings.paths.versions_dir)
    if default is None:
        raise slots.SlotError("no version is installed yet; take over the host first: t3flow adopt")
    exact = target or pinning.pin(host)
    if exact:
        parse(exact)
        if not slots.has_slot(host.settings.paths.versions_dir, exact) and not registry.is_published(host, exact):
            raise command.PackageError(
                f"the registry has no {host.settings.track.package}@{exact}: name a published version"
            )
    newest = "" if exact else str(parse(registry.version_of_tag(host, host.settings.track.tag)))
    version = exact or version_to_follow(host, newest, default)
    soak = host.settings.canary.soak_minutes
    plan: Plan = {
        "default": default,
        "target": version,
        "exact": bool(exact),
        "notices": [],
        "soak_minutes": soak,
        "together": True,
    }
    return {**plan, "in_fleet": True} if is_on(host.settings) else plan


class Refusal(TypedDict):
    """Why a version is not taken: an outcome and one line of reason. Both are empty if it is taken."""

    outcome: str
    reason: str


@step(interruptible=True)
def guard(plan: Plan, again: bool, without: list[str]) -> Refusal:
    """Check that a version is newer, of the channel, not rejected (or only for databases that are left out), and old enough. Only reads.

    The default itself is taken while a managed user, neither left out nor held, does not run it. An exact version may have any age and channel.
    """
    host = current_host()
    version, default, tag = plan["target"], plan["default"], host.settings.track.tag
    if version == default and slots.has_slot(host.settings.paths.versions_dir, version):
        found = survey_users.unjournaled(without)
        if not any(is_behind(user, version) and not user.get("held") for user in found):
            return {"outcome": "up_to_date", "reason": f"{version} is already the default{ahead(found, version)}"}
    if not plan["exact"] and tag == NIGHTLY and not parse(version).is_nightly(tag):
        reason = f"the tag {tag} points at {version}, which is not a {tag} version; to take it anyway: t3flow enqueue bump --target {version}"
        return {"outcome": "refused_channel", "reason": reason}
    if not plan["exact"] and parse(version) < parse(default):
        reason = f"{version} is older than {default}; to go back: t3flow enqueue rollback --to {version}"
        return {"outcome": "refused_downgrade", "reason": reason}
    cause = rejections.rejected(host.journal).get(version)
    only = rejections.rejected_for(host.journal, version)
    if cause is not None and not again and not (only and set(only) <= set(without)):
        cause = cause.removeprefix(f"{version} ").partition("; to ")[0]
        cause = cause if len(cause) <= LONGEST_CAUSE else f"{cause[: LONGEST_CAUSE - 1].rstrip()}…"
        reason = (
            f"{version} was rejected before: {cause}; to try it again: t3flow enqueue bump --target {version} --again"
        )
        return {"outcome": "refused_rejected", "reason": reason}
    if not plan["exact"] and (reason := age.too_young(host, version)):
        return {"outcome": "too_young", "reason": reason}
    reason = preflight.problem(host)
    return {"outcome": "gate_inconclusive" if reason else "", "reason": reason}


@step(former_names=("people",))
def survey_users(without: list[str]) -> list[User]:
    """Return the users of the user map in its order, with the state of each; for unmanaged users the reason. Only reads."""
    host = current_host()
    mapped = host.user_map()
    for problem in mapped.problems:
        logger.warning("user map: {}", problem)
    versions_dir = host.settings.paths.versions_dir
    if not mapped.users and (linked := sorted(slots.links(versions_dir))):
        raise UserMapError(
            f"{host.settings.paths.user_map} names no user, but {linked[0]} is assigned a version: nothing is changed until the map names its users"
        )
    found: list[User] = []
    held = holds.holds(host.journal)
    for user, (server, unmanaged_reason) in management.survey(
        host, [entry.name for entry in mapped.users if entry.name not in without]
    ).items():
        if unmanaged_reason:
            logger.warning("UNMANAGED {}: {}", user, unmanaged_reason)
        pid = server.main_pid
        runs = probe.running_version_of(host, user, pid) if pid is not None else None
        if pid is not None and runs is None and proc.is_past_launch(pid):
            runs = ANOTHER
        version = slots.effective(versions_dir, user) or ""
        found.append(
            {
                "user": user,
                "version": version,
                "running": server.active,
                "runs": runs or "",
                "why": unmanaged_reason,
                "held": held[user].text if user in held else "",
            }
        )
    return found


# Staging and the gate -----------------------------------------------------------------------------------------------


@step()
def clean_scratch() -> None:
    """Remove the run's scratch folder. Idempotent."""
    remove_tree(scratch_folder(current_run()))


@step(undo=clean_scratch)
def open_scratch() -> None:
    """Create the run's scratch folder. A repeat empties it."""
    folder = scratch_folder(current_run())
    try:
        claim_folder(folder, 0o711)
    except OSError as error:
        raise DiskError(f"{folder} cannot be created ({error.strerror}): check paths.scratch_dir") from error
    if is_on_tmpfs(folder):
        raise DiskError(f"{folder} is in memory: set paths.scratch_dir to a folder on a disk, such as /var/tmp")
    require_space(folder, slot_bytes(), "a candidate")


@step()
def unstage(version: str, in_scratch: bool) -> None:
    """Remove the version's slot, unless a user is assigned to it, is deferred to it, or may go back to it. Idempotent.

    Processes of a trial that just ended may take a moment to exit.
    """
    journal = current_host().journal
    if not in_scratch and version in pruning.versions_needed_by_others(journal, current_run()):
        return
    deadline = time.monotonic() + LAST_BREATH_SECONDS
    while (needed_by := removal.remove_slot(versions_dir_for(in_scratch), version)) is not None:
        if not needed_by.startswith("process") or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    if needed_by is not None:
        logger.info("slot {} is kept: {} needs it", version, needed_by)


class Staged(TypedDict):
    """A slot, notices about its origin, and whether npm verified the signatures (or why not)."""

    slot: str
    notices: list[str]
    signatures: str


@step(interruptible=True, retries=2, retry_delay_seconds=5, retry_on=(command.RegistryUnreachable,), undo=unstage)
def stage(version: str, in_scratch: bool) -> Staged:
    """Install a version into a slot. Idempotent: a complete slot is kept, a partial one is discarded."""
    host = current_host()
    is_there = slots.has_slot(host.settings.paths.versions_dir, version)
    versions_dir = versions_dir_for(in_scratch and not is_there)
    mounts.require_executable(host, slots.slots_dir(host.settings.paths.versions_dir), make=not in_scratch)
    if in_scratch:
        mounts.require_executable(host, slots.slots_dir(versions_dir), "paths.scratch_dir")
    if not slots.has_slot(versions_dir, version):
        make_slot(versions_dir, version)
    notices = origin.notices(host, versions_dir, version)
    for notice in notices:
        logger.warning("{}", notice)
    signatures = origin.recorded_origin(versions_dir, version).get("signatures", "not known")
    return {"slot": str(slots.slot_path(versions_dir, version)), "notices": notices, "signatures": signatures}


class Snapshot(TypedDict):
    """A backup as a run needs it. `problem` is set instead of `path` if the user's own databases are at fault; `missing`: there are none.

    `files`: file of the set → path of its copy; `schema`: database → its migrations.
    """

    user: str
    path: str
    bytes: int
    level: int
    fingerprint: dict[str, Any] | None
    problem: str
    missing: bool
    files: dict[str, str]
    schema: version_schemas.Schemas


@step(syncs_first=False, former_names=("tried_on",))
def passed_users(version: str) -> list[str]:
    """Return the users who are deferred to a version that passed on their databases. Only reads."""
    journal = current_host().journal
    return [
        entry.user
        for entry in deferral_records.deferrals(journal)
        if entry.version == version and not rejections.is_untried(journal, entry.user, version)
    ]


@step()
def canary_order(users: list[User], snapshots: list[Snapshot]) -> list[User]:
    """Return the users in the order of restarts. Only reads."""
    if current_host().settings.canary.order == "map_order":
        return users
    size = {snapshot["user"]: snapshot["bytes"] for snapshot in snapshots}
    return sorted(users, key=lambda user: (size.get(user["user"], 0), user["user"]))


# Changing the host --------------------------------------------------------------------------------------------------


@step(former_names=("link_everyone",))
def assign_explicitly(default: str) -> list[str]:
    """Assign its present version to each account that follows the default, so that the default can move. Idempotent.

    Covers every account that may have a t3, managed or not: see `t3_accounts.accounts`.
    """
    return t3_accounts.assign_unlinked(current_host(), default)


@step(retries=4, retry_delay_seconds=2, retry_on=(UserMapError, ServiceError))
def accept(version: str) -> None:
    """Make a version the default and the last good one, and remove what is obsolete. Idempotent: two renames and a prune."""
    host = current_host()
    _set_default(version)
    accepted = [entry for entry in facts.read(host.journal, ACCEPTED) or [] if entry != version]
    facts.write(host.journal, ACCEPTED, [*accepted, version])
    facts.write(host.journal, TO_BE_ACCEPTED, None)
    pruning.prune(host)


@step(retries=4, retry_delay_seconds=2, retry_on=(UserMapError, ServiceError), former_names=("return_to",))
def restore_default(version: str) -> None:
    """Move default and last-good to a version that all users were rolled back to. Idempotent.

    The last accepted version on record stays the one that they left.
    """
    _set_default(version)
    pruning.prune(current_host())


def _set_default(version: str) -> None:
    """Move default and last-good.

    First assign their present version to accounts that were created since: otherwise their next pairing would migrate their databases.
    """
    host = current_host()
    if (default := slots.default_version(host.settings.paths.versions_dir)) is not None:
        assign_explicitly.unjournaled(default)
    slots.set_default(host.settings.paths.versions_dir, version)
    slots.write_last_good(host.settings.paths.last_good_file, version)
    rejections.unreject(host.journal, version)


@step(wording=("reason",))
def freeze_tracking(reason: str) -> None:
    """Write the freeze file. A repeat keeps the first reason."""
    host = current_host()
    freezing.freeze(host.settings, host.journal, reason, by=current_run())
    logger.error("FROZEN: {}", reason)


@step(wording=("line",))
def alert(line: str) -> None:
    """Log a line that alert rules match. A repeat logs it again."""
    logger.error("{}", line)


@step(wording=("reason",))
def reject(version: str, reason: str, users: list[str]) -> None:
    """Record that a version failed, and for which users' databases ([]: not known). Idempotent."""
    rejections.reject(current_host().journal, version, reason, users)


@step()
def any_server_runs() -> bool:
    """Return whether the server of any managed user runs. Only reads."""
    host = current_host()
    found = management.survey(host, [entry.name for entry in host.user_map().users])
    return any(each.server.active and not each.reason for each in found.values())


@step()
def prune(version: str = "") -> list[str]:
    """Remove old snapshots, and slots other than `version` that nothing needs. Idempotent."""
    return pruning.prune(current_host(), version)
