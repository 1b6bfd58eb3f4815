"""The safe restart of one user. It never stops a server that is in use, never migrates a database without a snapshot, and undoes what fails.

The order: snapshot; suspend the server, read idleness and, while it is suspended, resume it or kill it; a second snapshot if the databases
changed since the first; assign; start; verify through the dispatch. A failure after the stop is undone.
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
from t3flow.host import disk_space, slots
from t3flow.host.activity.termination import await_commands, stop_all
from t3flow.host.backups import durations, replaced, restoring, store
from t3flow.host.host import Host, current_host
from t3flow.host.pairing import causes, last_pairings, own_activity, probe, verification
from t3flow.host.users import Result, result_of
from t3flow.rollout import blame
from t3flow.rollout.blame import Course
from t3flow.rollout.snapshots import back_up
from t3flow.rollout.stop import Stopped, await_port, stop_if_idle, undo_stop
from t3flow.tasks import Snapshot

LAUNCH_SECONDS = 5.0
"""How long the launcher may take to exec a version."""
LONG_OUTAGE_SECONDS = 5.0
LONGEST_WAIT_SECONDS, MOST_DOUBLINGS = 86400.0, 16
MANAGER_FAILURES = ("ServiceError", "ManagerAway", "ChildError", "TookTooLong")
"""Kinds of failure of the service manager, after which a run of its own starts the server later (`rollout/revive.py`)."""


class StoppedByHand(T3flowError):
    """An operator stopped the unit while its server was being verified."""


def safe_restart(
    user: str,
    previous: str,
    version: str,
    *,
    canary: bool,
    ignore_processes: bool = False,
    insists: bool = False,
    taken: Snapshot | None = None,
) -> Result:
    """Move one user from `previous` to `version`, or leave them as they are.

    `canary`: an agent without a turn counts as work. `insists`: an operator named this user and accepts an outage as long as a second snapshot
    takes. `taken`: a snapshot from before the gate, which is taken anew only if the databases changed since. The result is restarted, deferred,
    skipped (no snapshot), rolled_back or failed. Raises StepFailed only for a snapshot that kills the consumer, Interrupted only before the stop.
    """
    is_early = taken is not None and not taken["problem"] and taken["fingerprint"] is not None
    if taken is not None and is_early:
        safe_point()
        snapshot = taken
    else:
        try:
            snapshot = back_up(user, previous, version, False)
        except StepFailed as failure:
            if failure.kind == CRASHED:
                raise
            return _no_backup(previous, failure)
        if snapshot["problem"]:
            return result_of("skipped", previous, f"no backup: {snapshot['problem']}")
    stopping = (user, previous, canary, ignore_processes, snapshot["fingerprint"], insists)
    course = Course()
    with current_flow().shielded():
        try:
            with current_flow().saga(), course:
                stopped = stop_if_idle(*stopping, early=True) if is_early else stop_if_idle(*stopping)
                if stopped["stopped"]:
                    return _move(user, previous, version, snapshot["path"], stopped, course)
        except StepFailed as failure:
            return _after_failure(user, previous, version, course, failure)
    if not stopped["changed"]:
        return _deferred(previous, stopped["waiting_for"], stopped["detail"], stopped["ask_again"])
    return safe_restart(user, previous, version, canary=canary, ignore_processes=ignore_processes, insists=insists)


def _move(user: str, previous: str, version: str, path: str, stopped: Stopped, course: Course) -> Result:
    """Assign, start, and verify a user whose server is stopped and whose snapshot is at `path`."""
    if stopped["changed"]:
        path = back_up_stopped(user, previous, version)
    replaced_name = f"replaced-{datetime.fromtimestamp(stopped['at'], UTC):%Y%m%dT%H%M%SZ}"
    if not assign_version(user, previous, version, path, replaced_name):
        return _deferred(previous, "quiet_period", "its server was started again meanwhile", time_now())
    start_server(user)
    course.started = version
    paired_at = verify_user(user, version)
    return {**result_of("restarted", version, ""), "downtime_s": round(paired_at - stopped["at"], 3)}


def _after_failure(user: str, previous: str, version: str, course: Course, failure: StepFailed) -> Result:
    """Return the result of a restart that failed: rolled back if other users would meet the fault, deferred if it is this user's alone.

    `failure` is an UndoFailed where the undo failed as well. Then the result is failed, unless only the service manager refuses to start the
    previous version, which a run of its own retries.
    """
    undo = failure if isinstance(failure, UndoFailed) else None
    fault = blame.fault_of(course, version, undo, undo_stop.name)
    is_other_fault = fault in (blame.USER, blame.HOST)
    reason = str(failure)
    if undo is not None:
        if course.failure and str(course.failure) != reason:
            reason += f", after: {course.failure}"
        logger.error("ROLLBACK FAILED for {}: {}", user, reason)
        reason = f"ROLLBACK FAILED: {reason}"
        if is_other_fault and failure.step == undo_stop.name and failure.kind in MANAGER_FAILURES:
            retry_at = note_not_moved(user, version, reason)
            return {**_deferred(previous, "server_stopped", reason, retry_at), "at_fault": blame.MANAGER}
        return {**result_of("failed", previous, reason), "at_fault": fault}
    if failure.step == back_up_stopped.name and failure.kind != CRASHED:
        retry_at = note_not_moved(user, version, reason)
        return {**_no_backup(previous, failure), "at_fault": fault, "ask_again": retry_at}
    if failure.kind == probe.PortTaken.__name__:
        return _deferred(previous, "server_stopped", reason, 0.0)  # another program's doing, which freezes nothing
    if failure.kind == causes.BrokenBefore.__name__:
        logger.error("{} is back on {}: {}; {} is not at fault", user, previous, reason, version)
        return {**result_of("skipped", previous, reason), "waiting_for": HELD}
    if is_other_fault:
        retry_at = note_not_moved(user, version, reason, is_own=fault == blame.USER)
        logger.error("{} is back on {}: {}; {} is not at fault", user, previous, reason, version)
        return {**_deferred(previous, "unreadable_state", reason, retry_at), "at_fault": fault}
    logger.error("rolled back {} to {}: {}", user, previous, reason)
    retry_at = note_not_moved(user, version, reason) if fault in blame.ENDS_THE_RUN else 0.0
    return {**result_of("rolled_back", previous, reason), "at_fault": fault, "ask_again": retry_at}


def _no_backup(version: str, failure: StepFailed) -> Result:
    """Return the result of a user without a backup; it waits for `host_busy` if the host's disk is at fault."""
    skipped = result_of("skipped", version, f"no backup: {failure.reason}")
    return {**skipped, "waiting_for": "host_busy"} if failure.kind == DiskError.__name__ else skipped


def _deferred(version: str, waiting_for: str, detail: str, ask_again: float) -> Result:
    return {**result_of("deferred", version, detail), "waiting_for": waiting_for, "ask_again": ask_again}


def long_outages(results: dict[str, Result]) -> list[str]:
    """Return a line for each restarted user whose outage was longer than a restart may take unless an operator insists."""
    outages = {user: result["downtime_s"] or 0.0 for user, result in results.items()}
    return [f"{user} was down for {took:.1f} s" for user, took in outages.items() if took > LONG_OUTAGE_SECONDS]


@step(wording=("why",))
def note_not_moved(user: str, version: str, why: str, *, is_own: bool = False) -> float:
    """Record why a user was not moved, for no fault of the version; return when to retry (epoch seconds), with backoff up to a day.

    `is_own`: the fault is this user's alone and delays no other user's drain. A repeat counts one more failure.
    """
    host = current_host()
    kind = blockers.OWN if is_own else blockers.RESTART
    times = blockers.note(host.journal, user, kind, f"{user} could not be moved to {version}: {why}")
    wait_seconds = float(host.settings.deferral.max_check_interval_s) * 2.0 ** min(times - 1, MOST_DOUBLINGS)
    return time.time() + min(LONGEST_WAIT_SECONDS, wait_seconds)


@step(syncs_first=False)
def safe_point() -> None:
    """Do nothing: a signal ends the run before this step, while no server is stopped."""


@step(syncs_first=False)
def time_now() -> float:
    """Return the time, journaled so that a replay takes the same branch."""
    return time.time()


# Steps --------------------------------------------------------------------------------------------------------------


@step()
def back_up_stopped(user: str, previous: str, version: str) -> str:
    """Take the second snapshot, of a stopped server whose databases changed since the first. A repeat takes another."""
    return store.take(current_host(), user, written_by=previous, version=version, run=current_run()).path


@step(
    former_names=("take_back",),
    former_parameters={"former": "previous", "target": "version", "kept_name": "replaced_name"},
)
def undo_assignment(user: str, previous: str, version: str, snapshot: str, replaced_name: str) -> None:
    """Undo an assignment: restore the snapshot in place of what the version wrote, and assign the previous version.

    Idempotent: each part is skipped or ends the same. If the server cannot be ended or the snapshot cannot be restored, the databases stay with
    the version that wrote them.
    """
    host = current_host()
    versions_dir = host.settings.paths.versions_dir
    logger.error("rolling back {} from {} to {}", user, version, previous)
    backup = store.on_record(host, user, snapshot)
    is_ended = False
    try:
        stop_all(host, user)
        is_ended = True
        aside = restoring.restore(host, user, backup, replaced_name)
    except T3flowError:
        if is_ended:  # never under a process that has the databases open
            with suppress(T3flowError):
                restoring.undo_restore(host, user, replaced_name)  # what a restore that failed half-way has replaced
        slots.assign(versions_dir, user, version)
        raise
    replaced.note(host.journal, user, replaced_name, version)
    logger.info("kept the databases of {} as {} left them in {}", user, version, aside)
    slots.assign(versions_dir, user, previous)


@step(undo=undo_assignment)
def assign_version(user: str, previous: str, version: str, snapshot: str, replaced_name: str) -> bool:
    """Assign the version to the user by a rename. Return False if the server runs again; then the assignment stays as it was.

    An operator or a reboot may have started the server since the stop, and its user may be working. Until the server answers, the launcher refuses
    to mint sessions; a mint in flight is allowed to end. Idempotent.
    """
    host = current_host()
    versions_dir = host.settings.paths.versions_dir
    if _runs_on(host, user) not in (None, version):
        own_activity.note_restart_end(host.journal, user)
        return False
    if slots.assigned(versions_dir, user) != version:
        slots.assign(versions_dir, user, slots.RESTORING)
        await_commands(host, user)
    slots.note_starting(versions_dir, user)
    slots.assign(versions_dir, user, version)
    if _runs_on(host, user) in (None, version):
        return True
    slots.assign(versions_dir, user, previous)  # it was started between the two checks
    slots.remove_starting(versions_dir, user)
    own_activity.note_restart_end(host.journal, user)
    return False


def _runs_on(host: Host, user: str) -> str | None:
    """Return the version that a user's server runs; "" if the launcher has not started one yet; None without a server."""
    deadline = time.monotonic() + LAUNCH_SECONDS
    while (pid := host.services.state(user).main_pid) is not None:
        version = probe.running_version_of(host, user, pid)
        if version is not None or time.monotonic() > deadline:
            return version or ""
        time.sleep(0.02)
    return None


@step()
def start_server(user: str) -> None:
    """Start the user's server, unless another program has its port: the server would migrate the databases before it found out.

    Processes left in the cgroup of the stopped unit may hold the port and are ended first. Idempotent: a running server is left alone.
    """
    host = current_host()
    server = host.services.state(user)
    left = host.services.pids_of(user, server) if server.pids is None else server.pids
    if server.main_pid is None and left:
        host.services.stop(user, server)
    await_port(host, user)
    host.services.start(user)


@step(syncs_first=False)
def verify_user(user: str, version: str) -> float:
    """Wait until the user pairs through the dispatch on the version; return when (epoch seconds). A repeat pairs once more.

    A starting server gets as long as the gate measured on this user's databases, with a margin for a loaded host. A cause that is not the server's
    own is raised as an error of another kind. Changes nothing that a repeat of the start would mind after a power cut.
    """
    host = current_host()
    timeout_seconds = host.settings.dispatch.verify_timeout_s
    try:
        paired_at = verification.verify(
            host, user, version, timeout_seconds, durations.start_limit(host, user, version)
        )
    except probe.PortTaken as error:
        last_pairings.note_pairing(host.journal, user, str(error))
        raise
    except probe.NotPaired as error:
        fault = causes.find_other_fault(host, user, version, error)
        last_pairings.note_pairing(host.journal, user, str(error))
        if full := disk_space.problem(host, user):
            raise disk_space.DiskFull(f"{error}; {full}") from error
        if (server := host.services.state(user)).was_stopped:
            raise StoppedByHand(f"{server.unit} was stopped while it was verified ({error})") from error
        if fault is not None:
            raise fault from error
        raise
    last_pairings.note_pairing(host.journal, user, "")
    own_activity.note_restart_end(host.journal, user)
    return paired_at
