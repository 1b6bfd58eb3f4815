"""Stopping one user's server: held still, asked whether its user is idle, and ended while it is held; and the undo of that.

The whole unit is ended by SIGKILL while it is held still. A SIGTERM would need it to run again first, and Node answers the requests that came in
meanwhile before it looks at signals: a turn that began then would be cut off. What was committed is safe in SQLite's log.
"""

import time
from typing import Any, NamedTuple, TypedDict

from loguru import logger

from t3flow import T3flowError
from t3flow.deferrals import blockers
from t3flow.engine.step import current_attempt, step
from t3flow.host import freeze, idle, manageable, own_activity, pairing_results, preflight, resumption, slots, writers
from t3flow.host.backups import durations, restoring
from t3flow.host.children import ChildError
from t3flow.host.host import Host, this_host
from t3flow.host.owner.reader import OwnerReader
from t3flow.host.pairing import probe, witnesses
from t3flow.host.processes import suspension
from t3flow.host.services.manager import ServerState, ServiceError
from t3flow.rollout.revive import owe, owe_start

HELD_SECONDS = 1.0
"""The longest that a unit is held still; also how old the read may be when the stop is sent."""
PORT_SECONDS = 5.0
SECOND_SNAPSHOT_SECONDS = 5.0
"""The longest that a server is stopped, unasked, for a second snapshot, by what the last one took."""
AGAIN_SECONDS = 15.0
"""How soon a user is asked again whose databases were written to meanwhile; it doubles up to `deferral.max_check_interval_s`."""
MOST_DOUBLINGS = 10


class RestartError(T3flowError):
    """A restart cannot go on."""


class Stopped(TypedDict):
    """What came of asking a server to stop. `at` is when (epoch seconds); `changed`: the snapshot is out of date."""

    stopped: bool
    waiting_for: str
    detail: str
    ask_again: float
    at: float
    changed: bool


@step()
def bring_back(
    user: str,
    former: str,
    canary: bool,
    ignore_processes: bool,
    fingerprint: dict[str, Any] | None,
    insists: bool = False,
) -> None:
    """Undo of a stop: the server runs again on whatever its user is assigned to, and pairs. Repeating it finds it running.

    Where somebody else has its port, it is owed: a run of its own starts it once the port is free.
    """
    host = this_host()
    assigned = slots.effective(host.settings.paths.versions_dir, user)
    logger.info("starting the server of {} again on {}", user, assigned)
    try:
        host.services.start(user)
        verify_again(host, user, assigned)
    except (ServiceError, ChildError) as error:
        owe(host, user, str(error))
        if assigned != former:
            raise RestartError(f"{user} is on {assigned}, not back on {former}, and {error}") from error
        raise
    except probe.NotPaired as error:
        if assigned != former:
            raise RestartError(f"{user} is on {assigned}, not back on {former}, and {error}") from error
        raise
    if assigned != former:
        raise RestartError(f"{user} is on {assigned}, not back on {former}")
    restoring.check_restored(host, user)


def verify_again(host: Host, user: str, assigned: str | None) -> None:
    """Pair a user whose server was started again on what it ran before; where it cannot pair as before, or is shut out of its port, note that.

    Raises NotPaired where other users can pair, ServiceError.
    """
    timeout_seconds = host.settings.dispatch.verify_timeout_s
    try:
        probe.verify(host, user, assigned, timeout_seconds, durations.start_limit(host, user, assigned or ""))
        pairing_results.note_pairing(host.journal, user, "")
        own_activity.restarted(host.journal, user)
    except probe.PortTaken as error:
        owe_start(host, user, str(error))
    except probe.UnknownServer as error:
        if probe.version_that_runs(host, user, probe.own_server(host, user)) != assigned:
            raise
        pairing_results.note_pairing(host.journal, user, str(error))
        idle.note_unknown(host.journal, user, str(error))  # it runs what it ran before; nothing is known to be wrong
        own_activity.restarted(host.journal, user)
    except probe.NotPaired as error:
        probe.check_running(host, user, assigned or "")
        if not (excuse := witnesses.excuse(host, user)):
            raise
        pairing_results.note_pairing(host.journal, user, str(error))
        logger.error("{} is back on {} and cannot pair, as before: {}", user, assigned, excuse)
        own_activity.restarted(host.journal, user)


@step(undo=bring_back)
def stop_if_idle(
    user: str,
    former: str,
    canary: bool,
    ignore_processes: bool,
    fingerprint: dict[str, Any] | None,
    insists: bool = False,
) -> Stopped:
    """Ends the server if its user is idle, by a read made while it was held still; otherwise it has lost a moment, no more.

    Where a second snapshot would be needed and is expected to take over SECOND_SNAPSHOT_SECONDS, the server is let go on as well, unless a
    person insists. Killed half-way, the server is running, held still (recovery lets it go on), or ended. Ended, it is what was wanted: the
    repetition goes on from there with `changed`, so that a second snapshot is taken, however long it takes: the outage is paid for by then.
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
        ask = Ask(former, canary, ignore_processes, fingerprint, _longest(host, user, insists))
        found = _end_if_meant(host, user, server, ask)
    except (T3flowError, OSError) as error:
        found = idle.doubt(str(error), host.settings.deferral.max_check_interval_s)
    if not found.idle:
        own_activity.restarted(host.journal, user)
        return _not_stopped(found)
    host.services.stop(user, server)
    await_port(host, user)
    again = host.services.state(user).last_start not in ("", server.last_start)
    return _was_stopped(changed=again or fingerprint is None or found.fingerprint != fingerprint)


class Ask(NamedTuple):
    """What a stop depends on. `takes_seconds`: how long a second snapshot is expected to take, where that is too long for an outage; else 0."""

    former: str
    canary: bool
    ignore_processes: bool
    fingerprint: dict[str, Any] | None
    takes_seconds: float


def _longest(host: Host, user: str, insists: bool) -> float:
    expected = durations.snapshot_seconds(host.journal, user)
    return expected if expected > SECOND_SNAPSHOT_SECONDS and not insists else 0.0


def _end_if_meant(host: Host, user: str, server: ServerState, ask: Ask) -> idle.Idleness:
    """Ends the server if its user is still who was meant, and idle. What raises here has ended nothing."""
    host.mapped(user)
    if (led_to := slots.effective(host.settings.paths.versions_dir, user) or "") != ask.former:
        detail = f"{user} is led to {led_to or 'nothing'} by now, not to {ask.former}"
        return idle.Idleness(False, "host_busy", detail, time.time())
    if freeze.is_frozen(host.settings):
        return idle.Idleness(False, "frozen", "tracking is frozen", time.time())
    if trouble := preflight.trouble(host, [ask.former]) or manageable.why_unmanaged(host, user, server):
        return idle.doubt(trouble, host.settings.deferral.max_check_interval_s)
    if trouble := probe.port_trouble(host, user, server):
        return idle.doubt(trouble, idle.RECHECK_PROCESSES_SECONDS)
    if unknown := probe.unknown_trouble(host, user):
        idle.note_unknown(host.journal, user, unknown)
        return idle.doubt(unknown, host.settings.deferral.max_check_interval_s)
    own_activity.restarting(host.journal, user)
    with OwnerReader(host, user) as reader:
        found = _end_if_idle(host, user, server, reader, ask)
    return _written_meanwhile(host, user, server, ask, found) if _is_outdated(ask, found) else found


def _is_outdated(ask: Ask, found: idle.Idleness) -> bool:
    """Return whether the user is idle, and a second snapshot would take too long. The server was let go on then."""
    return bool(found.idle and ask.takes_seconds and found.fingerprint != ask.fingerprint)


def _written_meanwhile(host: Host, user: str, server: ServerState, ask: Ask, found: idle.Idleness) -> idle.Idleness:
    """Not idle, because the databases were written to while the snapshot was taken, and another takes long. A fresh one is tried soon."""
    detail = f"its databases are written to while a snapshot of them takes {ask.takes_seconds:.0f} s"
    detail += f" ({writers.told(host, user, server, ask.fingerprint, found.fingerprint)})"
    away = f"a drain that a person asks for takes the server away for about {ask.takes_seconds:.0f} s"
    times = blockers.note(host.journal, user, blockers.WRITTEN, f"{user} is not moved: {detail}; {away}")
    wait_seconds = min(
        AGAIN_SECONDS * 2.0 ** min(times - 1, MOST_DOUBLINGS), float(host.settings.deferral.max_check_interval_s)
    )
    return idle.Idleness(False, "quiet_period", detail, time.time() + wait_seconds)


def _end_if_idle(host: Host, user: str, server: ServerState, reader: OwnerReader, ask: Ask) -> idle.Idleness:
    """Hold the unit still, read, and end it while it is held if its user is idle and a second snapshot is not needed or does not take long.

    Its manager may start it again between the end and the stop that follows: that server is stopped while it is still starting, long before it
    listens, and what it may have written is in the second snapshot.
    """
    assert server.main_pid is not None
    resumption.note(host.journal, user)
    with suspension.held(lambda: host.services.pids_of(user, server)) as hold:
        unit = idle.look_at_unit(host, user, server)
        left = min(idle.READ_SECONDS, max(0.01, HELD_SECONDS - (time.monotonic() - hold.since)))
        asked: Any = {"canary": ask.canary, "ignore_processes": ask.ignore_processes}
        found = idle.judge(host, user, server, unit, reader, **asked, read_seconds=left)
        if found.idle and time.monotonic() - hold.since > HELD_SECONDS:
            return idle.doubt("reading took over a second", 60)
        if found.idle and not _is_outdated(ask, found):
            hold.end(last=[server.main_pid])
    return found


def _not_stopped(found: idle.Idleness) -> Stopped:
    told: Any = {"waiting_for": found.waiting_for, "detail": found.detail, "ask_again": found.ask_again}
    return {**_was_stopped(changed=False), "stopped": False, "at": 0.0, **told}


def _was_stopped(*, changed: bool) -> Stopped:
    return {"stopped": True, "waiting_for": "", "detail": "", "ask_again": 0.0, "at": time.time(), "changed": changed}


def await_port(host: Host, user: str) -> None:
    """A port that stays taken is somebody else's: nothing is assigned or started over it. Raises PortTaken."""
    deadline = time.monotonic() + PORT_SECONDS
    while taken := probe.shut_out(host, user):
        if time.monotonic() > deadline:
            raise probe.PortTaken(probe.taken_line(host, user, taken))
        time.sleep(0.02)
