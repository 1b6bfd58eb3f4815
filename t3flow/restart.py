"""The safe restart of one user: nothing is stopped that works, nothing is migrated that was not kept, nobody is left in between.

The order: snapshot → hold the server still, read idleness, and while it is still held either let it go on or end it → a second snapshot if
something was written since the first → assign → start → verify through the dispatch. What fails after the stop is undone.
"""

import time
from contextlib import suppress
from datetime import UTC, datetime

from loguru import logger

from t3flow import T3flowError
from t3flow.deferrals import blockers
from t3flow.deferrals.left_behind import HELD
from t3flow.engine.errors import StepFailed, UndoFailed
from t3flow.engine.files import DiskError
from t3flow.engine.flow import CRASHED, current_flow
from t3flow.engine.step import current_run, step
from t3flow.host import disk_space, own_activity, pairing_results, slots
from t3flow.host.backups import durations, replaced, restoring, store
from t3flow.host.host import Host, this_host
from t3flow.host.pairing import probe, witnesses
from t3flow.host.termination import await_commands, take_away
from t3flow.host.users import Result, result_of
from t3flow.rollout import blame
from t3flow.rollout.blame import Course
from t3flow.rollout.stop import await_port, bring_back, stop_if_idle
from t3flow.tasks import Snapshot, back_up

LAUNCH_SECONDS = LONG_AWAY_SECONDS = 5.0
LONGEST_WAIT_SECONDS, MOST_DOUBLINGS = 86400.0, 16
OF_THE_MANAGER = ("ServiceError", "ManagerAway", "ChildError", "TookTooLong")
"""Kinds of failure of the manager of units, after which the start of the server is owed (`rollout/revive.py`)."""


class StoppedByHand(T3flowError):
    """A person stopped the unit while its server was being verified."""


def safe_restart(
    user: str, former: str, target: str, *, canary: bool, ignore_processes: bool = False, insists: bool = False
) -> Result:
    """Moves one user from a version to another, or leaves them as they are. Raises StepFailed only for a snapshot that kills the consumer.

    `canary`: an agent without a turn counts as work too. `insists`: a person asked for it, and accepts that the user is away for as long as a
    second snapshot takes. The result is restarted, deferred, skipped (no snapshot), rolled_back or failed.
    """
    try:
        snapshot = back_up(user, former, target, False)
    except StepFailed as failure:
        if failure.kind == CRASHED:
            raise
        return _no_backup(former, failure)
    if snapshot["problem"]:
        return result_of("skipped", former, f"no backup: {snapshot['problem']}")
    course = Course()
    with current_flow().shielded():
        try:
            return _move(user, former, target, snapshot, canary, ignore_processes, insists, course)
        except UndoFailed as failure:
            return _not_undone(user, former, target, course, failure)
        except StepFailed as failure:
            return _undone(user, former, target, course, failure)


def _move(
    user: str,
    former: str,
    target: str,
    snapshot: Snapshot,
    canary: bool,
    ignore_processes: bool,
    insists: bool,
    course: Course,
) -> Result:
    """The part that is finished or undone once begun. Raises StepFailed after undoing, UndoFailed when that failed; `course` says how far it came."""
    with current_flow().saga():
        try:
            stopped = stop_if_idle(user, former, canary, ignore_processes, snapshot["fingerprint"], insists)
            if not stopped["stopped"]:
                return _deferred(former, stopped["waiting_for"], stopped["detail"], stopped["ask_again"])
            path = back_up_stopped(user, former, target) if stopped["changed"] else snapshot["path"]
            kept_name = f"replaced-{datetime.fromtimestamp(stopped['at'], UTC):%Y%m%dT%H%M%SZ}"
            if not assign_version(user, former, target, path, kept_name):
                return _deferred(former, "quiet_period", "its server was started again meanwhile", time_now())
            start_server(user)
            course.started = target
            paired_at = verify_user(user, target)
        except StepFailed as failure:
            course.failure = failure
            raise
    return {**result_of("restarted", target, ""), "downtime_s": round(paired_at - stopped["at"], 3)}


def _undone(user: str, former: str, target: str, course: Course, failure: StepFailed) -> Result:
    """The result of a restart that failed and was undone: rolled back where more users would meet the fault, else this user's trouble alone."""
    fault = blame.who_is_at_fault(course, target, None, bring_back.name)
    if failure.step == back_up_stopped.name and failure.kind != CRASHED:
        again = note_not_moved(user, target, str(failure))
        return {**_no_backup(former, failure), "at_fault": fault, "ask_again": again}
    if failure.kind == probe.PortTaken.__name__:
        return _deferred(former, "server_stopped", str(failure), 0.0)  # others' doing, which freezes nothing
    if failure.kind == witnesses.BrokenBefore.__name__:
        logger.error("{} is back on {}: {}; {} is not to blame", user, former, failure, target)
        return {**result_of("skipped", former, str(failure)), "waiting_for": HELD}
    if fault in (blame.USER, blame.HOST):
        again = note_not_moved(user, target, str(failure), is_own=fault == blame.USER)
        logger.error("{} is back on {}: {}; {} is not to blame", user, former, failure, target)
        return {**_deferred(former, "unreadable_state", str(failure), again), "at_fault": fault}
    logger.error("rolled back {} to {}: {}", user, former, failure)
    again = note_not_moved(user, target, str(failure)) if fault in blame.ENDS_THE_RUN else 0.0
    return {**result_of("rolled_back", former, str(failure)), "at_fault": fault, "ask_again": again}


def _not_undone(user: str, former: str, target: str, course: Course, failure: UndoFailed) -> Result:
    """The result of a restart that failed, and its undo too. Where the manager alone refuses to start the former version again, that is owed."""
    fault = blame.who_is_at_fault(course, target, failure, bring_back.name)
    cause = f", after: {course.failure}" if course.failure and str(course.failure) != str(failure) else ""
    reason = f"ROLLBACK FAILED: {failure}{cause}"
    logger.error("ROLLBACK FAILED for {}: {}{}", user, failure, cause)
    is_owed = failure.step == bring_back.name and failure.kind in OF_THE_MANAGER
    if is_owed and fault in (blame.USER, blame.HOST):
        found = _deferred(former, "server_stopped", reason, note_not_moved(user, target, reason))
        return {**found, "at_fault": blame.MANAGER}
    return {**result_of("failed", former, reason), "at_fault": fault}


def long_away(results: dict[str, Result]) -> list[str]:
    """Return a line for each restarted user who was away for longer than a restart may take unasked."""
    downtimes = {user: found["downtime_s"] or 0.0 for user, found in results.items()}
    return [f"{user} was away for {took:.1f} s" for user, took in downtimes.items() if took > LONG_AWAY_SECONDS]


def _no_backup(version: str, failure: StepFailed) -> Result:
    """A user who is not restarted as there is no backup; with `host_busy` where it is the host's disk that is at fault."""
    skipped = result_of("skipped", version, f"no backup: {failure.reason}")
    return {**skipped, "waiting_for": "host_busy"} if failure.kind == DiskError.__name__ else skipped


def _deferred(version: str, waiting_for: str, detail: str, ask_again: float) -> Result:
    return {**result_of("deferred", version, detail), "waiting_for": waiting_for, "ask_again": ask_again}


@step()
def note_not_moved(user: str, target: str, why: str, *, is_own: bool = False) -> float:
    """Have `status` say why a user was not moved, for no fault of the version; return when to try again (epoch seconds).

    `is_own`: the fault is this user's alone, and delays no drain of another. Each try takes the server away for a moment, so that the next comes
    later each time, at most after a day. Repeating it counts one more.
    """
    host = this_host()
    kind = blockers.OWN if is_own else blockers.RESTART
    times = blockers.note(host.journal, user, kind, f"{user} could not be moved to {target}: {why}")
    wait_seconds = float(host.settings.deferral.max_check_interval_s) * 2.0 ** min(times - 1, MOST_DOUBLINGS)
    return time.time() + min(LONGEST_WAIT_SECONDS, wait_seconds)


@step(syncs_first=False)
def time_now() -> float:
    """The time, journaled so that a replay takes the same turn."""
    return time.time()


# Going there --------------------------------------------------------------------------------------------------------


@step()
def back_up_stopped(user: str, former: str, target: str) -> str:
    """The snapshot that counts when something was written after the first. Repeating it takes another."""
    return store.take(this_host(), user, written_by=former, version=target, run=current_run()).path


@step()
def take_back(user: str, former: str, target: str, snapshot: str, kept_name: str) -> None:
    """Undo of an assignment: what the target may have done to the database is undone, and the user is led to the former version.

    Repeating it is harmless: each part is skipped or done again with the same end. If the server does not go or the snapshot cannot be put in
    place, the databases stay with the version that wrote them, so that they agree.
    """
    host = this_host()
    versions_dir = host.settings.paths.versions_dir
    logger.error("rolling back {} from {} to {}", user, target, former)
    backup = store.on_record(host, user, snapshot)
    is_away = False
    try:
        take_away(host, user)
        is_away = True
        aside = restoring.restore(host, user, backup, kept_name)
    except T3flowError:
        if is_away:  # never under a process that has the databases open
            with suppress(T3flowError):
                restoring.undo_restore(host, user, kept_name)  # what a restore that failed half-way has replaced
        slots.assign(versions_dir, user, target)
        raise
    replaced.note(host.journal, user, kept_name, target)
    logger.info("the database of {} as {} left it is kept in {}", user, target, aside)
    slots.assign(versions_dir, user, former)


@step(undo=take_back)
def assign_version(user: str, former: str, target: str, snapshot: str, kept_name: str) -> bool:
    """Leads the user to the target by a rename; repeating it is harmless. False: the user's server runs again, and they stay where they are.

    From then on until the server answers the launcher refuses mintings, and one under way is let end.
    A server that was stopped here may have been started since by a person, or by a reboot, and its user may be at work.
    """
    host = this_host()
    versions_dir = host.settings.paths.versions_dir
    if _runs_on(host, user) not in (None, target):
        own_activity.restarted(host.journal, user)
        return False
    if slots.assigned(versions_dir, user) != target:
        slots.assign(versions_dir, user, slots.HOLD)
        await_commands(host, user)
    slots.note_starting(versions_dir, user)
    slots.assign(versions_dir, user, target)
    if _runs_on(host, user) in (None, target):
        return True
    slots.assign(versions_dir, user, former)  # it was started just before
    slots.forget_starting(versions_dir, user)
    own_activity.restarted(host.journal, user)
    return False


def _runs_on(host: Host, user: str) -> str | None:
    """The version that a user's server runs; "" if the launcher has not come to that; None without a server."""
    deadline = time.monotonic() + LAUNCH_SECONDS
    while (pid := host.services.state(user).main_pid) is not None:
        version = probe.version_that_runs(host, user, pid)
        if version is not None or time.monotonic() > deadline:
            return version or ""
        time.sleep(0.02)
    return None


@step()
def start_server(user: str) -> None:
    """Starts the user's server, unless somebody else has its port: it would migrate the database before it found that out.

    What a stopped unit has left in its own group may hold the port, and is ended first. Repeating it finds the server running.
    """
    host = this_host()
    if host.services.state(user).main_pid is None and host.services.pids(user):
        host.services.stop(user)
    await_port(host, user)
    host.services.start(user)


@step(syncs_first=False)
def verify_user(user: str, version: str) -> float:
    """Waits until the user pairs through the dispatch on the version; returns when (epoch seconds). Repeating it pairs once more.

    A server that is still starting is given what its gate measured on this user's databases, with a margin for a host under load. What keeps it
    from pairing and is not its own doing is raised as an error of another kind.
    It changes nothing that the start before it would mind, should a power cut make that run again.
    """
    host = this_host()
    timeout_seconds = host.settings.dispatch.verify_timeout_s
    try:
        paired_at = probe.verify(host, user, version, timeout_seconds, durations.start_limit(host, user, version))
    except probe.PortTaken as error:
        pairing_results.note_pairing(host.journal, user, str(error))
        raise
    except probe.NotPaired as error:
        fault = witnesses.other_fault(host, user, version, error)
        pairing_results.note_pairing(host.journal, user, str(error))
        if full := disk_space.trouble(host, user):
            raise disk_space.NoRoom(f"{error}; {full}") from error
        if (server := host.services.state(user)).was_stopped:
            raise StoppedByHand(f"{server.unit} was stopped while it was verified ({error})") from error
        if fault is not None:
            raise fault from error
        raise
    pairing_results.note_pairing(host.journal, user, "")
    own_activity.restarted(host.journal, user)
    return paired_at
