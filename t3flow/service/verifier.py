"""The hourly verify: pairs each managed user with a running server through the dispatch, outside of bumps, one after the other.

1. While a run has the host, nothing is verified. The next user's turn comes when it has ended.
2. A user is due once the last pairing, by whatever part of t3flow, is a period ago. Of these, the one who waited longest is next.
3. A first failure is a suspicion. Other users are paired at once, until one succeeds or MOST_WITNESSES have failed.
4. The suspect is tried again after RETRY_SECONDS. If that fails and another user has paired in between, the user is unpaired. If the others failed
   as well, the dispatch is at fault, and no user is named. Either ends with a success.

It needs no run: results are facts, one for each user. A kill loses suspicions alone, and the next consumer goes on with the users who are due.
"""

import os
import threading
import time
from contextlib import suppress
from typing import NamedTuple

from loguru import logger

from t3flow import T3flowError
from t3flow.engine.journal import JournalError
from t3flow.host import management
from t3flow.host.host import Host, HostError
from t3flow.host.pairing import last_pairings, opened_sessions, own_activity, probe, verify_records
from t3flow.host.pairing.revocation import revoke_sessions
from t3flow.host.processes import proc
from t3flow.settings.user_map import UserMapError

FIRST_SECONDS = 60.0
"""How long after the start of the consumer: servers start with the host as well."""
POLL_SECONDS = 5.0
URGENT_SECONDS = 1.0
"""The pause between users while one of them is suspect."""
SETTLED_SECONDS = 30.0
"""How old a server is before it is verified: a server that has just started may not answer yet."""
RETRY_SECONDS = 30.0
AT_FAULT_SECONDS = 60.0
"""How often a user is tried while the dispatch pairs none."""
SKIP_SECONDS = 60.0
"""When a user whose server does not run, has just started or is being restarted is looked at again."""
UNPAIRED_SECONDS = 600.0
"""How often a user who cannot pair is tried, so that the end of a fault shows soon."""
KEPT_SECONDS = 3600.0
"""When the revocation of a user's sessions is tried again after a failure: each attempt starts t3."""
MOST_PAUSE_SECONDS = 60.0
MOST_WITNESSES = 3
NICENESS = 10
USER_UNPAIRED, NO_PAIRING = "USER UNPAIRED", "NO PAIRING"
"""The words in the log that alerts look for: one user cannot pair; the dispatch pairs no user."""
OWN_FAULTS = (probe.PortTaken, probe.UnknownServer, probe.Misconfigured, HostError, UserMapError)
"""Failures that say nothing about the dispatch."""


class Suspect(NamedTuple):
    """A user whose last pairing failed: when (epoch seconds), why, when to try again (monotonic), and whether it may be the dispatch's fault."""

    failed: float
    reason: str
    retry: float
    counts: bool


class Verifier:
    """Verifies users for as long as the consumer runs, in a thread of its own, of low priority."""

    def __init__(self, host: Host, stopping: threading.Event) -> None:
        self._host = host
        self._journal = host.journal
        self._stopping = stopping
        self._suspects: dict[str, Suspect] = {}
        self._skipped: dict[str, float] = {}
        self._logged: dict[str, float] = {}
        self._kept: dict[str, float] = {}  # user whose sessions could not be revoked → when to try again

    def repeat(self) -> None:
        """Verify users until the consumer stops. An error ends one attempt only."""
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)  # of this thread and its children
        wait = FIRST_SECONDS
        while not self._stopping.wait(wait):
            try:
                wait = self.advance()
            except (T3flowError, OSError) as error:
                logger.warning("the hourly verify is interrupted for a minute: {}", error)
                wait = SKIP_SECONDS
            except Exception:
                logger.opt(exception=True).error("the hourly verify failed; it goes on in a minute")
                wait = SKIP_SECONDS

    def advance(self) -> float:
        """Verify the next user, if there is one and no run has the host. Return the seconds until the next call. Raise T3flowError."""
        minutes, busy = self._host.settings.verify.every_minutes, self._run_with_the_host()
        verify_records.note_state(self._journal, minutes, busy)
        if busy:
            return POLL_SECONDS
        fault = verify_records.dispatch_fault(self._journal)
        if fault is not None and fault["at"] > time.time():  # the clock was set back: the next success ends the fault
            verify_records.note_dispatch(self._journal, fault["problem"])
        elif fault is not None and self._paired_since(fault["at"]):
            verify_records.note_dispatch(self._journal, "")
            self._suspects.clear()  # they failed before; each is verified anew
            logger.info("the dispatch pairs users again")
        users = [entry.name for entry in self._host.user_map().users]
        if not minutes or (user := self._next(users, minutes * 60.0)) is None:
            self._revoke(users)
            return POLL_SECONDS
        self._verify(user)
        if verify_records.dispatch_fault(self._journal) is not None:
            return AT_FAULT_SECONDS
        return URGENT_SECONDS if self._suspects else min(MOST_PAUSE_SECONDS, minutes * 30.0 / len(users))

    def _run_with_the_host(self) -> str:
        rows = self._journal.query("select run from locks")
        return f"{rows[0][0]} has the host" if rows else ""

    def _next(self, users: list[str], period: float) -> str | None:
        """Return the user to verify now: a witness for a suspect, a suspect whose retry is due, or the one who has waited longest; or None."""
        now, moment = time.monotonic(), time.time()
        known, seen = last_pairings.pairings(self._journal), last_pairings.last_seen(self._journal)
        # A failure that is ahead of the clock, which was set back since, would wait for a witness until then.
        self._suspects = {
            user: each for user, each in self._suspects.items() if user in users and each.failed <= moment
        }
        free = [user for user in users if user not in self._suspects and self._skipped.get(user, now) <= now]
        unpaired = {user for user, last in known.items() if last["reason"]}
        asked = [each.failed for each in self._suspects.values() if each.counts]
        witnesses = [user for user in free if user not in unpaired]
        if witnesses and 0 < len(asked) <= MOST_WITNESSES and not self._paired_since(min(asked)):
            return max(witnesses, key=lambda user: seen.get(user, 0.0))
        if retries := [(each.retry, user) for user, each in self._suspects.items() if each.retry <= now]:
            return min(retries)[1]

        def is_due(user: str) -> bool:
            age = moment - seen.get(user, 0.0)  # negative after the clock was set back
            return age < 0 or age >= (min(period, UNPAIRED_SECONDS) if user in unpaired else period)

        return min((user for user in free if is_due(user)), key=lambda user: seen.get(user, 0.0), default=None)

    def _paired_since(self, moment: float, besides: str = "") -> bool:
        """Return whether another user has paired after a time (epoch seconds)."""
        known, seen = last_pairings.pairings(self._journal), last_pairings.last_seen(self._journal)
        return any(
            not last["reason"] and seen.get(user, 0.0) > moment for user, last in known.items() if user != besides
        )

    def _verify(self, user: str) -> None:
        """Pair a user once, and judge the result. A user whose server was restarted meanwhile is looked at again later."""
        if (pid := self._settled_server(user)) is None:
            self._skip(user)
            return
        try:
            probe.probe(self._host, user)
        except JournalError:
            raise
        except T3flowError as error:
            if self._run_with_the_host() or self._settled_server(user) != pid:
                self._skip(user)
            else:
                self._failed(user, error)
            return
        self._suspects.pop(user, None)
        if self._is_unpaired(user):
            logger.info("{} can pair again", user)
        last_pairings.note_pairing(self._journal, user, "")
        verify_records.note_verified(self._journal)
        revoke_sessions(self._host, user)

    def _settled_server(self, user: str) -> int | None:
        """Return the main process of a managed user's server; None if it does not run, has just started, or is being restarted."""
        server, unmanaged = management.survey(self._host, [user])[user]
        if unmanaged or not server.active or server.main_pid is None:
            return None
        if own_activity.restart_began(self._journal, user) is not None:
            return None
        age = proc.age_seconds(server.main_pid)
        return server.main_pid if age is not None and age >= SETTLED_SECONDS else None

    def _skip(self, user: str) -> None:
        self._suspects.pop(user, None)
        self._skipped[user] = time.monotonic() + SKIP_SECONDS

    def _failed(self, user: str, error: T3flowError) -> None:
        """Judge a failure: a suspicion, this user's own fault, or the dispatch's."""
        reason, before = str(error), self._suspects.get(user)
        counts = not isinstance(error, OWN_FAULTS)
        is_proven = before is not None and (not counts or self._paired_since(before.failed, besides=user))
        if is_proven or self._is_unpaired(user):
            self._unpaired(user, reason)
            return
        self._suspects[user] = Suspect(time.time(), reason, time.monotonic() + RETRY_SECONDS, counts)
        others = {name: each.reason for name, each in self._suspects.items() if each.counts and name != user}
        if before is not None and others:
            self._dispatch_at_fault({user: reason, **others})
        elif before is not None:  # there is no other user to ask
            self._unpaired(user, reason)

    def _is_unpaired(self, user: str) -> bool:
        """Return whether the last pairing of a user that was recorded had failed."""
        last = last_pairings.pairings(self._journal).get(user)
        return last is not None and bool(last["reason"])

    def _unpaired(self, user: str, reason: str) -> None:
        self._suspects.pop(user, None)
        last_pairings.note_pairing(self._journal, user, reason)
        verify_records.note_verified(self._journal)
        self._log_hourly(user, USER_UNPAIRED, f"{user} cannot pair: {reason}; see t3flow status")

    def _dispatch_at_fault(self, failed: dict[str, str]) -> None:
        shown = ", ".join(f"{user} ({reason})" for user, reason in list(failed.items())[:2])
        rest = len(failed) - 2
        more = f" and {rest} other user{'s' * (rest > 1)}" if rest > 0 else ""
        problem = f"none of the users tried can pair: {shown}{more}"
        verify_records.note_dispatch(self._journal, problem)
        self._log_hourly("", NO_PAIRING, f"the dispatch is at fault, or all servers are: {problem}; see t3flow doctor")

    def _log_hourly(self, key: str, mark: str, text: str) -> None:
        now = time.monotonic()
        if now - self._logged.get(key, -3600.0) >= 3600.0:
            self._logged[key] = now
            logger.error("{}: {}", mark, text)

    def _revoke(self, users: list[str]) -> None:
        """Revoke sessions that other parts opened for one user, such as the restarts of a bump."""
        now = time.monotonic()
        pending = [user for user in opened_sessions.opened(self._journal) if user in users]
        user = next((each for each in pending if self._kept.get(each, now) <= now), None)
        if user is not None:
            is_revoked = self._settled_server(user) is not None and revoke_sessions(self._host, user)
            self._kept[user] = now + (SKIP_SECONDS if is_revoked else KEPT_SECONDS)
