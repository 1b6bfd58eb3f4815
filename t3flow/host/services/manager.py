"""The users' servers: systemd units, or the sandbox's own small supervisor. Both say the same things."""

import json
import re
import signal
import socket
import time
from calendar import timegm
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import strptime
from typing import Any, Protocol

from t3flow import T3flowError
from t3flow.engine.log import logger
from t3flow.engine.step import pause
from t3flow.host.children import Children, TookTooLong
from t3flow.host.processes import cgroups, proc, suspension
from t3flow.host.services import unit_facts, unit_names
from t3flow.host.services.unit_facts import UnitFacts
from t3flow.settings.load import Settings
from t3flow.t3.commands import ENDS_OF_A_STOP

CONTROL_SECONDS = 60.0
AWAY_SECONDS = 20.0
AGAIN_SECONDS = 0.5
STOP_SECONDS = 20.0
LEFTOVER_SECONDS = 5.0
AWAY = re.compile(
    r"[Tt]ransport endpoint|connect to bus|[Cc]onnection (reset|refused|timed out|terminated)|Broken pipe"
)
"""What systemctl says while systemd itself cannot be talked to: a boot under way, a reload, much to do. It is no word about a unit."""
SUPERVISOR_SOCKET = "supervisor.sock"


class ServiceError(T3flowError):
    """A server could not be started, stopped or asked about."""


class ManagerAway(ServiceError):
    """Nobody could be asked."""


@dataclass(frozen=True)
class ServerState:
    """One user's server. `started_wall` is the wall clock (epoch seconds) that its manager noted when it started it."""

    unit: str
    active: bool
    main_pid: int | None
    started_wall: float | None
    detail: str
    is_failing: bool = False
    """It is meant to run, and ended by itself: its manager is about to start it again, or has given up."""
    group: str = ""
    """The unit's control group, as systemd names it; "" where it has none."""
    last_start: str = ""
    """What differs between two starts of the unit, those by its manager included; "" where that is not known."""
    facts: UnitFacts | None = None
    """What systemd has loaded as its unit; None where there is no systemd."""
    was_stopped: bool = False
    """It ended as a server that was asked to stop does: a person, or another program, stopped the unit."""


class Services(Protocol):
    """How servers are started and stopped. Every call may be repeated: each leads to the state that it names."""

    def state(self, user: str) -> ServerState:
        """How the server is now. Raises ServiceError when its manager does not answer."""

    def states(self, users: list[str]) -> dict[str, ServerState]:
        """How the servers of many are now: user → state, by one question. Raises ServiceError when their manager does not answer."""

    def accounts(self) -> list[str]:
        """Names that accounts with a server of their own may have, by the servers that their manager knows, running or not. Raises ServiceError."""

    def pids(self, user: str) -> list[int]:
        """Return all processes of the unit, those that a stopped one left behind included. Raises ServiceError.

        What it costs does not depend on the other processes of the host.
        """

    def pids_of(self, user: str, server: ServerState) -> list[int]:
        """Return the same for a state that was just asked for: cheap enough to ask again and again. Raises ServiceError."""

    def start(self, user: str) -> None:
        """Starts the server, whatever its past failures. Raises ServiceError."""

    def stop(self, user: str, server: ServerState | None = None) -> None:
        """End the whole unit, what an earlier stop left in its group included; return when all of it is gone. Raises ServiceError.

        With a state that was just asked for, it is not asked for again first.
        """

    def is_on(self, unit: str) -> bool:
        """Whether another unit of the host, by its full name, is at work or (a timer) set to begin. Raises ServiceError."""

    def switch(self, timer: str, on: bool) -> None:
        """Turns a timer on or off, for now and after the next boot. Raises ServiceError."""


class Systemd:
    """Units of systemd, through systemctl."""

    def __init__(self, children: Children, unit_template: str) -> None:
        self._children = children
        self._unit_template = unit_template
        self._has_unix_time = True

    def _unit(self, user: str) -> str:
        """The unit of a user; systemd is asked only where there are two names that it may have."""
        units = unit_names.units(self._unit_template, user)
        return units[0] if len(units) == 1 else self.state(user).unit

    def _systemctl(self, *words: str, timeout_seconds: float = CONTROL_SECONDS) -> str:
        """Asked again for a while where systemd cannot be talked to: every call may be repeated, and a healthy build is not to be blamed for it."""
        try:
            return self._ask(words, timeout_seconds)
        except ManagerAway:
            pause(AGAIN_SECONDS)
        from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

        again = Retrying(
            stop=stop_after_delay(AWAY_SECONDS),
            wait=wait_fixed(AGAIN_SECONDS),
            retry=retry_if_exception_type(ManagerAway),
            sleep=pause,
            reraise=True,
        )
        return again(self._ask, words, timeout_seconds)

    def _ask(self, words: Sequence[str], timeout_seconds: float) -> str:
        """What systemctl prints. Raises ManagerAway, ServiceError."""
        finished = self._children.run(["systemctl", *words], timeout_seconds=timeout_seconds, environment={"TZ": "UTC"})
        if finished.code != 0:
            kind = ManagerAway if AWAY.search(finished.last_line) else ServiceError
            raise kind(f"systemctl {' '.join(words)} failed: {finished.last_line}")
        return finished.stdout.decode(errors="replace")

    def state(self, user: str) -> ServerState:
        """One of the states."""
        return self.states([user])[user]

    def states(self, users: list[str]) -> dict[str, ServerState]:
        """Asks for named properties, since `--value` alone prints them in an order of its own; the units come in the order asked for."""
        names = {user: unit_names.units(self._unit_template, user) for user in users}
        units = [unit for each in names.values() for unit in each]
        if not units:
            return {}
        shown = dict(zip(units, self._show(units), strict=True))
        return {user: _chosen(user, [_state(unit, shown[unit]) for unit in each]) for user, each in names.items()}

    def _show(self, units: list[str]) -> list[dict[str, str]]:
        """The properties of each unit, in that order. Older systemd has no `--timestamp=unix`."""
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
            raise ServiceError(f"systemctl show tells of {len(found)} units, asked for {len(units)}")
        return [unit_facts.properties(each) for each in found]

    def accounts(self) -> list[str]:
        """Of units that are loaded, and of those that are enabled for the next boot."""
        pattern = self._unit_template.format(user="*")
        listed = self._systemctl("list-units", "--all", "--full", "--plain", "--no-legend", pattern)
        listed += "\n" + self._systemctl("list-unit-files", "--full", "--no-legend", pattern)
        found = [name for word in listed.split() for name in unit_names.accounts(self._unit_template, word)]
        return list(dict.fromkeys(found))

    def pids(self, user: str) -> list[int]:
        """By the unit's control group."""
        return self.pids_of(user, self.state(user))

    def pids_of(self, user: str, server: ServerState) -> list[int]:
        """What the kernel lists. A main process that is not listed means that the group is not to be seen from here."""
        found = cgroups.pids(cgroups.folder_of(server.group) if server.group else None)
        if server.main_pid is not None and server.main_pid not in found and proc.is_there(server.main_pid):
            raise ServiceError(
                f"the control group {server.group or 'of ' + server.unit} does not list process {server.main_pid}: "
                f"see systemctl status {server.unit}"
            )
        return found

    def start(self, user: str) -> None:
        """t3 exits 130 on SIGTERM, which systemd counts as a failure: the unit's record is cleared first. A unit that is not loaded has none."""
        unit = self._unit(user)
        try:
            self._systemctl("reset-failed", unit)
        except ManagerAway:
            raise
        except ServiceError as error:
            logger.debug("{}", error)
        self._systemctl("start", unit)

    def stop(self, user: str, server: ServerState | None = None) -> None:
        """`systemctl stop` waits until the unit's whole control group is empty. What does not go is killed: a unit may allow minutes.

        A unit with `KillMode=process` leaves processes in its group, which are ended here.
        """
        server = server or self.state(user)
        unit, group = server.unit, server.group  # systemd forgets the group when the unit has stopped
        try:
            self._systemctl("stop", unit, timeout_seconds=STOP_SECONDS)
        except TookTooLong:
            self._systemctl("kill", "--signal=KILL", unit)
            self._systemctl("stop", unit)
        folder = cgroups.folder_of(group) if group else None
        _end_leftovers(unit, lambda: self.state(user).main_pid, lambda: cgroups.pids(folder))

    def is_on(self, unit: str) -> bool:
        """A timer is on when it is enabled, too; a service only while it is at work. A unit that there is not is off."""
        text = self._systemctl("show", unit, "--property=ActiveState,UnitFileState")
        values = dict(line.partition("=")[::2] for line in text.splitlines())
        is_set = unit.endswith(".timer") and values.get("UnitFileState", "").startswith("enabled")
        return is_set or values.get("ActiveState") in ("active", "activating", "reloading")

    def switch(self, timer: str, on: bool) -> None:
        """`--now` does it at once as well."""
        self._systemctl("enable" if on else "disable", "--now", timer)


def _chosen(user: str, candidates: list[ServerState]) -> ServerState:
    """The unit of a user among those of the two forms that their name may have: the one that runs as them, else one that is in use."""

    def fits(server: ServerState) -> tuple[bool, bool, bool]:
        facts = server.facts
        assert facts is not None
        return facts.user == user, server.active, facts.file_state.startswith("enabled")

    return max(candidates, key=fits)  # of equals the first, which is the plain form


def _state(unit: str, values: dict[str, str]) -> ServerState:
    pid, started = int(values.get("MainPID") or 0), values.get("ExecMainStartTimestamp", "")
    active = values.get("ActiveState") in ("active", "activating", "reloading") and pid > 0
    detail = f"{values.get('LoadState')}, {values.get('ActiveState')} ({values.get('SubState')})"
    code = int(values.get("ExecMainStatus") or 0) if values.get("Result") == "exit-code" else None
    is_failing = not active and _is_failing(values.get("ActiveState", ""), code)
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
    """Seconds since the epoch, of `@SECONDS` or of `Thu 2026-11-26 00:21:17 UTC`: systemctl is asked with TZ=UTC."""
    if shown.startswith("@"):
        return float(shown[1:])
    with suppress(ValueError):
        return float(timegm(strptime(shown.removesuffix(" UTC").partition(".")[0], "%a %Y-%m-%d %H:%M:%S")))
    return None


def _is_failing(state: str, code: int | None) -> bool:
    """Whether a server that is down was meant to run, by what its manager calls that and the exit code that it ended with."""
    return state == "activating" or (state == "failed" and code not in ENDS_OF_A_STOP)


def _end_leftovers(unit: str, main_pid: Callable[[], int | None], pids: Callable[[], list[int]]) -> None:
    """End what a stopped unit has left of its own, and nothing else. Raises ServiceError for what does not go.

    A unit that a person has started again meanwhile is left alone: these are its processes.
    """
    deadline = time.monotonic() + LEFTOVER_SECONDS
    while (left := pids()) and main_pid() is None:
        for pid in left:
            suspension.end_if(pid, pids)
        if time.monotonic() > deadline:
            raise ServiceError(f"process {left[0]}, which {unit} left behind, does not end: kill -KILL {left[0]}")
        time.sleep(0.02)


class Supervised:
    """Servers of the sandbox, through its supervisor's socket."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path

    def _ask(self, do: str, user: str) -> dict[str, Any]:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(CONTROL_SECONDS)
                connection.connect(str(self._socket_path))
                connection.sendall(json.dumps({"do": do, "user": user}).encode() + b"\n")
                with connection.makefile() as lines:
                    answer: dict[str, Any] = json.loads(lines.readline())
        except (OSError, ValueError) as error:
            raise ServiceError(f"the supervisor at {self._socket_path} does not answer: {error}") from error
        if not answer.get("ok"):
            raise ServiceError(f"the supervisor cannot {do} the server of {user}: {answer.get('error')}")
        return answer

    def state(self, user: str) -> ServerState:
        """As the supervisor has it."""
        return self._state(self._ask("status", user))

    def states(self, users: list[str]) -> dict[str, ServerState]:
        """Those whom the supervisor does not know have no server."""
        found = {each["user"]: self._state(each) for each in self._ask("list", "")["servers"]}
        return {
            user: found.get(user) or ServerState(f"t3-serve@{user}", False, None, None, "unknown") for user in users
        }

    @staticmethod
    def _state(answer: dict[str, Any]) -> ServerState:
        active = answer["state"] in ("active", "activating") and bool(answer["main_pid"])
        return ServerState(
            f"t3-serve@{answer['user']}",
            active,
            answer["main_pid"] if active else None,
            answer.get("started_wall"),
            answer["state"],
            not active and _is_failing(answer["state"], answer["exit"]),
            last_start=str(answer.get("starts") or ""),
            was_stopped=not active and answer["exit"] in (*ENDS_OF_A_STOP, -signal.SIGTERM),
        )

    def accounts(self) -> list[str]:
        """All that the supervisor knows."""
        return [str(each["user"]) for each in self._ask("list", "")["servers"]]

    def pids(self, user: str) -> list[int]:
        """As the supervisor lists them; where it does not, the session of the main process and what runs below it."""
        answer = self._ask("status", user)
        if "pids" in answer:
            return [int(pid) for pid in answer["pids"]]
        return proc.session_of(answer["main_pid"]) if answer["main_pid"] else []

    def pids_of(self, user: str, server: ServerState) -> list[int]:
        """Asks again."""
        return self.pids(user)

    def start(self, user: str) -> None:
        """Clears the record of failures, then starts."""
        self._ask("reset-failed", user)
        self._ask("start", user)

    def stop(self, user: str, server: ServerState | None = None) -> None:
        """Ends what the unit may leave behind as well."""
        unit = self._state(self._ask("stop", user)).unit
        _end_leftovers(unit, lambda: self.state(user).main_pid, lambda: self.pids(user))

    def is_on(self, unit: str) -> bool:
        """In the sandbox a unit is on while a file of its name lies beside the socket."""
        return self._socket_path.with_name(unit).exists()

    def switch(self, timer: str, on: bool) -> None:
        """Makes or removes that file."""
        flag = self._socket_path.with_name(timer)
        flag.touch() if on else flag.unlink(missing_ok=True)


def services_of(settings: Settings, children: Children) -> Services:
    """The services that `serve.backend` names."""
    if settings.serve.backend == "systemd":
        return Systemd(children, settings.serve.unit)
    return Supervised(settings.paths.serve_env_dir / SUPERVISOR_SOCKET)
