"""The soak: after the first restart of a bump, watch that user's real pairings for a while before the next one.

It counts as the watch after a bump does (`rollout/bake.py`), of this one user. Too many failures, confirmed by pairing now while the dispatch serves
others, are the version's fault: the user is taken back, and the bump ends as after a restart that failed.

The wait is a timer in the journal. The bump keeps the lease meanwhile, so that no other restart disturbs what is watched; a freeze, a cancel and a
rollback end the soak within seconds, as they end every wait of a bump.
"""

import shlex
import time
from collections import Counter
from typing import Any, TypedDict

from loguru import logger

from t3flow.engine.errors import NotYet, StepFailed
from t3flow.engine.flow import current_flow
from t3flow.engine.step import current_run, step
from t3flow.host.host import Host, current_host
from t3flow.host.pairing import dispatch_log
from t3flow.host.pairing.log_lines import Cursor
from t3flow.host.records import facts
from t3flow.host.users import Result, result_of
from t3flow.rollout import blame, rollback, suspicion
from t3flow.rollout.bake import POLL_SECONDS, added, read_log
from t3flow.rollout.stop import stop_if_idle
from t3flow.rollout.suspicion import Suspicion
from t3flow.settings import schedule

SOAK = "soak"
"""Fact: the watch of the present soak, as far as it came."""
NO_LOG = "dispatch.log is empty"


class Begun(TypedDict):
    """A soak: since when and until when (epoch seconds), and the end of the dispatch's log at its start."""

    since: float
    until: float
    cursor: Cursor


class Soaked(TypedDict):
    """How a soak ended. `is_broken`: the user cannot pair, and the version is at fault for this `reason`.

    `problem`: why the log showed nothing; `dispatch`: that no user pairs, so that no further user is to be restarted now; both "" if all is well.
    """

    is_broken: bool
    reason: str
    problem: str
    dispatch: str


def soak(user: str, version: str, minutes: float, due: float | None) -> Soaked:
    """Watch the pairings of the first user whom a bump restarted. Raises Interrupted at a freeze or cancel: the user keeps the version."""
    return watch_soak(user, version, begin_soak(user, version, minutes, due))


@step()
def begin_soak(user: str, version: str, minutes: float, due: float | None) -> Begun:
    """Return the bounds of a soak, which ends with the last moment at which a scheduled bump may restart users. A repeat begins it later."""
    host, now = current_host(), time.time()
    latest = schedule.deadline(host.settings, due) if due is not None else None
    until = min(now + minutes * 60, latest or now + minutes * 60)
    cursor: Cursor = dispatch_log.end_of_log(host) if host.settings.dispatch.log else {}
    return {"since": now, "until": until, "cursor": cursor}


@step(interruptible=True)
def watch_soak(user: str, version: str, begun: Begun) -> Soaked:
    """Poll the dispatch's log as a delayed task until the time is over, or the user has failed to pair too often.

    Counts and cursor are one fact, so that a line counts once; without the fact, a repeat reads the soak's lines again from their start. If nothing
    could be read, the user is paired by t3flow itself at the end. A clock that was set back does not prolong it.
    """
    host, run = current_host(), current_run()
    known = facts.read(host.journal, SOAK)
    if known is None or known["run"] != run:
        known = {"run": run, "version": version, "users": {user: begun["since"]}}
        known |= {"cursor": begun["cursor"], "counted": [], "problem": ""}
    is_over = not begun["since"] <= time.time() < begun["until"]
    new, cursor, more, problem = read_log(host, known) if host.settings.dispatch.log else ([], {}, False, NO_LOG)
    if problem and problem != known["problem"]:
        logger.warning("the soak of {} on {} sees no pairings: {}", user, version, problem)
    counted = added(known["counted"], [entry for entry in new if entry[2] == user])
    suspected = suspicion.suspect(host, version, counted) or (_paired_now(host, user) if problem and is_over else None)
    finding = suspicion.check(host, version, suspected) if suspected is not None else None
    if suspected is not None and finding is not None and not finding.is_broken:
        logger.warning("the soak of {} on {} goes on: {}", user, version, finding.reason)
        counted = []
    if suspected is not None and finding is not None and finding.is_broken:
        reason = f"{suspected.users.total()} {suspected.words} of {user} in the soak after the first restart"
        ended = Soaked(is_broken=True, reason=reason, problem=problem, dispatch="")
    elif is_over and not more:
        dispatch = finding.reason if finding is not None and finding.dispatch_at_fault else ""
        ended = Soaked(is_broken=False, reason="", problem=problem, dispatch=dispatch)
    else:
        watch: dict[str, Any] = {**known, "cursor": cursor, "counted": counted, "problem": problem}
        facts.write(host.journal, SOAK, watch, synced=False)
        until = time.strftime("%H:%M:%S", time.localtime(begun["until"]))
        at = time.time() if more else min(time.time() + POLL_SECONDS, begun["until"])
        raise NotYet(at, f"{user} runs it until {until} before the next restart{'; ' if problem else ''}{problem}")
    facts.write(host.journal, SOAK, None)
    return ended


def _paired_now(host: Host, user: str) -> Suspicion | None:
    """Pair a user now, as nothing is seen of real pairings. Return the suspicion if that fails again and again, else None."""
    failed = suspicion.cannot_pair(host, [user], tries=suspicion.TRIES)
    return Suspicion("failure", Counter(failed.keys()), 1) if failed else None


def take_back(user: str, version: str, previous: str, reason: str) -> Result:
    """Undo the first restart: return the user to the previous version, if no turn is live. The databases of the version are kept.

    The result is rolled_back, or failed with the user still on the version, and says what to run. Not interrupted: it is a compensation.
    """
    with current_flow().shielded():
        try:
            with current_flow().saga():
                stopped = stop_if_idle(user, version, False, False, None, True)
                if not stopped["stopped"]:
                    stays = f"{reason}; {user} stays on {version} for now: {stopped['detail']}"
                    return _failed(version, f"{stays}; to go back: t3flow enqueue rollback --user {shlex.quote(user)}")
                result = rollback.roll_back(user, version, previous, was_running=True)
                if result["result"] != "rolled_back":
                    raise StepFailed(stop_if_idle.name, "NotTakenBack", result["reason"])
        except StepFailed as failure:
            logger.error("ROLLBACK FAILED for {}: {}", user, failure)
            return _failed(
                version,
                f"{reason}; ROLLBACK FAILED: {failure}; to go back: t3flow enqueue rollback --user {shlex.quote(user)}",
            )
    logger.error("rolled back {} to {}: {}", user, previous, reason)
    return {**result, "reason": reason, "at_fault": blame.VERSION}


def _failed(version: str, reason: str) -> Result:
    return {**result_of("failed", version, reason), "at_fault": blame.VERSION}
