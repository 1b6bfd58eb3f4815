"""The users' servers as units of systemd, controlled through systemctl."""

import re
import shlex
import signal
import time
from calendar import timegm
from contextlib import suppress
from time import strptime

from t3flow.engine.log import logger
from t3flow.engine.step import pause
from t3flow.host.children import Children, TookTooLong
from t3flow.host.processes import cgroups, proc
from t3flow.host.services import unit_facts, unit_names
from t3flow.host.services.manager import (
    CONTROL_SECONDS,
    ManagerAway,
    ServerState,
    ServiceError,
    end_leftovers,
    has_failed,
)
from t3flow.t3.commands import ENDS_OF_A_STOP

UNAVAILABLE = re.compile(
    r"[Tt]ransport endpoint|connect to bus|[Cc]onnection (reset|refused|timed out|terminated)|Broken pipe"
)
"""Errors of systemctl while systemd does not answer (boot, reload, high load). They say nothing about a unit."""
UNAVAILABLE_SECONDS, RETRY_SECONDS = 20.0, 0.5
STOP_SECONDS = 20.0


class Systemd:
    """Units of systemd."""

    def __init__(self, children: Children, unit_template: str) -> None:
        self._children = children
        self._unit_template = unit_template
        self._has_unix_time = True

    def _unit(self, user: str) -> str:
        """Return a user's unit. systemd is queried only if the unit may have two names."""
        units = unit_names.units(self._unit_template, user)
        return units[0] if len(units) == 1 else self.state(user).unit

    def _systemctl(self, *words: str, timeout_seconds: float = CONTROL_SECONDS) -> str:
        """Run systemctl and return its output, with retries while systemd is unavailable. Every call is idempotent. Raise ServiceError."""
        deadline = time.monotonic() + UNAVAILABLE_SECONDS
        while True:
            finished = self._children.run(
                ["systemctl", *words], timeout_seconds=timeout_seconds, environment={"TZ": "UTC"}
            )
            if finished.code == 0:
                return finished.stdout.decode(errors="replace")
            message = f"systemctl {' '.join(words)} failed: {finished.last_line}"
            if not UNAVAILABLE.search(finished.last_line):
                raise ServiceError(message)
            if time.monotonic() >= deadline:
                raise ManagerAway(message)
            pause(RETRY_SECONDS)

    def state(self, user: str) -> ServerState:
        """Return one of the states."""
        return self.states([user])[user]

    def states(self, users: list[str]) -> dict[str, ServerState]:
        """Query properties by name, since `--value` prints them in systemd's order; the units come in the order given."""
        names = {user: unit_names.units(self._unit_template, user) for user in users}
        units = [unit for each in names.values() for unit in each]
        if not units:
            return {}
        shown = dict(zip(units, self._show(units), strict=True))
        return {user: _choose_unit(user, [_state(unit, shown[unit]) for unit in each]) for user, each in names.items()}

    def _show(self, units: list[str]) -> list[dict[str, str]]:
        """Return the properties of each unit, in order. Older systemd has no `--timestamp=unix`."""
        words = ["show", *units, f"--property={','.join(unit_facts.PROPERTIES)}"]
        if self._has_unix_time:
            try:
                text = self._systemctl(*words, "--timestamp=unix")
            except ManagerAway:
                raise
            except ServiceError as error:
                if "timestamp" not in str(error).rpartition("failed: ")[2]:
                    raise
                self._has_unix_time = False
        if not self._has_unix_time:
            text = self._systemctl(*words)
        found = text.strip("\n").split("\n\n")
        if len(found) != len(units):
            raise ServiceError(f"systemctl show printed {len(found)} units instead of {len(units)}")
        return [unit_facts.properties(each) for each in found]

    def accounts(self) -> list[str]:
        """Return those of loaded units, and of units enabled for the next boot."""
        pattern = self._unit_template.format(user="*")
        listed = self._systemctl("list-units", "--all", "--full", "--plain", "--no-legend", pattern)
        listed += "\n" + self._systemctl("list-unit-files", "--full", "--no-legend", pattern)
        found = [name for word in listed.split() for name in unit_names.accounts(self._unit_template, word)]
        return list(dict.fromkeys(found))

    def pids(self, user: str) -> list[int]:
        """Return the processes of the unit's control group."""
        return self.pids_of(user, self.state(user))

    def pids_of(self, user: str, server: ServerState) -> list[int]:
        """Return what the kernel lists. A missing main process means that the group is not visible from here, which is an error."""
        found = cgroups.pids(cgroups.folder_of(server.group) if server.group else None)
        if server.main_pid is not None and server.main_pid not in found and proc.is_alive(server.main_pid):
            raise ServiceError(
                f"the control group {server.group or 'of ' + server.unit} does not list process {server.main_pid}: "
                f"see systemctl status {shlex.quote(server.unit)}"
            )
        return found

    def start(self, user: str) -> None:
        """Start the unit; if systemd refuses, as after too many starts, clear its failures first: t3 exits 130 on SIGTERM, a failure for systemd."""
        unit = self._unit(user)
        try:
            self._systemctl("start", unit)
            return
        except ManagerAway:
            raise
        except ServiceError as error:
            logger.debug("{}", error)
            try:
                self._systemctl("reset-failed", unit)
            except ManagerAway:
                raise
            except ServiceError:  # a unit that is not loaded has no failures
                raise error from None
        self._systemctl("start", unit)

    def stop(self, user: str, server: ServerState | None = None) -> None:
        """Stop the unit, and kill it after STOP_SECONDS: a unit may allow minutes.

        `systemctl stop` waits for an empty control group, except with `KillMode=process`, whose leftover processes are killed here.
        """
        server = server or self.state(user)
        unit, group = server.unit, server.group  # systemd forgets the group of a stopped unit
        try:
            self._systemctl("stop", unit, timeout_seconds=STOP_SECONDS)
        except TookTooLong:
            self._systemctl("kill", "--signal=KILL", unit)
            self._systemctl("stop", unit)
        folder = cgroups.folder_of(group) if group else None
        end_leftovers(unit, lambda: self.state(user).main_pid, lambda: cgroups.pids(folder))

    def is_enabled(self, unit: str) -> bool:
        """Return True for an enabled timer, and for an active unit. A unit that does not exist is not enabled."""
        text = self._systemctl("show", unit, "--property=ActiveState,UnitFileState")
        values = dict(line.partition("=")[::2] for line in text.splitlines())
        is_set = unit.endswith(".timer") and values.get("UnitFileState", "").startswith("enabled")
        return is_set or values.get("ActiveState") in ("active", "activating", "reloading")

    def set_enabled(self, timer: str, on: bool) -> None:
        """Enable or disable the timer, with `--now` for the running system."""
        self._systemctl("enable" if on else "disable", "--now", timer)


def _choose_unit(user: str, candidates: list[ServerState]) -> ServerState:
    """Return the user's unit of the two forms that its name may have: the one that runs as the user, else the one in use."""

    def fits(server: ServerState) -> tuple[bool, bool, bool]:
        facts = server.facts
        assert facts is not None
        return facts.user == user, server.active, facts.file_state.startswith("enabled")

    return max(candidates, key=fits)  # of equals the first, the plain form


def _state(unit: str, values: dict[str, str]) -> ServerState:
    pid, started = int(values.get("MainPID") or 0), values.get("ExecMainStartTimestamp", "")
    active = values.get("ActiveState") in ("active", "activating", "reloading") and pid > 0
    load, state, substate = (values.get(name) or "unknown" for name in ("LoadState", "ActiveState", "SubState"))
    detail = f"{load}, {state} ({substate})"
    code = int(values.get("ExecMainStatus") or 0) if values.get("Result") == "exit-code" else None
    is_failing = not active and has_failed(values.get("ActiveState", ""), code)
    died_of = int(values.get("ExecMainStatus") or 0) if values.get("Result") == "success" else 0
    was_stopped = values.get("ActiveState") == "failed" and code in ENDS_OF_A_STOP
    was_stopped = was_stopped or (values.get("ActiveState") == "inactive" and died_of == signal.SIGTERM)
    started_wall = _wall_clock(started) if active else None
    group = values.get("ControlGroup") or cgroups.default_group(unit, values.get("Slice", ""))
    last_start = f"{values.get('ExecMainStartTimestampMonotonic', '')}/{values.get('NRestarts', '')}" if started else ""
    facts = unit_facts.facts_of(unit, values)
    return ServerState(
        unit, active, pid if active else None, started_wall, detail, is_failing, group, last_start, facts, was_stopped
    )


def _wall_clock(shown: str) -> float | None:
    """Return epoch seconds of `@SECONDS` or of `Thu 2026-11-26 00:21:17 UTC` (systemctl runs with TZ=UTC)."""
    if shown.startswith("@"):
        return float(shown[1:])
    with suppress(ValueError):
        return float(timegm(strptime(shown.removesuffix(" UTC").partition(".")[0], "%a %Y-%m-%d %H:%M:%S")))
    return None
