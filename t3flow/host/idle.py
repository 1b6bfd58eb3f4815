"""Idle: the one definition of when a user's server may be restarted. Any doubt means not idle.

Idle is: no live or queued turn, no scheduled task due within the time of a restart, `quiet_seconds` since the newest change, and in the unit no
process but the server's own, agents and shells at their prompt. A turn whose last change is older than the running server is dead: a server
that is stopped in mid-turn may leave it in the database for ever, and takes it up never again.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from loguru import logger

from t3flow.engine.journal import Journal
from t3flow.host import slots
from t3flow.host.clock import ServerClock
from t3flow.host.host import Host
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.owner.reader import OwnerReader
from t3flow.host.processes import ports, proc
from t3flow.host.records import facts
from t3flow.host.services import running_version
from t3flow.host.services.manager import ServerState
from t3flow.t3.activity import QUEUED_WORK
from t3flow.t3.unknown import MARK

RECHECK_PROCESSES_SECONDS = 300.0
READ_SECONDS = 0.7
"""A server is held still for at most a second; reading its databases may take this much of it."""
RESTART_SECONDS = 60.0
"""A scheduled task that is due within this time would fall into a restart."""


@dataclass(frozen=True)
class Idleness:
    """Whether a user is idle; if not, why (a `waiting_for` of the interface), one line about it, and when it is worth asking again."""

    idle: bool
    waiting_for: str = ""
    detail: str = ""
    ask_again: float = 0.0
    fingerprint: Any = None
    level: int | None = None


@dataclass(frozen=True)
class Unit:
    """The processes of a user's unit at a moment: the server, the programs that belong to it, and all of them."""

    server: int
    programs: tuple[str, ...]
    pids: Collection[int]


def doubt(detail: str, settings_interval_seconds: float) -> Idleness:
    """Not idle, because something could not be read."""
    return Idleness(False, "unreadable_state", detail, time.time() + settings_interval_seconds)


def look_at_unit(host: Host, user: str, server: ServerState) -> Unit:
    """Return the unit of a running server. Raises ServiceError, HostError."""
    assert server.main_pid is not None
    pids = host.services.pids_of(user, server)
    listener = ports.listener(host.port(user), pids) or server.main_pid
    versions_dir = host.settings.paths.versions_dir
    version = running_version.in_slot(running_version.chain_of(listener), versions_dir)
    slot = f"{slots.slot_path(versions_dir, version).resolve()}" if version else ""
    return Unit(listener, proc.programs_of_server(listener, pids, slot), pids)


def read_idleness(
    host: Host, user: str, server: ServerState, *, canary: bool, ignore_processes: bool = False
) -> Idleness:
    """Asks without disturbing the server: good enough to say "not yet", never enough to stop it."""
    try:
        with OwnerReader(host, user) as reader:
            unit = look_at_unit(host, user, server)
            return judge(host, user, server, unit, reader, canary=canary, ignore_processes=ignore_processes)
    except OwnerProblem as problem:
        return doubt(str(problem), host.settings.deferral.max_check_interval_s)


def judge(
    host: Host,
    user: str,
    server: ServerState,
    unit: Unit,
    reader: OwnerReader,
    *,
    canary: bool,
    ignore_processes: bool,
    read_seconds: float = READ_SECONDS,
) -> Idleness:
    """Decide, given a running server (held still or not) and an open reader of its databases. Raises OwnerProblem for what cannot be read."""
    deferral = host.settings.deferral
    clock = clock_of(server, unit.server)
    if clock is None:
        return doubt("the server's age cannot be told", deferral.max_check_interval_s)
    agents, others = proc.at_work(unit.server, unit.pids, unit.programs, tuple(host.settings.serve.agent_processes))
    answer = reader.read(list(unit.pids), read_seconds)
    note_unknown(host.journal, user, str(answer.get("unknown") or ""))
    if answer.get("unknown"):
        return doubt(str(answer["unknown"]), deferral.max_check_interval_s)
    found = judge_activity(clock, answer, deferral.quiet_seconds, has_agents=bool(agents))
    if found is not None:
        return found
    at_work = others + (agents if canary else [])
    if at_work and not ignore_processes:
        again = clock.now + RECHECK_PROCESSES_SECONDS
        return Idleness(False, "running_process", f"below the server runs {at_work[0]}", again)
    return Idleness(True, fingerprint=answer["fingerprint"], level=answer["level"])


def clock_of(server: ServerState, pid: int) -> ServerClock | None:
    """Return the clocks that a server has lived under; None when its age cannot be told.

    Its manager noted the start of the main process: the server may be younger, by what both say of their age.
    """
    age, age_of_main = proc.age_seconds(pid), proc.age_seconds(server.main_pid or pid)
    if age is None or age_of_main is None or server.started_wall is None:
        return None
    return ServerClock(time.time(), age, server.started_wall + age_of_main - age)


def judge_activity(
    clock: ServerClock, answer: dict[str, Any], quiet_seconds: float, *, has_agents: bool
) -> Idleness | None:
    """Return why the activity that a database shows means "not idle", or None. A function of what is given alone."""
    for kind, detail, since in answer["work"]:
        if since is None or not clock.is_dead(since, quiet_seconds, has_agents=has_agents):
            return Idleness(False, kind, detail, clock.now + max(quiet_seconds, 1))
    due = answer.get("due")
    if due is not None and due - clock.now < RESTART_SECONDS:
        return Idleness(False, QUEUED_WORK, "a scheduled task is about to start", clock.now + 2 * RESTART_SECONDS)
    newest = clock.youngest([each for each in (answer["newest"], answer.get("ahead")) if each is not None])
    if newest is not None and clock.now - newest < quiet_seconds:
        detail = f"the last turn ended {max(clock.now - newest, 0):.0f} s ago, quiet is {quiet_seconds} s"
        return Idleness(False, "quiet_period", detail, newest + quiet_seconds)
    return None


def note_unknown(journal: Journal, user: str, line: str) -> None:
    """Note that a user's t3 is of an unknown kind, or no longer is ("") and say so in the log, once for each change."""
    known = (facts.read(journal, facts.UNKNOWN_T3) or {}).get(user)
    if (known[1] if known else "") == line:
        return

    def change(facts: Any) -> Any:
        others = {name: fact for name, fact in (facts or {}).items() if name != user}
        return {**others, user: [time.time(), line]} if line else others or None

    facts.change(journal, facts.UNKNOWN_T3, change)
    if line:
        logger.error("{}: {}: {}; the server is left alone: install a newer t3flow", MARK, user, line)
