"""What the shell tracker left on a host, and what an adoption makes of it. Nothing here changes anything."""

import shlex
from contextlib import suppress
from typing import NotRequired, TypedDict

from t3flow import T3flowError, tasks
from t3flow.adoption import shell_tracker, tracker_backups
from t3flow.adoption.shell_tracker import OldTrackerError
from t3flow.engine.step import pause, step
from t3flow.host import management, slots, t3_accounts
from t3flow.host.backups import compatibility
from t3flow.host.host import HostError, current_host
from t3flow.host.npm import registry
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.pairing import probe
from t3flow.host.records import deferral_records, version_schemas
from t3flow.host.records.version_schemas import Schemas
from t3flow.host.slots import launcher
from t3flow.t3.versions import InvalidVersion, is_older, parse

LEVEL_TRIES, LEVEL_PAUSE_SECONDS = 4, 0.3


class Found(TypedDict):
    """The host as the shell tracker or an earlier adoption left it.

    `servers`: user → version that the server reports; `links`: user → assigned version ("": none).
    """

    installed: str
    tree: str
    program: str
    default: str
    last_good: str
    tag: str
    timers: list[str]
    markers: dict[str, str]
    servers: dict[str, str]
    links: dict[str, str]
    folders: dict[str, list[int]]
    is_frozen: bool
    unmanaged: NotRequired[dict[str, str]]
    """Users whom t3flow cannot manage, with the reason."""
    others: NotRequired[list[str]]
    """Accounts that may have a t3, are not in the user map, and have no link: they keep the version that they start now."""
    overwritten: NotRequired[bool]
    """Another program has replaced the launcher of an adopted host; it may have migrated databases beyond all other versions."""


class Decision(TypedDict):
    """What an adoption does. `links`: all assignments; `fresh`: users with a new one; `broken`: users who cannot pair until restarted, and why.

    `first`: users whose server runs another version than the assigned one, so that they cannot pair now or soon.
    """

    default: str
    links: dict[str, str]
    fresh: list[str]
    deferrals: dict[str, str]
    first: list[str]
    broken: dict[str, str]
    notices: list[str]
    others: NotRequired[dict[str, str]]
    """Assignments of accounts outside the user map."""


def versions_wanted(found: Found) -> list[str]:
    """Return the versions that a user may need, oldest first: the default (or installed, or accepted), assigned, running; else the tag's."""
    there = [found["default"]] if found["default"] else [found["installed"], found["last_good"]]
    if found.get("overwritten"):
        there.append(found["installed"])
    wanted = {*there, *found["links"].values(), *found["servers"].values()} - {"", slots.RESTORING}
    return sorted(wanted or {found["tag"]}, key=parse)


@step(interruptible=True, former_names=("look_around",))
def survey_host() -> Found:
    """Return what the shell tracker left. Only reads."""
    host = current_host()
    paths = host.settings.paths
    for unit in shell_tracker.SERVICES:
        if host.services.is_enabled(unit):
            raise OldTrackerError(f"the shell tracker is running ({unit}): retry when it has ended")
    install = shell_tracker.find_global(host)
    mapped = [entry.name for entry in host.user_map().users]
    default, last_good = slots.default_version(paths.versions_dir), slots.read_last_good(paths.last_good_file)
    is_empty = install is None and not default and not is_version(last_good or "")
    unlinked = [user for user in t3_accounts.accounts(host) if user not in mapped and not _linked(user)]
    return {
        "installed": install.version if install else "",
        "tree": str(install.tree) if install else "",
        "program": install.program if install else "",
        "default": default or "",
        "last_good": last_good if last_good and is_version(last_good) else "",
        "tag": registry.version_of_tag(host, host.settings.track.tag) if is_empty else "",
        "timers": [timer for timer in shell_tracker.TIMERS if host.services.is_enabled(timer)],
        "markers": shell_tracker.read_markers(host),
        "servers": {user: said_version(user) for user in mapped},
        "links": {user: slots.assigned(paths.versions_dir, user) or "" for user in mapped},
        "folders": tracker_backups.folders(host, mapped),
        "is_frozen": bool(tasks.frozen_reason.unjournaled()),
        "unmanaged": {user: reason for user, (_, reason) in management.survey(host, mapped).items() if reason},
        "others": unlinked,
        "overwritten": bool(default) and not launcher.is_launcher(paths.launcher),
    }


def _linked(user: str) -> bool:
    """Return whether an account has a link, or something unexpected in its place."""
    try:
        return slots.assigned(current_host().settings.paths.versions_dir, user) is not None
    except slots.SlotError:
        return True


def said_version(user: str) -> str:
    """Return the version that a user's server reports; "" if it does not run or answer."""
    host = current_host()
    with suppress(probe.NotPaired, HostError):
        if host.services.state(user).active:
            said = probe.serving_version(host, user)
            return said if is_version(said) else ""
    return ""


def is_version(text: str) -> bool:
    """Return whether a text is a version."""
    with suppress(InvalidVersion):
        return bool(parse(text))
    return False


@step()
def known_schemas(versions: list[str]) -> dict[str, Schemas]:
    """Return the migrations of those versions that were tried before. Only reads."""
    journal = current_host().journal
    known = {version: version_schemas.schema_of_version(journal, version) for version in versions}
    return {version: dict(schema) for version, schema in known.items() if schema is not None}


@step(interruptible=True)
def decide(found: Found, known: dict[str, Schemas], notices: list[str]) -> Decision:
    """Return the version that each user is assigned: the running one if it knows their databases, else the lowest that does. Only reads."""
    if not known:
        raise OldTrackerError(f"no version of t3 works on this host: {'; '.join(notices)}")
    default = next(
        (each for each in (found["default"], found["last_good"], found["installed"]) if each in known),
        max(known, key=parse),
    )
    decision: Decision = {
        "default": default,
        "links": {},
        "fresh": [],
        "deferrals": {},
        "first": [],
        "broken": {},
        "notices": [*notices, *current_host().user_map().problems],
    }
    if not found["default"] and found["installed"] not in ("", default):
        decision["notices"].append(
            f"{found['installed']} is installed, but {default} was accepted last and becomes the default"
        )
    if found["is_frozen"]:
        decision["notices"].append("tracking stays frozen; resume with: t3flow unfreeze")
    stays = found["installed"] if found["installed"] in known and not found["default"] else default
    decision["others"] = dict.fromkeys(found.get("others", []), stays)
    pending = {entry.user for entry in deferral_records.deferrals(current_host().journal)}
    for user, reason in found.get("unmanaged", {}).items():
        decision["notices"].append(f"{user} is not managed and keeps what they have: {reason}")
        decision["links"][user] = found["links"][user] or stays
        decision["fresh"] += [] if found["links"][user] else [user]
    for user, runs in found["servers"].items():
        if user in found.get("unmanaged", {}):
            continue
        schema: Schemas | None = None
        try:
            schema = schemas_read(user)
        except (OwnerProblem, T3flowError) as problem:
            if str(problem) != tasks.NO_DATABASE:
                decision["notices"].append(f"the databases of {user} cannot be read: {problem}")
        linked = found["links"][user]
        fits = schema is None or linked not in known or not compatibility.unknown_migration(known[linked], schema)
        keeps = linked and (linked == slots.RESTORING or fits)
        assigned = linked if keeps else choose(user, runs, schema, default, known)
        if not keeps:
            decision["fresh"].append(user)
        decision["links"][user] = assigned
        if assigned == slots.RESTORING:
            continue
        marked = [found["markers"][user], default] if user in found["markers"] else []
        wanted = max((each for each in (assigned, *marked) if each in known), key=parse, default=assigned)
        if runs and runs != assigned:
            decision["first"].append(user)
            if (
                runs in known
                and schema is not None
                and (unknown := compatibility.unknown_migration(known[runs], schema))
            ):
                decision["broken"][user] = (
                    f"cannot pair: the server runs {runs}, and {unknown}; t3flow enqueue drain {shlex.quote(user)}"
                )
        if user in decision["first"] or (user in found["markers"] and runs and runs != wanted):
            decision["deferrals"][user] = wanted
        elif is_older(assigned, default) and user not in pending:
            decision["deferrals"][user] = default
    return decision


def schemas_read(user: str) -> Schemas:
    """Return the migrations of a user's databases, read as its owner; retries while the server writes. Raises OwnerProblem."""
    for attempt in range(1, LEVEL_TRIES + 1):
        try:
            return compatibility.read_schemas(current_host(), user)
        except OwnerProblem as problem:
            if attempt == LEVEL_TRIES or str(problem) == tasks.NO_DATABASE:
                raise
            pause(LEVEL_PAUSE_SECONDS)
    raise AssertionError("unreachable")


def choose(user: str, runs: str, schema: Schemas | None, default: str, known: dict[str, Schemas]) -> str:
    """Return the version to assign to a user. Raises OldTrackerError if no version knows the databases."""
    if schema is None:
        return runs if runs in known else default
    fitting = sorted(
        (version for version in known if not compatibility.unknown_migration(known[version], schema)), key=parse
    )
    if not fitting:
        newest = max(known, key=parse)
        closest = f"for {newest}: {compatibility.unknown_migration(known[newest], schema)}"
        fix = "check that npm reaches the registry, or remove the user from the user map; then retry"
        raise OldTrackerError(f"no available version knows the databases of {user}: {closest}; {fix}")
    if runs in fitting:
        return runs
    return default if not runs and default in fitting else fitting[0]
