"""Decide when a deferred user may be moved: the polling step of a drain, and the checks before a restart."""

import math
import shlex
import time
from typing import TypedDict

from t3flow import T3flowError
from t3flow.deferrals import blockers, left_behind, long_waits, patience
from t3flow.engine.errors import NotYet
from t3flow.engine.step import current_run, step
from t3flow.fleet import turn
from t3flow.fleet.members import is_on
from t3flow.host import freeze, management, pruning, slots
from t3flow.host.activity import idle
from t3flow.host.host import Host, current_host
from t3flow.host.pairing import own_activity, probe
from t3flow.host.processes import proc
from t3flow.host.records import deferral_records, facts, holds, rejections
from t3flow.host.records.deferral_records import Deferral
from t3flow.host.users import Result, result_of
from t3flow.settings import schedule
from t3flow.settings.user_map import UserMapError

MOVED_SINCE = (
    "select 1 from runs where outcome = 'updated' and workflow in ('drain', 'drain_now') and updated > ? limit 1"
)
"""Finds a drain that moved a user since a time."""
FURTHEST_SECONDS = 2 * 86400.0
"""A drain never waits for so long after an attempt. A time further ahead comes from a clock that was set back since."""
RESTARTING_SECONDS = 2.0
"""How soon a user whom another run is restarting is checked again."""


class Ready(TypedDict):
    """A deferred user who is idle, or why nothing is left to do. `version`: the present one."""

    nothing_to_do: str
    version: str
    target: str


class Wait(TypedDict):
    """Why a user is not moved now, and when to check again (epoch seconds)."""

    waiting_for: str
    detail: str
    at: float


@step(syncs_first=False)
def may_still_restart(due: float) -> bool:
    """Return whether a run scheduled for `due` may restart another user. Only reads the clock."""
    latest = schedule.deadline(current_host().settings, due)
    return latest is None or time.time() < latest


@step(syncs_first=False)
def await_idle(user: str, not_before: float) -> Ready:
    """Poll as a delayed task until a deferred user is idle. Only reads, except that the deferral records each check."""
    host = current_host()
    pending = deferral_records.deferral(host.journal, user)
    if pending is None:
        return {"nothing_to_do": "the deferral was dropped", "version": "", "target": ""}
    try:
        version = slots.effective(host.settings.paths.versions_dir, user) or ""
        is_moved = version == pending.version and not runs_another(host, user, version)
        if (
            is_moved and own_activity.restart_began(host.journal, user) is not None
        ):  # not verified yet, and may be rolled back
            raise NotYet(time.time() + RESTARTING_SECONDS, "host_busy")
        if is_moved:
            return {"nothing_to_do": f"{user} is already on {version}", "version": version, "target": pending.version}
        mapped = host.user_map()
        if all(entry.name != user for entry in mapped.users):
            trouble = next((problem for problem in mapped.problems if user in problem), "")
            fix = trouble or f"add the user again, or drop the deferral: t3flow deferrals revoke {shlex.quote(user)}"
            raise UserMapError(f"{user} is not in the user map: {fix}")
        wait = reason_to_wait(host, pending, not_before)
    except T3flowError as error:
        wait = {
            "waiting_for": "unreadable_state",
            "detail": str(error),
            "at": time.time() + host.settings.deferral.max_check_interval_s,
        }
    if wait is not None:
        deferral_records.note_check(host.journal, user, wait["waiting_for"], wait["detail"], wait["at"])
        long_waits.note(host.journal, user, wait["waiting_for"], wait["detail"])
        raise NotYet(wait["at"], wait["waiting_for"])
    return {"nothing_to_do": "", "version": version, "target": pending.version}


@step(syncs_first=False, former_names=("held_back",))
def recheck_deferral(user: str, previous: str, version: str, in_window: bool) -> Result | None:
    """Return why a deferred user is not moved after all, as much may have changed while the run waited for the host.

    Only reads, except that the host takes its turn in its fleet for a version that awaits acceptance; a repeat finds it taken.
    """
    host = current_host()
    pending = deferral_records.deferral(host.journal, user)
    soon = time.time() + 2
    if pending is None or pending.version != version:
        detail = f"{user} is deferred to {pending.version} now" if pending else f"the deferral of {user} was dropped"
        return waiting_result(previous, {"waiting_for": "host_busy", "detail": detail, "at": soon})
    if not slots.has_slot(host.settings.paths.versions_dir, version):
        gone = f"the slot of {version} is gone: t3flow enqueue bump --target {version} installs it"
        at = soon + host.settings.deferral.max_check_interval_s
        return waiting_result(previous, {"waiting_for": "unreadable_state", "detail": gone, "at": at})
    wait = reason_not_now(host, pending, any_time=not in_window) or turn_to_wait_for(host, version)
    return waiting_result(previous, wait) if wait else None


def turn_to_wait_for(host: Host, version: str) -> Wait | None:
    """Return why this host may not start a version that no user of it was moved to yet, as its fleet decides; None if it may."""
    if not is_on(host.settings) or facts.read(host.journal, pruning.TO_BE_ACCEPTED) != version:
        return None
    answer = turn.ask(host, version, current_run(), is_bump=False)
    if answer.is_granted:
        return None
    detail = f"the fleet: {answer.reason or f'{version} was {answer.rejected}'}"
    return {
        "waiting_for": "host_busy",
        "detail": detail,
        "at": time.time() + host.settings.deferral.max_check_interval_s,
    }


def waiting_result(version: str, wait: Wait) -> Result:
    """Return the result of a user who stays deferred."""
    found = result_of("deferred", version, wait["detail"])
    return {**found, "waiting_for": wait["waiting_for"], "ask_again": wait["at"]}


def runs_another(host: Host, user: str, version: str) -> bool:
    """Return whether a user's server runs another version than the assigned one: it was started before adoption, or around the launcher.

    A stopped server counts as running the assigned version. A program outside all slots is another one, unless the launcher has only just begun.
    """
    pid = host.services.state(user).main_pid
    if pid is None:
        return False
    runs = probe.running_version_of(host, user, pid)
    if runs is None:
        return proc.is_past_launch(pid)
    return runs != version


@step(former_names=("would_move",))
def preview_drain(user: str, ignore_processes: bool) -> Result:
    """Return what a drain would do with a user now. Only reads."""
    host = current_host()
    pending = deferral_records.deferral(host.journal, user)
    version = slots.effective(host.settings.paths.versions_dir, user) or ""
    wait = (
        reason_to_wait(host, pending, 0, any_time=True, ignore_processes=ignore_processes)
        if pending is not None
        else None
    )
    return waiting_result(version, wait) if wait else result_of("untouched", version, "idle; would be restarted")


def reason_to_wait(
    host: Host, pending: Deferral, not_before: float, *, any_time: bool = False, ignore_processes: bool = False
) -> Wait | None:
    """Return why a deferred user is not moved now; None if they may be. `any_time`: ignore the window."""
    if wait := reason_not_now(host, pending, any_time=any_time):
        return wait
    now = time.time()
    interval = float(host.settings.deferral.max_check_interval_s)
    if now < not_before <= now + FURTHEST_SECONDS:
        return {
            "waiting_for": pending.waiting_for,
            "detail": pending.detail,
            "at": within_window(host, min(not_before, now + interval)),
        }
    ignore_processes = ignore_processes or patience.ignores_processes(host, pending.user)
    found = patience.with_end(host, pending.user, read_idleness(host, pending.user, ignore_processes))
    if found.idle:
        return None
    if patience.wants_now(host, pending.user):
        return {
            "waiting_for": found.waiting_for,
            "detail": found.detail,
            "at": min(found.ask_again, now + interval),
        }
    return {
        "waiting_for": found.waiting_for,
        "detail": found.detail,
        "at": within_window(host, min(found.ask_again, now + interval)),
    }


def reason_not_now(host: Host, pending: Deferral, *, any_time: bool) -> Wait | None:
    """Return why a deferred user is not moved now, whether idle or not."""
    now = time.time()
    interval = float(host.settings.deferral.max_check_interval_s)
    is_open = any_time or patience.wants_now(host, pending.user)
    opens = now if is_open else schedule.window_opens(host.settings, now)
    if hold := holds.holds(host.journal).get(pending.user):
        return {"waiting_for": left_behind.HELD, "detail": hold.text, "at": min(now + interval, hold.until or math.inf)}
    if not any_time and (reason := left_behind.held_reason(host.journal, pending.user, pending.version)):
        return {"waiting_for": left_behind.HELD, "detail": reason, "at": now + interval}
    if not any_time and (later := patience.later_date(host, pending.user)):
        return {"waiting_for": patience.LATER, "detail": patience.later_words(later), "at": min(now + interval, later)}
    if pending.revoked:
        return {"waiting_for": "revoked", "detail": "revoked by an operator", "at": now + interval}
    if freeze.is_frozen(host.settings):
        return {"waiting_for": "frozen", "detail": "tracking is frozen", "at": now + interval}
    if pending.version in rejections.rejected(host.journal):
        return {
            "waiting_for": "frozen",
            "detail": f"{pending.version} was rejected; waiting for a newer version",
            "at": now + interval,
        }
    if opens > now:
        return {"waiting_for": "window", "detail": f"the window is {host.settings.deferral.window}", "at": opens}
    if not any_time and (wait := after_a_failure(host, pending.user, now)):
        return wait
    if reason := management.unmanaged_reason(host, pending.user, host.services.state(pending.user)):
        return {"waiting_for": "unreadable_state", "detail": reason, "at": now + interval}
    return None


def after_a_failure(host: Host, user: str, now: float) -> Wait | None:
    """Return a wait if another user was just stopped in vain and no user was moved since, so that a shared fault does not stop every user."""
    last = blockers.last_of_others(host.journal, user, blockers.RESTART)
    again = last.at + host.settings.deferral.max_check_interval_s if last is not None else 0.0
    if last is None or not last.at <= now < again or host.journal.query(MOVED_SINCE, last.at):
        return None
    return {"waiting_for": "host_busy", "detail": f"{last.detail}: other users are not stopped for now", "at": again}


def within_window(host: Host, moment: float) -> float:
    """Return a moment, or the start of the next window after it."""
    return schedule.window_opens(host.settings, moment)


def read_idleness(host: Host, user: str, ignore_processes: bool) -> idle.Idleness:
    """Return whether a user is idle, without disturbing the server."""
    interval = float(host.settings.deferral.max_check_interval_s)
    try:
        server = host.services.state(user)
        if not server.active:
            return idle.Idleness(False, "server_stopped", f"{server.unit} does not run", time.time() + interval)
        if trouble := probe.port_problem(host, user, server):
            return idle.unreadable(trouble, interval)
        if unknown := probe.unknown_server_problem(host, user):
            idle.note_unknown(host.journal, user, unknown)
            return idle.unreadable(unknown, interval)
        return idle.read_idleness(host, user, server, canary=False, ignore_processes=ignore_processes)
    except T3flowError as error:
        return idle.unreadable(str(error), interval)
