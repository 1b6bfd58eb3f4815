"""Stop the server of one user while it is suspended and known to be idle; and the undo of that.

The whole unit is killed with SIGKILL while it is suspended. SIGTERM would require it to run again first, and Node answers requests that are
already queued before it handles signals: a turn that began then would be cut off. Committed data is safe in SQLite's log.
"""

import time
from typing import Any, NamedTuple, TypedDict

from loguru import logger

from t3flow import T3flowError
from t3flow.deferrals import blockers, patience
from t3flow.engine.step import current_attempt, step
from t3flow.host import freeze, management, slots
from t3flow.host.activity import idle, resumption, writers
from t3flow.host.backups import durations, restoring, store
from t3flow.host.children import ChildError
from t3flow.host.host import Host, current_host
from t3flow.host.owner.reader import OwnerReader
from t3flow.host.pairing import causes, last_pairings, own_activity, probe, verification
from t3flow.host.processes import suspension
from t3flow.host.records import holds
from t3flow.host.services.manager import ServerState, ServiceError
from t3flow.host.slots import preflight
from t3flow.rollout.revive import owe, owe_start

SUSPENDED_SECONDS = 1.0
"""The longest that a unit is suspended; also the greatest age of the read when the kill is sent."""
PORT_SECONDS = 5.0
SECOND_SNAPSHOT_SECONDS = 5.0
"""The longest outage for a second snapshot, estimated from the last one, unless an operator insists."""
RECHECK_SECONDS = 15.0
"""The first wait of a user whose databases changed during the snapshot; it doubles up to `deferral.max_check_interval_s`."""
MOST_DOUBLINGS = 10
CHANGED = "changed"
"""Why a server was left running that is about to be stopped, after another snapshot. No user is ever shown to wait for this."""


class RestartError(T3flowError):
    """A restart cannot go on."""


class Stopped(TypedDict):
    """The result of an attempt to stop a server. `at`: when (epoch seconds); `changed`: the snapshot is out of date.

    A server that was not stopped and has `changed` was left running only because an early snapshot is out of date.
    """

    stopped: bool
    waiting_for: str
    detail: str
    ask_again: float
    at: float
    changed: bool


@step(former_names=("bring_back",), former_parameters={"former": "previous"})
def undo_stop(
    user: str,
    previous: str,
    canary: bool,
    ignore_processes: bool,
    fingerprint: dict[str, Any] | None,
    insists: bool = False,
    early: bool = False,
) -> None:
    """Undo a stop: start the server on its assigned version and verify pairing. Idempotent: a running server is left alone.

    If another program has its port or the service manager refuses, a run of its own starts the server once that is over.
    """
    host = current_host()
    assigned = slots.effective(host.settings.paths.versions_dir, user)
    logger.info("starting the server of {} again on {}", user, assigned)
    try:
        host.services.start(user)
        verify_again(host, user, assigned)
    except (ServiceError, ChildError) as error:
        owe(host, user, str(error))
        if assigned != previous:
            raise RestartError(f"{user} is on {assigned}, not back on {previous}, and {error}") from error
        raise
    except probe.NotPaired as error:
        if assigned != previous:
            raise RestartError(f"{user} is on {assigned}, not back on {previous}, and {error}") from error
        raise
    if assigned != previous:
        raise RestartError(f"{user} is on {assigned}, not back on {previous}")
    restoring.check_restored(host, user)


def verify_again(host: Host, user: str, assigned: str | None) -> None:
    """Pair a user whose server was started again on what it ran before; note it if the user cannot pair as before, or the port is taken.

    Raises NotPaired if other users can pair, ServiceError.
    """
    timeout_seconds = host.settings.dispatch.verify_timeout_s
    try:
        verification.verify(host, user, assigned, timeout_seconds, durations.start_limit(host, user, assigned or ""))
        last_pairings.note_pairing(host.journal, user, "")
        own_activity.note_restart_end(host.journal, user)
    except probe.PortTaken as error:
        owe_start(host, user, str(error))
    except probe.UnknownServer as error:
        if probe.running_version_of(host, user, probe.own_server(host, user)) != assigned:
            raise
        last_pairings.note_pairing(host.journal, user, str(error))
        idle.note_unknown(host.journal, user, str(error))  # it runs what it ran before, and nothing shows a fault
        own_activity.note_restart_end(host.journal, user)
    except probe.NotPaired as error:
        probe.check_running(host, user, assigned or "")
        if not (excuse := causes.excuse_for(host, user)):
            raise
        last_pairings.note_pairing(host.journal, user, str(error))
        logger.error("{} is back on {} and cannot pair, as before: {}", user, assigned, excuse)
        own_activity.note_restart_end(host.journal, user)


@step(undo=undo_stop)
def stop_if_idle(
    user: str,
    previous: str,
    canary: bool,
    ignore_processes: bool,
    fingerprint: dict[str, Any] | None,
    insists: bool = False,
    early: bool = False,
) -> Stopped:
    """Kill the server if a read made while it was suspended shows its user idle; otherwise resume it after a moment.

    `early`: the fingerprint is that of a snapshot from before the gate; if it is out of date, the server is resumed, so that the next snapshot is
    taken while it runs. The server is also resumed if a second snapshot is needed and expected to take over SECOND_SNAPSHOT_SECONDS, unless an
    operator insists. After a crash half-way the server is running, suspended (recovery resumes it), or ended. If it is ended, the repeat continues
    with `changed`, so that a second snapshot is taken however long it takes: the outage has begun by then.
    """
    host = current_host()
    try:
        server = host.services.state(user)
    except T3flowError as error:
        if current_attempt() > 1:
            raise  # the attempt before may have ended it
        return _not_stopped(idle.unreadable(str(error), host.settings.deferral.max_check_interval_s))
    if server.main_pid is None:
        if current_attempt() == 1:
            return _not_stopped(idle.Idleness(False, "server_stopped", f"{server.unit} does not run", time.time() + 60))
        host.services.stop(user)
        return _was_stopped(changed=True)
    try:
        ignore_processes = ignore_processes or (not canary and patience.ignores_processes(host, user))
        too_long = _too_long(host, user, insists)
        conditions = Conditions(previous, canary, ignore_processes, fingerprint, too_long, insists, early)
        found = _end_if_allowed(host, user, server, conditions)
    except (T3flowError, OSError) as error:
        found = idle.unreadable(str(error), host.settings.deferral.max_check_interval_s)
    if not found.idle:
        own_activity.note_restart_end(host.journal, user)
        return {**_not_stopped(found), "changed": found.waiting_for == CHANGED}
    host.services.stop(user, server)
    await_port(host, user)
    again = host.services.state(user).last_start not in ("", server.last_start)
    return _was_stopped(changed=again or fingerprint is None or found.fingerprint != fingerprint)


class Conditions(NamedTuple):
    """The conditions of a stop. `insists`: an operator named the user. `early`: see `stop_if_idle`.

    `snapshot_seconds`: the expected duration of a second snapshot if that is too long for an outage; else 0.
    """

    previous: str
    canary: bool
    ignore_processes: bool
    fingerprint: dict[str, Any] | None
    snapshot_seconds: float
    insists: bool
    early: bool


def _too_long(host: Host, user: str, insists: bool) -> float:
    """Return the expected seconds of a second snapshot if they are too many, else 0."""
    expected = durations.snapshot_seconds(host.journal, user)
    return expected if expected > SECOND_SNAPSHOT_SECONDS and not insists else 0.0


def _end_if_allowed(host: Host, user: str, server: ServerState, conditions: Conditions) -> idle.Idleness:
    """Kill the server if nothing has changed since the restart was planned and its user is idle. An error from here has ended nothing."""
    host.map_entry(user)
    if (assigned := slots.effective(host.settings.paths.versions_dir, user) or "") != conditions.previous:
        detail = f"{user} is assigned {assigned or 'no version'} now, no longer {conditions.previous}"
        return idle.Idleness(False, "host_busy", detail, time.time())
    if freeze.is_frozen(host.settings):
        return idle.Idleness(False, "frozen", "tracking is frozen", time.time())
    if reason := holds.reason(host.journal, user):  # since the run looked at its users
        return idle.Idleness(False, "held", reason, time.time() + host.settings.deferral.max_check_interval_s)
    if not conditions.insists and (later := patience.later_date(host, user)):
        return idle.Idleness(False, patience.LATER, patience.later_words(later), later)
    if trouble := preflight.problem(host, [conditions.previous]) or management.unmanaged_reason(host, user, server):
        return idle.unreadable(trouble, host.settings.deferral.max_check_interval_s)
    if trouble := probe.port_problem(host, user, server):
        return idle.unreadable(trouble, idle.RECHECK_PROCESSES_SECONDS)
    if unknown := probe.unknown_server_problem(host, user):
        idle.note_unknown(host.journal, user, unknown)
        return idle.unreadable(unknown, host.settings.deferral.max_check_interval_s)
    if conditions.early and not store.is_last(host, user, conditions.fingerprint):  # a person has dropped it
        return idle.Idleness(False, CHANGED, "", time.time())
    own_activity.note_restart(host.journal, user)
    with OwnerReader(host, user) as reader:
        found = _end_if_idle(host, user, server, reader, conditions)
    if not _is_outdated(conditions, found):
        return found
    if conditions.early:
        return idle.Idleness(False, CHANGED, "", time.time())
    return _written_meanwhile(host, user, server, conditions, found)


def _is_outdated(conditions: Conditions, found: idle.Idleness) -> bool:
    """Return whether the user is idle but a snapshot is to be taken while the server runs, so that the server was resumed."""
    is_wanted = conditions.early or conditions.snapshot_seconds
    return bool(found.idle and is_wanted and found.fingerprint != conditions.fingerprint)


def _written_meanwhile(
    host: Host, user: str, server: ServerState, conditions: Conditions, found: idle.Idleness
) -> idle.Idleness:
    """Return that the user is not idle: the databases changed during the snapshot, and a second one takes too long. Backs off."""
    detail = f"its databases change while a snapshot of them takes {conditions.snapshot_seconds:.0f} s"
    detail += f" ({writers.describe_last_write(host, user, server, conditions.fingerprint, found.fingerprint)})"
    outage = f"a drain by an operator stops the server for about {conditions.snapshot_seconds:.0f} s"
    times = blockers.note(host.journal, user, blockers.WRITTEN, f"{user} is not moved: {detail}; {outage}")
    wait_seconds = min(
        RECHECK_SECONDS * 2.0 ** min(times - 1, MOST_DOUBLINGS), float(host.settings.deferral.max_check_interval_s)
    )
    return idle.Idleness(False, "quiet_period", detail, time.time() + wait_seconds)


def _end_if_idle(
    host: Host, user: str, server: ServerState, reader: OwnerReader, conditions: Conditions
) -> idle.Idleness:
    """Suspend the unit, read, and kill it while suspended if its user is idle and a second snapshot is not needed or short enough.

    The service manager may start it again between the kill and the stop that follows. That server is stopped while it starts, long before it
    listens; what it may have written is in the second snapshot.
    """
    assert server.main_pid is not None
    resumption.note_suspended(host.journal, user)
    with suspension.suspended(lambda: host.services.pids_of(user, server)) as processes:
        unit = idle.inspect_unit(host, user, server)
        left = min(idle.READ_SECONDS, max(0.01, SUSPENDED_SECONDS - (time.monotonic() - processes.since)))
        options: Any = {"canary": conditions.canary, "ignore_processes": conditions.ignore_processes}
        found = idle.judge(host, user, server, unit, reader, **options, read_seconds=left)
        if found.idle and time.monotonic() - processes.since > SUSPENDED_SECONDS:
            return idle.unreadable("the read took over a second", 60)
        if found.idle and not _is_outdated(conditions, found):
            processes.kill(last=[server.main_pid])
    return found


def _not_stopped(found: idle.Idleness) -> Stopped:
    cause: Any = {"waiting_for": found.waiting_for, "detail": found.detail, "ask_again": found.ask_again}
    return {**_was_stopped(changed=False), "stopped": False, "at": 0.0, **cause}


def _was_stopped(*, changed: bool) -> Stopped:
    return {"stopped": True, "waiting_for": "", "detail": "", "ask_again": 0.0, "at": time.time(), "changed": changed}


def await_port(host: Host, user: str) -> None:
    """Wait until the port of an ended server is free. Raises PortTaken if another program has it: nothing is assigned or started over that."""
    deadline = time.monotonic() + PORT_SECONDS
    while taken := probe.port_blocker(host, user):
        if time.monotonic() > deadline:
            raise probe.PortTaken(probe.port_taken_message(host, user, taken))
        time.sleep(0.02)
