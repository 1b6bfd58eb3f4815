"""Witnesses: users who show whether the dispatch pairs at all.

One user who pairs proves that the dispatch works. The dispatch is at fault only if none of the users who can be probed pairs.
"""

import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from t3flow.host import management, slots
from t3flow.host.host import Host
from t3flow.host.pairing import last_pairings
from t3flow.host.pairing import probe as pairing_probe
from t3flow.host.pairing.parallel_probes import RETRY_SECONDS, probe_users

UNSTOPPED_LIMIT_SECONDS, RESTART_LIMIT_SECONDS, ALL_LIMIT_SECONDS = 60.0, 30.0, 600.0
"""Time limits of probes: before any server is stopped, while a restarted user waits for the answer, and of all users."""
MAX_SHOWN = 2


class Witness(NamedTuple):
    """A user with a running server. If `counts`, a failure speaks against the dispatch; otherwise only a success says something."""

    user: str
    counts: bool


def dispatch_problem(
    host: Host,
    version: str,
    exclude: Collection[str],
    uncounted: Collection[str] = (),
    limit_seconds: float = RESTART_LIMIT_SECONDS,
    began: float | None = None,
) -> str:
    """Return "" if a user pairs or none can be probed, else one line: which users cannot pair, and why. Raise ServiceError, UserMapError.

    Users in `exclude` are not probed. A failure does not count against the dispatch for users on `version` ("": no version is in question), for
    users in `uncounted`, and for users who could not pair before `began`, the start of a restart in flight.
    """
    probed = witnesses(host, version, exclude, {*uncounted, *_unpaired_before(host, began)})
    if not any(each.counts for each in probed):
        return ""
    paired, failed = probe_users(host, [each.user for each in probed], limit_seconds)
    counted = {each.user: failed[each.user] for each in probed if each.counts and each.user in failed}
    if paired or not counted:
        return ""
    shown = [f"{user} ({reason})" for user, reason in list(counted.items())[:MAX_SHOWN]]
    rest = len(probed) - len(shown)
    others = f" and {rest} other user{'s' * (rest > 1)}" if rest else ""
    return f"{', '.join(shown)}{others} cannot pair"


def witnesses(host: Host, version: str, exclude: Collection[str], uncounted: Collection[str]) -> list[Witness]:
    """Return the managed users with a running server: first those who count, and of these first those whose last pairing succeeded."""
    names = [entry.name for entry in host.user_map().users if entry.name not in exclude]
    known = last_pairings.pairings(host.journal)
    found: list[tuple[bool, bool, Witness]] = []
    for user, (server, unmanaged) in management.survey(host, names).items():
        if unmanaged or not server.active:
            continue
        running = pairing_probe.running_version_of(host, user, server.main_pid) if server.main_pid else None
        assigned = slots.effective(host.settings.paths.versions_dir, user)
        is_off_assignment = running is not None and running != assigned  # may not pair before its next restart
        counts = not is_off_assignment and user not in uncounted and not (version and running == version)
        found.append((not counts, user in known and bool(known[user]["reason"]), Witness(user, counts)))
    return [each for _, _, each in sorted(found, key=lambda each: each[:2])]


def _unpaired_before(host: Host, began: float | None) -> list[str]:
    """Return the users who could not pair at that time, nor since; none for None."""
    if began is None:
        return []
    known = last_pairings.pairings(host.journal)
    return [user for user, last in known.items() if last["reason"] and last["since"] < began]


def users_running(host: Host, version: str, exclude: Collection[str]) -> list[str]:
    """Return the managed users whose server runs a version. Raise ServiceError, UserMapError."""
    names = [entry.name for entry in host.user_map().users if entry.name not in exclude]
    return [
        user
        for user, (server, unmanaged) in management.survey(host, names).items()
        if not unmanaged and server.active and server.main_pid
        if pairing_probe.running_version_of(host, user, server.main_pid) == version
    ]


def find_pairing_users(host: Host, users: list[str], enough: int) -> list[str]:
    """Return up to `enough` of these users who pair now."""
    return probe_users(host, users, RESTART_LIMIT_SECONDS, enough=enough)[0]


def note_pairing_now(host: Host, user: str) -> str:
    """Probe a user and record the result, so that a restart is not blamed for an earlier fault. Return why pairing fails, or "".

    Raise JournalError.
    """
    return note_pairings_now(host, [user], RETRY_SECONDS + pairing_probe.PAIR_SECONDS).get(user, "")


def note_pairings_now(
    host: Host, users: list[str], limit_seconds: float, probe: Callable[[Host, str], None] = pairing_probe.probe
) -> dict[str, str]:
    """Probe each of these users and record the results. Return user → reason for those who cannot pair. Raise JournalError.

    Failed users are probed once more if others pair, since t3's minting does not wait for database locks. The record of a user without an answer
    in time stays as it is.
    """
    began = time.monotonic()
    paired, failed = probe_users(host, users, limit_seconds, enough=len(users), probe=probe)
    if paired and failed and (left := limit_seconds - (time.monotonic() - began)) > 0:
        again, _ = probe_users(host, [*failed], left, enough=len(failed), probe=probe)
        paired += again
        failed = {user: reason for user, reason in failed.items() if user not in again}
    known = {user: failed.get(user, "") for user in users if user in failed or user in paired}
    last_pairings.note_pairings(host.journal, known)
    return failed
