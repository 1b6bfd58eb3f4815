"""What only root can see of the host: each user's server, the launcher, the user map.

The consumer looks once a minute and records it as a fact, for readers without rights, such as the status page, and for frequent readers, such as a
scrape of the metrics. A command of root looks by itself.
"""

import time
from contextlib import suppress
from typing import TypedDict, cast

from t3flow import T3flowError
from t3flow.engine.journal import Journal
from t3flow.host import management, slots, t3_accounts
from t3flow.host.host import COMMANDS_LOCK, Host, open_host, user_map_of
from t3flow.host.records import facts
from t3flow.host.slots import preflight, running_version
from t3flow.settings.load import Settings
from t3flow.settings.user_map import UserMap, UserMapError

FACT = "observed"
"""Fact: the last Observed of the consumer."""


class ObservedUser(TypedDict):
    """One user's server. `why_unmanaged`: "" for a user whom t3flow manages, else `REASON: REMEDY`."""

    unit: str
    active: bool
    running_version: str | None
    why_unmanaged: str


class Observed(TypedDict):
    """The host at one time (epoch seconds; 0.0 for never)."""

    at: float
    users: dict[str, ObservedUser]
    user_map_problems: list[str]
    launcher_problems: list[str]


NEVER = Observed(at=0.0, users={}, user_map_problems=[], launcher_problems=[])


def last_observed(journal: Journal) -> Observed:
    """Return what the consumer observed last."""
    return facts.read(journal, FACT) or NEVER


def record(host: Host) -> None:
    """Observe the host and record it. Not synced: the next minute records it again."""
    facts.write(host.journal, FACT, observe(host.settings, host.journal, host), synced=False)


def observe(settings: Settings, journal: Journal | None, host: Host | None = None) -> Observed:
    """Look at the host: one query to the service manager and one walk of /proc for all users."""
    try:
        mapped = user_map_of(settings)
        problems = mapped.problems
    except UserMapError as error:
        mapped, problems = UserMap(), [str(error)]
    if host is None:  # without a journal, what is asked of the host here needs none
        host = open_host(settings, cast(Journal, journal), children_lock=COMMANDS_LOCK)
    return Observed(
        at=time.time(),
        users=_users(host, journal, mapped),
        user_map_problems=problems,
        launcher_problems=[f"{problem}; {remedy}" for problem, remedy in launcher_problems(settings)],
    )


def launcher_problems(settings: Settings) -> list[tuple[str, str]]:
    """Return what is wrong with the launcher and the mount of the slots, each with its remedy."""
    try:
        return [*preflight.launcher_problems(settings), *preflight.mounts_problems(settings)]
    except (T3flowError, OSError) as error:
        return [(f"{settings.paths.launcher} cannot be looked at ({error})", "t3flow doctor")]


def _users(host: Host, journal: Journal | None, mapped: UserMap) -> dict[str, ObservedUser]:
    """Return each mapped user, and each other account that has a link or a server's settings."""
    settings = host.settings
    names = [entry.name for entry in mapped.users]
    others = {*slots.links(settings.paths.versions_dir), *t3_accounts.accounts_with_environment(host)} - set(names)
    accounts = [*names, *sorted(others)] if names else []
    try:
        surveyed = management.survey(host, accounts)
    except (T3flowError, OSError):
        surveyed = {}
    reasons = {user: each.reason or management.missing_state_reason(host, user) for user, each in surveyed.items()}
    reasons |= dict.fromkeys(others, f"is not in the user map: add the line PERSON=USER to {settings.paths.user_map}")
    found = {}
    for user in accounts:
        server = surveyed[user].server if user in surveyed else None
        pid = server.main_pid if server else None
        found[user] = ObservedUser(
            unit=server.unit if server else settings.serve.unit.format(user=user),
            active=server.active if server else False,
            running_version=_running_version(host, journal, user, pid) if pid else None,
            why_unmanaged=reasons.get(user, ""),
        )
    return found


def _running_version(host: Host, journal: Journal | None, user: str, pid: int) -> str | None:
    folder = host.settings.paths.versions_dir
    if journal is None:
        return running_version.of_process(pid, folder)
    found = running_version.of_server(journal, folder, user, pid)
    if found is None:
        with suppress(T3flowError):
            return running_version.of_server(journal, folder, user, pid, host.services.pids(user))
    return found
