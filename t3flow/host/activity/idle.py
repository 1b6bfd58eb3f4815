"""The definition of idle: when a user's server may be restarted. Any doubt means not idle.

A user is idle when there is no live or queued turn, no scheduled task due within RESTART_SECONDS, no change for `quiet_seconds`, and no process in
the unit except the server's own, agents, and shells at their prompt. A turn whose last change is older than the running server is dead: a server
that was stopped in mid-turn may leave it in the database and never resumes it.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from t3flow.engine.journal import Journal
from t3flow.engine.log import logger
from t3flow.host import slots
from t3flow.host.activity.clock import ServerClock
from t3flow.host.host import Host
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.owner.reader import OwnerReader
from t3flow.host.processes import ports, proc, work
from t3flow.host.records import facts
from t3flow.host.services.manager import ServerState
from t3flow.host.slots import running_version
from t3flow.t3.activity import QUEUED_WORK
from t3flow.t3.unknown import MARK

RECHECK_PROCESSES_SECONDS = 300.0
READ_SECONDS = 0.7
"""A unit is suspended for at most a second; reading the databases may take this part of it."""
RESTART_SECONDS = 60.0
"""A scheduled task due within this time would fall into a restart."""


@dataclass(frozen=True)
class Idleness:
    """Whether a user is idle. If not: the reason (a `waiting_for` of the interface), one line of detail, and when to check again (epoch seconds)."""

    idle: bool
    waiting_for: str = ""
    detail: str = ""
    ask_again: float = 0.0
    fingerprint: Any = None
    level: int | None = None


@dataclass(frozen=True)
class UnitProcesses:
    """The processes of a unit at one moment: the server, all pids, and the folders whose programs belong to the server."""

    server: int
    programs: tuple[str, ...]
    pids: Collection[int]


def unreadable(detail: str, interval_seconds: float) -> Idleness:
    """Return "not idle" because something could not be read."""
    return Idleness(False, "unreadable_state", detail, time.time() + interval_seconds)


def inspect_unit(host: Host, user: str, server: ServerState) -> UnitProcesses:
    """Return the processes of a running server's unit. Raise ServiceError, HostError."""
    assert server.main_pid is not None
    pids = host.services.pids_of(user, server)
    listener = ports.listening_process(host.port(user), pids) or server.main_pid
    versions_dir = host.settings.paths.versions_dir
    version = running_version.in_slot(running_version.chain_of(listener), versions_dir)
    slot = f"{slots.slot_path(versions_dir, version).resolve()}" if version else ""
    return UnitProcesses(listener, work.programs_of_server(listener, pids, slot), pids)


def read_idleness(
    host: Host, user: str, server: ServerState, *, canary: bool, ignore_processes: bool = False
) -> Idleness:
    """Read without suspending the server: enough to say "not yet", never enough to stop it."""
    try:
        with OwnerReader(host, user) as reader:
            unit = inspect_unit(host, user, server)
            return judge(host, user, server, unit, reader, canary=canary, ignore_processes=ignore_processes)
    except OwnerProblem as problem:
        return unreadable(str(problem), host.settings.deferral.max_check_interval_s)


def judge(
    host: Host,
    user: str,
    server: ServerState,
    unit: UnitProcesses,
    reader: OwnerReader,
    *,
    canary: bool,
    ignore_processes: bool,
    read_seconds: float = READ_SECONDS,
) -> Idleness:
    """Decide, given a running server (suspended or not) and an open reader of its databases. Raise OwnerProblem if they cannot be read."""
    deferral = host.settings.deferral
    clock = clock_of(server, unit.server)
    if clock is None:
        return unreadable("the age of the server is unknown", deferral.max_check_interval_s)
    agents, others = work.processes_at_work(
        unit.server, unit.pids, unit.programs, tuple(host.settings.serve.agent_processes)
    )
    answer = reader.read(list(unit.pids), read_seconds)
    note_unknown(host.journal, user, str(answer.get("unknown") or ""))
    if answer.get("unknown"):
        return unreadable(str(answer["unknown"]), deferral.max_check_interval_s)
    active = judge_activity(clock, answer, deferral.quiet_seconds, has_agents=bool(agents))
    if active is not None:
        return active
    at_work = others + (agents if canary else [])
    if at_work and not ignore_processes:
        again = clock.now + RECHECK_PROCESSES_SECONDS
        return Idleness(False, "running_process", f"{at_work[0]} runs in the server's unit", again)
    return Idleness(True, fingerprint=answer["fingerprint"], level=answer["level"])


def clock_of(server: ServerState, pid: int) -> ServerClock | None:
    """Return the clocks of a server, or None if its age is unknown.

    The manager recorded the start of the main process; the difference of the two ages gives the start of the server.
    """
    age, age_of_main = proc.age_seconds(pid), proc.age_seconds(server.main_pid or pid)
    if age is None or age_of_main is None or server.started_wall is None:
        return None
    return ServerClock(time.time(), age, server.started_wall + age_of_main - age)


def judge_activity(
    clock: ServerClock, answer: dict[str, Any], quiet_seconds: float, *, has_agents: bool
) -> Idleness | None:
    """Return why the activity in a database means "not idle", or None. A pure function."""
    for kind, detail, since in answer["work"]:
        if since is None or not clock.is_dead(since, quiet_seconds, has_agents=has_agents):
            return Idleness(False, kind, detail, clock.now + max(quiet_seconds, 1))
    due = answer.get("due")
    if due is not None and due - clock.now < RESTART_SECONDS:
        return Idleness(False, QUEUED_WORK, "a scheduled task is about to start", clock.now + 2 * RESTART_SECONDS)
    newest = clock.youngest([each for each in (answer["newest"], answer.get("ahead")) if each is not None])
    if newest is not None and clock.now - newest < quiet_seconds:
        detail = f"the last turn ended {max(clock.now - newest, 0):.0f} s ago; the quiet period is {quiet_seconds} s"
        return Idleness(False, "quiet_period", detail, newest + quiet_seconds)
    return None


def note_unknown(journal: Journal, user: str, line: str) -> None:
    """Record that a user's t3 is of an unknown kind (or no longer: ""), and log each change once."""
    known = (facts.read(journal, facts.UNKNOWN_T3) or {}).get(user)
    if (known[1] if known else "") == line:
        return

    def change(facts: Any) -> Any:
        others = {name: fact for name, fact in (facts or {}).items() if name != user}
        return {**others, user: [time.time(), line]} if line else others or None

    facts.change(journal, facts.UNKNOWN_T3, change)
    if line:
        logger.error("{}: {}: {}; t3flow does not restart this server: install a newer t3flow", MARK, user, line)
