"""The users of the host: each one's server, versions, last pairing and deferral."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from t3flow import T3flowError
from t3flow.deferrals import left_behind
from t3flow.engine.journal import Journal
from t3flow.host import management, slots, t3_accounts
from t3flow.host.host import COMMANDS_LOCK, open_host
from t3flow.host.pairing import last_pairings
from t3flow.host.records import facts
from t3flow.host.slots import running_version
from t3flow.settings.load import Settings
from t3flow.settings.user_map import UserMap
from t3flow.state.deferrals import cause_left_behind, deferrals
from t3flow.state.times import rfc3339


def users(read: Settings, journal: Journal | None, mapped: UserMap) -> dict[str, Any]:
    """Return each mapped user, and each other account that has a link or a server's settings, under the keys of the interface."""
    host = open_host(
        read, cast(Journal, journal), children_lock=COMMANDS_LOCK
    )  # without a journal, what is asked of it here needs none
    pairing = last_pairings.pairings(journal) if journal else {}
    seen = last_pairings.last_seen(journal) if journal else {}
    unknown = (facts.read(journal, facts.UNKNOWN_T3) or {}) if journal else {}
    waiting = {each["user"]: each for each in deferrals(journal)} if journal else {}
    behind = left_behind.causes(journal) if journal else {}
    names = [entry.name for entry in mapped.users]
    others = {*slots.links(read.paths.versions_dir), *t3_accounts.accounts_with_environment(host)} - set(names)
    everybody = [*names, *sorted(others)] if names else []
    try:
        surveyed = management.survey(host, everybody)
    except (T3flowError, OSError):
        surveyed = {}
    servers = {user: each.server for user, each in surveyed.items()}
    why = {user: each.reason or management.missing_state_reason(host, user) for user, each in surveyed.items()}
    why |= dict.fromkeys(others, f"is not in the user map: add the line PERSON=USER to {read.paths.user_map}")
    found: dict[str, Any] = {}

    def runs(user: str, pid: int) -> str | None:
        if journal is None:
            return running_version.of_process(pid, read.paths.versions_dir)
        found = running_version.of_server(journal, read.paths.versions_dir, user, pid)
        if found is None:
            with suppress(T3flowError):
                return running_version.of_server(journal, read.paths.versions_dir, user, pid, host.services.pids(user))
        return found

    for user in everybody:
        server = servers.get(user)
        pid = server.main_pid if server else None
        last = pairing.get(user)
        found[user] = {
            "unit": server.unit if server else read.serve.unit.format(user=user),
            "active": server.active if server else False,
            "running_version": runs(user, pid) if pid else None,
            "assigned_version": version_or_none(lambda user=user: slots.effective(read.paths.versions_dir, user)),
            "pairing": "unknown" if last is None else "failing" if last["reason"] else "ok",
            "pairing_since": rfc3339(last["since"]) if last else None,
            "pairing_seen": rfc3339(max(last["since"], seen.get(user, 0.0))) if last else None,
            "pairing_reason": last["reason"] if last else "",
            "unknown": unknown[user][1] if user in unknown else "",
            "deferred": waiting.get(user),
            "left_behind": cause_left_behind(behind.get(user)),
            "managed": not why.get(user),
            "why_unmanaged": why.get(user, ""),
        }
    return found


def version_or_none(read_link: Callable[..., str | None]) -> str | None:
    """Return the version that a link leads to; None for one that leads nowhere."""
    with suppress(T3flowError):
        return read_link()
    return None
