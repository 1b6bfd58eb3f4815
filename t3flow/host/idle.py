"""Idle: the one definition of when a user's server may be restarted. Any doubt means not idle.

Idle is: no live turn, and `quiet_seconds` since the newest change of any thread, and below the server no process but agents and shells at
their prompt. A turn whose last change is older than the running server is dead: t3 leaves `active_turn_id` set for ever when it is stopped in
mid-turn, and takes such a turn up never again.
"""

import time
from dataclasses import dataclass
from typing import Any

from t3flow.host import processes
from t3flow.host.host import Host
from t3flow.host.owned import OwnerProblem, OwnerReader
from t3flow.host.services import ServerState

CLOCK_STEP_SECONDS = 5.0
RECHECK_PROCESSES_SECONDS = 300.0
READ_SECONDS = 0.7
"""A server is held still for at most a second; reading its database may take this much of it."""


@dataclass(frozen=True)
class Idleness:
    """Whether a user is idle; if not, why (a `waiting_for` of the interface), one line about it, and when it is worth asking again."""

    idle: bool
    waiting_for: str = ""
    detail: str = ""
    ask_again: float = 0.0
    fingerprint: dict[str, Any] | None = None
    level: int | None = None


def doubt(detail: str, settings_interval_seconds: float) -> Idleness:
    """Not idle, because something could not be read."""
    return Idleness(False, "unreadable_state", detail, time.time() + settings_interval_seconds)


def read_idleness(
    host: Host, user: str, server: ServerState, *, canary: bool, ignore_processes: bool = False
) -> Idleness:
    """Asks without disturbing the server: good enough to say "not yet", never enough to stop it."""
    try:
        with OwnerReader(host, user) as reader:
            return judge(host, server, reader, canary=canary, ignore_processes=ignore_processes)
    except OwnerProblem as problem:
        return doubt(str(problem), host.settings.deferral.max_check_interval_s)


def judge(host: Host, server: ServerState, reader: OwnerReader, *, canary: bool, ignore_processes: bool) -> Idleness:
    """Given a running server (held still or not) and an open reader of its database, decides. Raises OwnerProblem for what cannot be read."""
    deferral = host.settings.deferral
    assert server.main_pid is not None
    age = processes.age_seconds(server.main_pid)
    if age is None or server.started_wall is None:
        return doubt("the server's age cannot be told", deferral.max_check_interval_s)
    agents, others = processes.below(server.main_pid, server.unit, tuple(host.settings.serve.agent_processes))
    answer = reader.read(processes.with_children(server.main_pid), READ_SECONDS)
    if answer["unknown"]:
        return doubt(answer["unknown"], deferral.max_check_interval_s)
    now = time.time()
    started = now - age
    if abs(started - server.started_wall) > CLOCK_STEP_SECONDS:
        return doubt(
            "the clock was set since the server started: no time in its database can be trusted",
            deferral.max_check_interval_s,
        )
    newest, with_turn = answer["newest"], max((piece[2] or now for piece in answer["work"]), default=None)
    if newest is not None and newest > now + CLOCK_STEP_SECONDS:
        return doubt("a thread was changed in the future", deferral.max_check_interval_s)
    if with_turn is not None and with_turn >= started - CLOCK_STEP_SECONDS:
        return Idleness(False, "active_turn", "a turn is running", now + max(deferral.quiet_seconds, 1))
    if newest is not None and now - newest < deferral.quiet_seconds:
        detail = f"the last turn ended {now - newest:.0f} s ago, quiet is {deferral.quiet_seconds} s"
        return Idleness(False, "quiet_period", detail, newest + deferral.quiet_seconds)
    at_work = others + (agents if canary else [])
    if at_work and not ignore_processes:
        return Idleness(
            False, "running_process", f"below the server runs {at_work[0]}", now + RECHECK_PROCESSES_SECONDS
        )
    return Idleness(True, fingerprint=answer["fingerprint"], level=answer["level"])
