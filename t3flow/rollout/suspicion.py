"""When failed pairings count against a version: the rule by which it is suspected, and the checks before it is blamed.

A version is suspected if, within any ten minutes, users *on it* failed more than `bake.max_failures` times, and they are at least two users and at
least 5 % of the users on it, or all of them if these are fewer. A fault that one user meets, such as an expired link, is that user's own.

It is blamed only if the dispatch pairs a user who is not on it now (where there is one), and two of the failing users, or the only one, cannot
pair now either. If no user pairs, the dispatch or the host is at fault.
"""

import contextvars
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from loguru import logger

from t3flow import T3flowError
from t3flow.host import management, slots
from t3flow.host.host import Host
from t3flow.host.pairing import last_pairings, probe
from t3flow.host.services.manager import ServerState

SPAN_SECONDS = 600.0
"""`bake.max_failures` applies to any time span of this length."""
LEAST_USERS, SHARE = 2, 0.05
MOST_ASKED = 8
"""How many witnesses, and how many of the users concerned, are paired at a time."""
TRIES = 3
"""A user who fails at two of this many attempts cannot pair. t3 does not wait for a lock when it mints, so one may fail on any version."""
DISPATCH_SECONDS = 5.0
WORDS = {"failure": "failed pairings", "fallback": "pairings by an old endpoint"}

Counted = list[list[Any]]
"""[time, kind, user, count]."""


class Suspicion(NamedTuple):
    """Users on a version who failed too often: kind of failure, user → count, and how many users are on the version."""

    kind: str
    users: Counter[str]
    on_it: int

    @property
    def words(self) -> str:
        """Return what was counted, for people."""
        return WORDS[self.kind]


class Finding(NamedTuple):
    """The result of checking a suspicion. `is_broken`: the version is at fault, else `reason` says why not. `dispatch_at_fault`: no user pairs."""

    is_broken: bool
    reason: str
    dispatch_at_fault: bool = False


def least_users(on_it: int) -> int:
    """Return how many users on a version must fail before it is suspected."""
    return min(on_it, max(LEAST_USERS, math.ceil(SHARE * on_it)))


def suspect(host: Host, version: str, counted: Counted) -> Suspicion | None:
    """Return the first ten minutes in which a version is suspected, or None."""
    on_it: int | None = None
    for kind in WORDS:
        entries = sorted(entry for entry in counted if entry[1] == kind)
        users: Counter[str] = Counter()
        first = total = 0
        for number, (at, _, user, times) in enumerate(entries, 1):
            users[user] += times
            total += times
            while entries[first][0] <= at - SPAN_SECONDS:
                total -= entries[first][3]
                users[entries[first][2]] -= entries[first][3]
                first += 1
            is_whole = number == len(entries) or entries[number][0] > at  # failures of one second count together
            if not is_whole or total <= host.settings.bake.max_failures:
                continue
            if on_it is None:
                on_it = max(1, len(running_users(host, version)[0]))
            users = +users  # drops users whose failures are older
            if len(users) >= least_users(on_it):
                return Suspicion(kind, users, on_it)
    return None


def check(host: Host, version: str, suspicion: Suspicion) -> Finding:
    """Check whether a suspected version is at fault by pairing users now. Only reads, except that pairing results are recorded."""
    try:
        probe.get(f"{host.settings.dispatch.url.rstrip('/')}/", {}, DISPATCH_SECONDS)
    except probe.NotPaired as error:
        return Finding(False, f"the dispatch is at fault: {error}", dispatch_at_fault=True)
    witnesses = [user for user in running_users(host, version)[1] if user not in suspicion.users]
    example = ""
    for start in range(0, len(witnesses), MOST_ASKED):
        failed = cannot_pair(host, witnesses[start : start + MOST_ASKED], tries=2)
        example = example or next((f"{user} ({reason})" for user, reason in failed.items()), "")
        if len(failed) < len(witnesses[start : start + MOST_ASKED]):
            example = ""
            break
    if example:
        return Finding(
            False,
            f"users who are not on {version} cannot pair either, such as {example}: the dispatch is at fault",
            True,
        )
    if suspicion.kind == "fallback":
        return Finding(True, "")
    concerned = [user for user, _ in suspicion.users.most_common(MOST_ASKED)]
    failed = cannot_pair(host, concerned, tries=TRIES)
    for user, reason in failed.items():
        last_pairings.note_pairing(host.journal, user, reason)
    if len(failed) >= min(LEAST_USERS, suspicion.on_it):
        return Finding(True, "")
    named = f"only {next(iter(failed))} cannot pair now" if failed else "they pair now"
    return Finding(False, f"{suspicion.users.total()} {suspicion.words} of {', '.join(concerned)}, but {named}")


def cannot_pair(host: Host, users: list[str], *, tries: int) -> dict[str, str]:
    """Return the users who cannot pair now, and why: all but one of `tries` attempts fail. A user who cannot be asked is not among them."""

    def ask(user: str) -> str:
        reason, failures = "", 0
        for left in reversed(range(tries)):
            try:
                probe.probe(host, user)
            except probe.PortTaken:
                return ""
            except probe.NotPaired as error:
                reason, failures = str(error), failures + 1
            except T3flowError as error:
                logger.debug("{}", error)
                return ""
            if failures >= max(1, tries - 1) or failures + left < max(1, tries - 1):
                break
        return reason if failures >= max(1, tries - 1) else ""

    with ThreadPoolExecutor(MOST_ASKED) as pool:
        asked = {user: pool.submit(contextvars.copy_context().run, ask, user) for user in users}
        found = {user: each.result() for user, each in asked.items()}
    return {user: reason for user, reason in found.items() if reason}


def running_users(host: Host, version: str) -> tuple[list[str], list[str]]:
    """Return the managed users with a running server: those on a version, and those whose server runs another one that they are assigned."""
    on_it, others = [], []
    names = [entry.name for entry in host.user_map().users]
    try:
        surveyed: dict[str, tuple[ServerState, str]] = {
            user: (each.server, each.reason) for user, each in management.survey(host, names).items()
        }
    except T3flowError as error:
        logger.debug("{}", error)
        surveyed = {}
    for user, (server, why) in surveyed.items():
        if why or not server.active or server.main_pid is None:
            continue
        assigned = slots.effective(host.settings.paths.versions_dir, user)
        runs = probe.running_version_of(host, user, server.main_pid)
        if assigned == version:
            on_it.append(user)
        elif runs in (None, assigned):
            others.append(user)
    return on_it, others
