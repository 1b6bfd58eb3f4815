"""The safe restart of one user: nothing is stopped that works, nothing is migrated that was not kept, nobody is left in between.

The order: snapshot → hold the server still, read idleness, and while it is still held either let it go on or end it → a second snapshot if
something was written since the first → assign → start → verify through the dispatch. What fails after the stop is undone.

The whole unit is ended by SIGKILL while it is held still. A SIGTERM would need it to run again first, and Node answers the requests that came in
meanwhile before it looks at signals: a turn that began then would be cut off. What was committed is safe in SQLite's log.
"""

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypedDict

from loguru import logger

from t3flow.engine.errors import StepFailed, UndoFailed
from t3flow.engine.flow import CRASHED
from t3flow.engine.step import current_attempt, current_flow, current_run, step
from t3flow.errors import T3flowError
from t3flow.files import DiskError
from t3flow.host import (
    backups,
    freeze,
    holding,
    idle,
    kept,
    manageable,
    ours,
    pairing,
    preflight,
    records,
    resuming,
    slots,
    witnesses,
)
from t3flow.host.away import await_commands, take_away
from t3flow.host.host import Host, this_host
from t3flow.host.left_behind import HELD
from t3flow.host.owned import OwnerReader
from t3flow.host.services import ServerState
from t3flow.reviving import owe_start, start_or_owe
from t3flow.tasks import Snapshot, back_up

HELD_SECONDS = 1.0
"""The longest that a unit is held still; also how old the read may be when the stop is sent."""
SECOND_SNAPSHOT_SECONDS = PORT_SECONDS = LAUNCH_SECONDS = 5.0


class Stopped(TypedDict):
    """What came of asking a server to stop. `at` is when (epoch seconds); `changed`: the snapshot is out of date."""

    stopped: bool
    waiting_for: str
    detail: str
    ask_again: float
    at: float
    changed: bool


class Result(TypedDict):
    """How a user fared, as the interface shows it; when a deferred one is worth asking again; whether a failure is the dispatch's."""

    result: str
    version: str
    downtime_s: float | None
    reason: str
    waiting_for: str
    ask_again: float
    dispatch_at_fault: bool


class RestartError(T3flowError):
    """A restart cannot go on."""


def safe_restart(user: str, former: str, target: str, *, canary: bool, ignore_processes: bool = False) -> Result:
    """Moves one user from a version to another, or leaves them as they are. Raises StepFailed only for a snapshot that kills the consumer.

    `canary`: an agent without a turn counts as work too. The result is restarted, deferred, skipped (no snapshot), rolled_back or failed.
    """
    try:
        snapshot = back_up(user, former, target, False)
    except StepFailed as failure:
        if failure.kind == CRASHED:
            raise
        return _no_backup(former, failure)
    if snapshot["problem"]:
        return result_of("skipped", former, f"no backup: {snapshot['problem']}")
    try:
        with current_flow.get().shielded():
            return _move(user, former, target, snapshot, canary, ignore_processes)
    except UndoFailed as failure:
        logger.error("ROLLBACK FAILED for {}: {}", user, failure)
        return result_of("failed", former, f"ROLLBACK FAILED: {failure}")
    except StepFailed as failure:
        if failure.kind == pairing.PortTaken.__name__:
            return _deferred(former, "server_stopped", str(failure), 0.0)
        if failure.step == back_up_stopped.name and failure.kind != CRASHED:
            return _no_backup(former, failure)
        if failure.step in (stop_if_idle.name, assign_version.name) and failure.kind != CRASHED:
            # The target has not run, and is not to blame.
            return _deferred(former, "unreadable_state", str(failure), 0.0)
        logger.error("rolled back {} to {}: {}", user, former, failure)
        if failure.kind == witnesses.BrokenBefore.__name__:
            return {**result_of("skipped", former, str(failure)), "waiting_for": HELD}
        at_fault = failure.kind == witnesses.DispatchAtFault.__name__
        return {**result_of("rolled_back", former, str(failure)), "dispatch_at_fault": at_fault}


def _move(user: str, former: str, target: str, snapshot: Snapshot, canary: bool, ignore_processes: bool) -> Result:
    """The part that is finished or undone once begun. Raises StepFailed after undoing, UndoFailed when that failed."""
    with current_flow.get().saga():
        stopped = stop_if_idle(user, former, canary, ignore_processes, snapshot["fingerprint"])
        if not stopped["stopped"]:
            return _deferred(former, stopped["waiting_for"], stopped["detail"], stopped["ask_again"])
        path = snapshot["path"]
        if stopped["changed"]:
            began = time_now()
            path = back_up_stopped(user, former, target)
            if time_now() - began > SECOND_SNAPSHOT_SECONDS:
                start_server(user)
                verify_user(user, former)
                return _deferred(former, "quiet_period", "the snapshot of the stopped server took too long", time_now())
        kept_name = f"replaced-{datetime.fromtimestamp(stopped['at'], UTC):%Y%m%dT%H%M%SZ}"
        if not assign_version(user, former, target, path, kept_name):
            return _deferred(former, "quiet_period", "its server was started again meanwhile", time_now())
        start_server(user)
        paired_at = verify_user(user, target)
    return {**result_of("restarted", target, ""), "downtime_s": round(paired_at - stopped["at"], 3)}


def result_of(result: str, version: str, reason: str) -> Result:
    """A result without a restart."""
    return {
        "result": result,
        "version": version,
        "downtime_s": None,
        "reason": reason,
        "waiting_for": "",
        "ask_again": 0.0,
        "dispatch_at_fault": False,
    }


def _no_backup(version: str, failure: StepFailed) -> Result:
    """A user who is not restarted as there is no backup; with `host_busy` where it is the host's disk that is at fault."""
    skipped = result_of("skipped", version, f"no backup: {failure.reason}")
    return {**skipped, "waiting_for": "host_busy"} if failure.kind == DiskError.__name__ else skipped


def _deferred(version: str, waiting_for: str, detail: str, ask_again: float) -> Result:
    return {**result_of("deferred", version, detail), "waiting_for": waiting_for, "ask_again": ask_again}


@step()
def time_now() -> float:
    """The time, journaled so that a replay takes the same turn."""
    return time.time()


# Going there --------------------------------------------------------------------------------------------------------


@step()
def bring_back(
    user: str, former: str, canary: bool, ignore_processes: bool, fingerprint: dict[str, Any] | None
) -> None:
    """Undo of a stop: the server runs again on whatever its user is assigned to, and pairs. Repeating it finds it running.

    Where somebody else has its port, it is owed: a run of its own starts it once the port is free.
    """
    host = this_host()
    assigned = slots.effective(host.settings.paths.versions_dir, user)
    logger.info("starting the server of {} again on {}", user, assigned)
    start_or_owe(host, user)
    try:
        pairing.verify(host, user, assigned, host.settings.dispatch.verify_timeout_s)
        records.note_pairing(host.journal, user, "")
        ours.restarted(host.journal, user)
    except pairing.PortTaken as error:
        owe_start(host, user, str(error))
    except pairing.UnknownServer as error:
        if pairing.version_that_runs(host, user, pairing.own_server(host, user)) != assigned:
            raise
        records.note_pairing(host.journal, user, str(error))
        idle.note_unknown(host.journal, user, str(error))  # it runs what it ran before; nothing is known to be wrong
        ours.restarted(host.journal, user)
    except pairing.NotPaired as error:
        pairing.check_running(host, user, assigned or "")
        if not (excuse := witnesses.excuse(host, user)):
            raise
        records.note_pairing(host.journal, user, str(error))
        logger.error("{} is back on {} and cannot pair, as before: {}", user, assigned, excuse)
        ours.restarted(host.journal, user)
    if assigned != former:
        raise RestartError(f"{user} is on {assigned}, not back on {former}")
    backups.check_restored(host, user)


@step(undo=bring_back)
def stop_if_idle(
    user: str, former: str, canary: bool, ignore_processes: bool, fingerprint: dict[str, Any] | None
) -> Stopped:
    """Ends the server if its user is idle, by a read made while it was held still; otherwise it has lost a moment, no more.

    Killed half-way, the server is running, held still (recovery lets it go on), or ended. Ended, it is what was wanted: the repetition goes on
    from there with `changed`, so that a second snapshot is taken.
    """
    host = this_host()
    try:
        server = host.services.state(user)
    except T3flowError as error:
        if current_attempt() > 1:
            raise  # it may have been ended by the attempt before
        return _not_stopped(idle.doubt(str(error), host.settings.deferral.max_check_interval_s))
    if server.main_pid is None:
        if current_attempt() == 1:
            return _not_stopped(idle.Idleness(False, "server_stopped", f"{server.unit} does not run", time.time() + 60))
        host.services.stop(user)
        return _was_stopped(changed=True)
    try:
        found = _end_if_meant(host, user, server, former, canary, ignore_processes)
    except (T3flowError, OSError) as error:
        found = idle.doubt(str(error), host.settings.deferral.max_check_interval_s)
    if not found.idle:
        ours.restarted(host.journal, user)
        return _not_stopped(found)
    host.services.stop(user, server)
    _await_port(host, user)
    again = host.services.state(user).last_start not in ("", server.last_start)
    return _was_stopped(changed=again or fingerprint is None or found.fingerprint != fingerprint)


def _end_if_meant(
    host: Host, user: str, server: ServerState, former: str, canary: bool, ignore_processes: bool
) -> idle.Idleness:
    """Ends the server if its user is still who was meant, and idle. What raises here has ended nothing."""
    host.mapped(user)
    if (led_to := slots.effective(host.settings.paths.versions_dir, user) or "") != former:
        detail = f"{user} is led to {led_to or 'nothing'} by now, not to {former}"
        return idle.Idleness(False, "host_busy", detail, time.time())
    if freeze.is_frozen(host.settings):
        return idle.Idleness(False, "frozen", "tracking is frozen", time.time())
    if trouble := preflight.trouble(host, [former]) or manageable.why_unmanaged(host, user, server):
        return idle.doubt(trouble, host.settings.deferral.max_check_interval_s)
    if trouble := pairing.port_trouble(host, user, server):
        return idle.doubt(trouble, idle.RECHECK_PROCESSES_SECONDS)
    if unknown := pairing.unknown_trouble(host, user):
        idle.note_unknown(host.journal, user, unknown)
        return idle.doubt(unknown, host.settings.deferral.max_check_interval_s)
    ours.restarting(host.journal, user)
    with OwnerReader(host, user) as reader:
        return _end_if_idle(host, user, server, reader, canary, ignore_processes)


def _end_if_idle(
    host: Host, user: str, server: ServerState, reader: OwnerReader, canary: bool, ignore_processes: bool
) -> idle.Idleness:
    """Hold the unit still, read, and end it while it is held if its user is idle.

    Its manager may start it again between the end and the stop that follows: that server is stopped while it is still starting, long before it
    listens, and what it may have written is in the second snapshot.
    """
    assert server.main_pid is not None
    resuming.note(host.journal, user)
    with holding.held(lambda: host.services.pids_of(user, server)) as hold:
        unit = idle.look_at_unit(host, user, server)
        left = min(idle.READ_SECONDS, max(0.01, HELD_SECONDS - (time.monotonic() - hold.since)))
        asked: Any = {"canary": canary, "ignore_processes": ignore_processes}
        found = idle.judge(host, user, server, unit, reader, **asked, read_seconds=left)
        if found.idle and time.monotonic() - hold.since > HELD_SECONDS:
            return idle.doubt("reading took over a second", 60)
        if found.idle:
            hold.end(last=[server.main_pid])
    return found


def _not_stopped(found: idle.Idleness) -> Stopped:
    told: Any = {"waiting_for": found.waiting_for, "detail": found.detail, "ask_again": found.ask_again}
    return {**_was_stopped(changed=False), "stopped": False, "at": 0.0, **told}


def _was_stopped(*, changed: bool) -> Stopped:
    return {"stopped": True, "waiting_for": "", "detail": "", "ask_again": 0.0, "at": time.time(), "changed": changed}


def _await_port(host: Host, user: str) -> None:
    """A port that stays taken is somebody else's: nothing is assigned or started over it. Raises PortTaken."""
    deadline = time.monotonic() + PORT_SECONDS
    while taken := pairing.shut_out(host, user):
        if time.monotonic() > deadline:
            raise pairing.PortTaken(pairing.taken_line(host, user, taken))
        time.sleep(0.02)


@step()
def back_up_stopped(user: str, former: str, target: str) -> str:
    """The snapshot that counts when something was written after the first. Repeating it takes another."""
    return backups.take(this_host(), user, wrote=former, target=target, run=current_run()).path


@step()
def take_back(user: str, former: str, target: str, snapshot: str, kept_name: str) -> None:
    """Undo of an assignment: what the target may have done to the database is undone, and the user is led to the former version.

    Repeating it is harmless: each part is skipped or done again with the same end. If the server does not go or the snapshot cannot be put in
    place, the databases stay with the version that wrote them, so that they agree.
    """
    host = this_host()
    versions_dir = host.settings.paths.versions_dir
    logger.error("rolling back {} from {} to {}", user, target, former)
    backup = backups.on_record(host, user, snapshot)
    is_away = False
    try:
        take_away(host, user)
        is_away = True
        aside = backups.restore(host, user, backup, kept_name)
    except T3flowError:
        if is_away:  # never under a process that has the databases open
            with suppress(T3flowError):
                backups.put_back(host, user, kept_name)  # what a restore that failed half-way has replaced
        slots.assign(versions_dir, user, target)
        raise
    kept.note(host.journal, user, kept_name, target)
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
        ours.restarted(host.journal, user)
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
    ours.restarted(host.journal, user)
    return False


def _runs_on(host: Host, user: str) -> str | None:
    """The version that a user's server runs; "" if the launcher has not come to that; None without a server."""
    deadline = time.monotonic() + LAUNCH_SECONDS
    while (pid := host.services.state(user).main_pid) is not None:
        version = pairing.version_that_runs(host, user, pid)
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
    _await_port(host, user)
    host.services.start(user)


@step()
def verify_user(user: str, version: str) -> float:
    """Waits until the user pairs through the dispatch on the version; returns when (epoch seconds). Repeating it pairs once more."""
    host = this_host()
    try:
        paired_at = pairing.verify(host, user, version, host.settings.dispatch.verify_timeout_s)
    except pairing.PortTaken as error:
        records.note_pairing(host.journal, user, str(error))
        raise
    except pairing.NotPaired as error:
        fault = witnesses.other_fault(host, user, version, error)
        records.note_pairing(host.journal, user, str(error))
        if fault is not None:
            raise fault from error
        raise
    records.note_pairing(host.journal, user, "")
    ours.restarted(host.journal, user)
    return paired_at
