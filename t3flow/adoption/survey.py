"""What the shell tracker has left on a host, and what is to come of it. Nothing here changes anything."""

from contextlib import suppress
from typing import NotRequired, TypedDict

from t3flow import T3flowError, tasks
from t3flow.adoption import shell_tracker, tracker_backups
from t3flow.adoption.shell_tracker import OldTrackerError
from t3flow.engine.step import pause, step
from t3flow.host import launcher, manageable, slots, t3_accounts
from t3flow.host.backups import compatibility
from t3flow.host.host import HostError, this_host
from t3flow.host.npm import registry
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.pairing import probe
from t3flow.host.records import deferral_records
from t3flow.host.records.known_schemas import Schemas, schema_of_version
from t3flow.t3.versions import InvalidVersion, is_older, parse

LEVEL_TRIES, LEVEL_PAUSE_SECONDS = 4, 0.3


class Found(TypedDict):
    """The host as the shell tracker, or an earlier adoption, has left it. `servers`: user → version that the server says, `links`: user → version led
    to ("" for none)."""

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
    """Users whom t3flow cannot manage, and why."""
    others: NotRequired[list[str]]
    """Accounts that may have a t3, are not in the user map, and have no link: they keep what the launcher's place leads them to now."""
    overwritten: NotRequired[bool]
    """Another program is in the launcher's place, though the host was adopted: it may have migrated databases that no other version knows."""


class Decision(TypedDict):
    """What comes of it. `links`: everybody's, `fresh`: who has none yet that fits; `broken`: who cannot pair until restarted, and why.

    `first`: whose server is not of the version that they are led to, so that they cannot pair, or may soon not.
    """

    default: str
    links: dict[str, str]
    fresh: list[str]
    deferrals: dict[str, str]
    first: list[str]
    broken: dict[str, str]
    notices: list[str]
    others: NotRequired[dict[str, str]]
    """Links for accounts outside the user map."""


def versions_wanted(found: Found) -> list[str]:
    """The versions that somebody may need, oldest first: the default (or what is installed, or accepted), linked, running; else the tag's."""
    there = [found["default"]] if found["default"] else [found["installed"], found["last_good"]]
    if found.get("overwritten"):
        there.append(found["installed"])
    wanted = {*there, *found["links"].values(), *found["servers"].values()} - {"", slots.HOLD}
    return sorted(wanted or {found["tag"]}, key=parse)


@step(interruptible=True, former_names=("look_around",))
def survey_host() -> Found:
    """What the shell tracker has left. Only reads."""
    host = this_host()
    paths = host.settings.paths
    for unit in shell_tracker.AT_WORK:
        if host.services.is_on(unit):
            raise OldTrackerError(f"the shell tracker is at work ({unit}): run this again when it has ended")
    there = shell_tracker.find_global(host)
    mapped = [entry.name for entry in host.user_map().users]
    default, last_good = slots.default_version(paths.versions_dir), slots.read_last_good(paths.last_good_file)
    nothing = there is None and not default and not is_version(last_good or "")
    unlinked = [user for user in t3_accounts.accounts(host) if user not in mapped and not _linked(user)]
    return {
        "installed": there.version if there else "",
        "tree": str(there.tree) if there else "",
        "program": there.program if there else "",
        "default": default or "",
        "last_good": last_good if last_good and is_version(last_good) else "",
        "tag": registry.version_of_tag(host, host.settings.track.tag) if nothing else "",
        "timers": [timer for timer in shell_tracker.TIMERS if host.services.is_on(timer)],
        "markers": shell_tracker.read_markers(host),
        "servers": {user: said_version(user) for user in mapped},
        "links": {user: slots.assigned(paths.versions_dir, user) or "" for user in mapped},
        "folders": tracker_backups.folders(host, mapped),
        "is_frozen": bool(tasks.frozen_reason.unjournaled()),
        "unmanaged": {user: why for user, (_, why) in manageable.survey(host, mapped).items() if why},
        "others": unlinked,
        "overwritten": bool(default) and not launcher.is_launcher(paths.launcher),
    }


def _linked(user: str) -> bool:
    """Whether an account has a link, or something odd in its place."""
    try:
        return slots.assigned(this_host().settings.paths.versions_dir, user) is not None
    except slots.SlotError:
        return True


def said_version(user: str) -> str:
    """The version that a user's server says it is; "" for one that does not run or answer."""
    host = this_host()
    with suppress(probe.NotPaired, HostError):
        if host.services.state(user).active:
            said = probe.serving_version(host, user)
            return said if is_version(said) else ""
    return ""


def is_version(text: str) -> bool:
    """Whether a text is a version."""
    with suppress(InvalidVersion):
        return bool(parse(text))
    return False


@step()
def known_schemas(versions: list[str]) -> dict[str, Schemas]:
    """The migrations that those versions know which were tried before. Only reads."""
    journal = this_host().journal
    known = {version: schema_of_version(journal, version) for version in versions}
    return {version: dict(schema) for version, schema in known.items() if schema is not None}


@step(interruptible=True)
def decide(found: Found, known: dict[str, Schemas], notices: list[str]) -> Decision:
    """Who is led to which version: the one that their server runs, if it knows their databases; else the lowest that does. Only reads."""
    if not known:
        raise OldTrackerError(f"no version of t3 can be had that works here: {'; '.join(notices)}")
    default = next(
        (each for each in (found["default"], found["last_good"], found["installed"]) if each in known),
        max(known, key=parse),
    )
    made: Decision = {
        "default": default,
        "links": {},
        "fresh": [],
        "deferrals": {},
        "first": [],
        "broken": {},
        "notices": [*notices, *this_host().user_map().problems],
    }
    if not found["default"] and found["installed"] not in ("", default):
        made["notices"].append(f"{found['installed']} is installed, {default} was accepted last: that is the default")
    if found["is_frozen"]:
        made["notices"].append("tracking is frozen, and stays so: t3flow unfreeze")
    stays = found["installed"] if found["installed"] in known and not found["default"] else default
    made["others"] = dict.fromkeys(found.get("others", []), stays)
    pending = {entry.user for entry in deferral_records.deferrals(this_host().journal)}
    for user, why in found.get("unmanaged", {}).items():
        made["notices"].append(f"{user} is not managed, and keeps what they have: {why}")
        made["links"][user] = found["links"][user] or stays
        made["fresh"] += [] if found["links"][user] else [user]
    for user, runs in found["servers"].items():
        if user in found.get("unmanaged", {}):
            continue
        theirs: Schemas | None = None
        try:
            theirs = schemas_read(user)
        except (OwnerProblem, T3flowError) as problem:
            if str(problem) != tasks.NO_DATABASE:
                made["notices"].append(f"the database of {user} cannot be read: {problem}")
        has = found["links"][user]
        fits = theirs is None or has not in known or not compatibility.unknown_migration(known[has], theirs)
        keeps = has and (has == slots.HOLD or fits)
        led_to = has if keeps else choose(user, runs, theirs, default, known)
        if not keeps:
            made["fresh"].append(user)
        made["links"][user] = led_to
        if led_to == slots.HOLD:
            continue
        marked = [found["markers"][user], default] if user in found["markers"] else []
        wanted = max((each for each in (led_to, *marked) if each in known), key=parse, default=led_to)
        if runs and runs != led_to:
            made["first"].append(user)
            if (
                runs in known
                and theirs is not None
                and (unknown := compatibility.unknown_migration(known[runs], theirs))
            ):
                made["broken"][user] = (
                    f"cannot pair: its server runs {runs}, and {unknown}; t3flow enqueue drain {user}"
                )
        if user in made["first"] or (user in found["markers"] and runs and runs != wanted):
            made["deferrals"][user] = wanted
        elif is_older(led_to, default) and user not in pending:
            made["deferrals"][user] = default
    return made


def schemas_read(user: str) -> Schemas:
    """The migrations of a user's databases, read as its owner; one at work may need to be asked again. Raises OwnerProblem."""
    for attempt in range(1, LEVEL_TRIES + 1):
        try:
            return compatibility.read_schemas(this_host(), user)
        except OwnerProblem as problem:
            if attempt == LEVEL_TRIES or str(problem) == tasks.NO_DATABASE:
                raise
            pause(LEVEL_PAUSE_SECONDS)
    raise AssertionError("unreachable")


def choose(user: str, runs: str, theirs: Schemas | None, default: str, known: dict[str, Schemas]) -> str:
    """The version for a user's link. Raises OldTrackerError when no version knows the databases."""
    if theirs is None:
        return runs if runs in known else default
    fitting = sorted(
        (version for version in known if not compatibility.unknown_migration(known[version], theirs)), key=parse
    )
    if not fitting:
        newest = max(known, key=parse)
        closest = f"of {newest}: {compatibility.unknown_migration(known[newest], theirs)}"
        mend = "see that npm reaches the registry, or take the user out of the user map; then run this again"
        raise OldTrackerError(f"no version that can be had knows the databases of {user}: {closest}; {mend}")
    if runs in fitting:
        return runs
    return default if not runs and default in fitting else fitting[0]
