"""The users' servers: systemd units, or the sandbox's own small supervisor. Both say the same things."""

import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from loguru import logger
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from t3flow.engine.step import pause
from t3flow.errors import T3flowError
from t3flow.host.children import Children, TookTooLong
from t3flow.settings import Settings

CONTROL_SECONDS = 60.0
AWAY_SECONDS = 20.0
STOP_SECONDS = 20.0
AWAY = re.compile(
    r"[Tt]ransport endpoint|connect to bus|[Cc]onnection (reset|refused|timed out|terminated)|Broken pipe"
)
"""What systemctl says while systemd itself cannot be talked to: a boot under way, a reload, much to do. It is no word about a unit."""
SUPERVISOR_SOCKET = "supervisor.sock"
PROPERTIES = "ActiveState,SubState,MainPID,ExecMainStartTimestamp,LoadState,Result,ExecMainStatus"
ENDS_OF_A_STOP = (130, 143)
"""What t3 ends with when it is asked to: a failure to a manager that was not told otherwise."""


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


class Services(Protocol):
    """How servers are started and stopped. Every call may be repeated: each leads to the state that it names."""

    def state(self, user: str) -> ServerState:
        """How the server is now. Raises ServiceError when its manager does not answer."""

    def states(self, users: list[str]) -> dict[str, ServerState]:
        """How the servers of many are now: user → state, by one question. Raises ServiceError when their manager does not answer."""

    def start(self, user: str) -> None:
        """Starts the server, whatever its past failures. Raises ServiceError."""

    def stop(self, user: str) -> None:
        """Stops the server and all that runs below it; returns when they are gone. Raises ServiceError."""

    def is_on(self, unit: str) -> bool:
        """Whether another unit of the host, by its full name, is at work or (a timer) set to begin. Raises ServiceError."""

    def switch(self, timer: str, on: bool) -> None:
        """Turns a timer on or off, for now and after the next boot. Raises ServiceError."""


class Systemd:
    """Units of systemd, through systemctl."""

    def __init__(self, children: Children, unit_template: str) -> None:
        self._children = children
        self._unit_template = unit_template

    def _systemctl(self, *words: str, timeout_seconds: float = CONTROL_SECONDS) -> str:
        """Asked again for a while where systemd cannot be talked to: every call may be repeated, and a healthy build is not to be blamed for it."""
        for attempt in Retrying(
            stop=stop_after_delay(AWAY_SECONDS),
            wait=wait_fixed(0.5),
            retry=retry_if_exception_type(ManagerAway),
            sleep=pause,
            reraise=True,
        ):
            with attempt:
                finished = self._children.run(["systemctl", *words], timeout_seconds=timeout_seconds)
                if finished.code != 0:
                    kind = ManagerAway if AWAY.search(finished.last_line) else ServiceError
                    raise kind(f"systemctl {' '.join(words)} failed: {finished.last_line}")
                return finished.stdout.decode(errors="replace")
        raise AssertionError("unreachable")

    def state(self, user: str) -> ServerState:
        """One of the states."""
        return self.states([user])[user]

    def states(self, users: list[str]) -> dict[str, ServerState]:
        """Asks for named properties, since `--value` alone prints them in an order of its own; the units come in the order asked for."""
        if not users:
            return {}
        units = [self._unit_template.format(user=user) for user in users]
        text = self._systemctl("show", *units, "--timestamp=unix", f"--property={PROPERTIES}")
        found = text.strip().split("\n\n")
        if len(found) != len(units):
            raise ServiceError(f"systemctl show tells of {len(found)} units, asked for {len(units)}")
        return {user: _state(unit, each) for user, unit, each in zip(users, units, found, strict=True)}

    def start(self, user: str) -> None:
        """t3 exits 130 on SIGTERM, which systemd counts as a failure: the unit's record is cleared first. A unit that is not loaded has none."""
        unit = self._unit_template.format(user=user)
        try:
            self._systemctl("reset-failed", unit)
        except ManagerAway:
            raise
        except ServiceError as error:
            logger.debug("{}", error)
        self._systemctl("start", unit)

    def stop(self, user: str) -> None:
        """`systemctl stop` waits until the unit's whole control group is empty. What does not go is killed: a unit may allow minutes."""
        unit = self._unit_template.format(user=user)
        try:
            self._systemctl("stop", unit, timeout_seconds=STOP_SECONDS)
        except TookTooLong:
            self._systemctl("kill", "--signal=KILL", unit)
            self._systemctl("stop", unit)

    def is_on(self, unit: str) -> bool:
        """A timer is on when it is enabled, too; a service only while it is at work. A unit that there is not is off."""
        text = self._systemctl("show", unit, "--property=ActiveState,UnitFileState")
        values = dict(line.partition("=")[::2] for line in text.splitlines())
        is_set = unit.endswith(".timer") and values.get("UnitFileState", "").startswith("enabled")
        return is_set or values.get("ActiveState") in ("active", "activating", "reloading")

    def switch(self, timer: str, on: bool) -> None:
        """`--now` does it at once as well."""
        self._systemctl("enable" if on else "disable", "--now", timer)


def _state(unit: str, shown: str) -> ServerState:
    values = dict(line.partition("=")[::2] for line in shown.splitlines())
    pid = int(values.get("MainPID") or 0)
    started = values.get("ExecMainStartTimestamp", "").lstrip("@")
    active = values.get("ActiveState") in ("active", "activating", "reloading") and pid > 0
    detail = f"{values.get('LoadState')}, {values.get('ActiveState')} ({values.get('SubState')})"
    code = int(values.get("ExecMainStatus") or 0) if values.get("Result") == "exit-code" else None
    is_failing = not active and _is_failing(values.get("ActiveState", ""), code)
    started_wall = float(started) if active and started else None
    return ServerState(unit, active, pid if active else None, started_wall, detail, is_failing)


def _is_failing(state: str, code: int | None) -> bool:
    """Whether a server that is down was meant to run, by what its manager calls that and the exit code that it ended with."""
    return state == "activating" or (state == "failed" and code not in ENDS_OF_A_STOP)


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
        )

    def start(self, user: str) -> None:
        """Clears the record of failures, then starts."""
        self._ask("reset-failed", user)
        self._ask("start", user)

    def stop(self, user: str) -> None:
        """Returns when the server's process group is gone."""
        self._ask("stop", user)

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
