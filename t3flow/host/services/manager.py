"""The service manager as t3flow sees it: systemd, or the supervisor of the sandbox, behind one interface."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from t3flow import T3flowError
from t3flow.host.processes import suspension
from t3flow.host.services.unit_facts import UnitFacts
from t3flow.t3.commands import ENDS_OF_A_STOP

CONTROL_SECONDS = 60.0
LEFTOVER_SECONDS = 5.0


class ServiceError(T3flowError):
    """A server could not be started, stopped or queried."""


class ManagerAway(ServiceError):
    """The service manager is unavailable for now. The journal stores this class name as a kind of failure."""


@dataclass(frozen=True)
class ServerState:
    """The state of one user's server. `started_wall` is the wall clock (epoch seconds) that the manager recorded at the start."""

    unit: str
    active: bool
    main_pid: int | None
    started_wall: float | None
    detail: str
    is_failing: bool = False
    """The server should run and ended by itself. The manager is about to restart it, or has given up."""
    group: str = ""
    """The unit's control group, as systemd names it; "" if it has none."""
    last_start: str = ""
    """A value that changes with every start of the unit, also by its manager; "" if it is unknown."""
    facts: UnitFacts | None = None
    """The unit as systemd has loaded it; None without systemd."""
    was_stopped: bool = False
    """The server ended like one that was asked to stop: a person or another program stopped the unit."""
    pids: tuple[int, ...] | None = None
    """All processes of the unit at that moment, where the manager lists them with the state. `Services.pids_of` lists them anew."""


class Services(Protocol):
    """Control of the users' servers. Every call is idempotent, and raises ServiceError if the manager does not answer."""

    def state(self, user: str) -> ServerState:
        """Return the state of a user's server."""

    def states(self, users: list[str]) -> dict[str, ServerState]:
        """Return the states of many users' servers by one query: user → state."""

    def accounts(self) -> list[str]:
        """Return the names of accounts that may have a server, running or not, by the units that the manager knows."""

    def pids(self, user: str) -> list[int]:
        """Return all processes of the unit, including leftovers of a stopped one. The cost does not depend on other processes."""

    def pids_of(self, user: str, server: ServerState) -> list[int]:
        """Return the same, given a fresh state: cheap enough to repeat."""

    def start(self, user: str) -> None:
        """Start the server, whatever its past failures."""

    def stop(self, user: str, server: ServerState | None = None) -> None:
        """End the whole unit, including leftovers of an earlier stop, and return when it is gone. A fresh state saves a query."""

    def is_enabled(self, unit: str) -> bool:
        """Return whether a unit of the host, by its full name, is active or (a timer) enabled."""

    def set_enabled(self, timer: str, on: bool) -> None:
        """Enable or disable a timer, now and after the next boot."""


def has_failed(state: str, code: int | None) -> bool:
    """Return whether a server that is down should run, by the manager's state and the exit status."""
    return state == "activating" or (state == "failed" and code not in ENDS_OF_A_STOP)


def end_leftovers(unit: str, main_pid: Callable[[], int | None], pids: Callable[[], list[int]]) -> None:
    """Kill the leftover processes of a stopped unit, and no others. Raise ServiceError if one does not end.

    If a person has started the unit meanwhile, its processes are left alone.
    """
    deadline = time.monotonic() + LEFTOVER_SECONDS
    while (left := pids()) and main_pid() is None:
        for pid in left:
            suspension.end_if(pid, pids)
        if time.monotonic() > deadline:
            raise ServiceError(f"process {left[0]}, left over from {unit}, does not end: kill -KILL {left[0]}")
        time.sleep(0.02)
