"""The servers of the sandbox, controlled through the socket of its supervisor."""

import json
import signal
import socket
from pathlib import Path
from typing import Any

from t3flow.host.processes import listing
from t3flow.host.services.manager import CONTROL_SECONDS, ServerState, ServiceError, end_leftovers, has_failed
from t3flow.t3.commands import ENDS_OF_A_STOP

SUPERVISOR_SOCKET = "supervisor.sock"


class Supervised:
    """Servers of the sandbox."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path

    def _request(self, verb: str, user: str) -> dict[str, Any]:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(CONTROL_SECONDS)
                connection.connect(str(self._socket_path))
                connection.sendall(json.dumps({"do": verb, "user": user}).encode() + b"\n")
                with connection.makefile() as lines:
                    answer: dict[str, Any] = json.loads(lines.readline())
        except (OSError, ValueError) as error:
            raise ServiceError(f"the supervisor at {self._socket_path} does not answer: {error}") from error
        if not answer.get("ok"):
            raise ServiceError(f"the supervisor cannot {verb} the server of {user}: {answer.get('error')}")
        return answer

    def state(self, user: str) -> ServerState:
        """Return the supervisor's state of the server."""
        return self._state(self._request("status", user))

    def states(self, users: list[str]) -> dict[str, ServerState]:
        """Return all states. A user unknown to the supervisor has no server."""
        found = {each["user"]: self._state(each) for each in self._request("list", "")["servers"]}
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
            not active and has_failed(answer["state"], answer["exit"]),
            last_start=str(answer.get("starts") or ""),
            was_stopped=not active and answer["exit"] in (*ENDS_OF_A_STOP, -signal.SIGTERM),
            pids=tuple(answer["pids"]) if "pids" in answer else None,
        )

    def accounts(self) -> list[str]:
        """Return all users that the supervisor knows."""
        return [str(each["user"]) for each in self._request("list", "")["servers"]]

    def pids(self, user: str) -> list[int]:
        """Return the pids that the supervisor lists, else the session of the main process and its descendants."""
        answer = self._request("status", user)
        if "pids" in answer:
            return [int(pid) for pid in answer["pids"]]
        return listing.session_pids(answer["main_pid"]) if answer["main_pid"] else []

    def pids_of(self, user: str, server: ServerState) -> list[int]:
        """Query the supervisor again."""
        return self.pids(user)

    def start(self, user: str) -> None:
        """Clear the failures, then start the server."""
        self._request("reset-failed", user)
        self._request("start", user)

    def stop(self, user: str, server: ServerState | None = None) -> None:
        """Stop the unit and kill its leftover processes."""
        unit = self._state(self._request("stop", user)).unit
        end_leftovers(unit, lambda: self.state(user).main_pid, lambda: self.pids(user))

    def is_enabled(self, unit: str) -> bool:
        """Return whether a file with the unit's name lies beside the socket."""
        return self._socket_path.with_name(unit).exists()

    def set_enabled(self, timer: str, on: bool) -> None:
        """Create or remove that file."""
        flag = self._socket_path.with_name(timer)
        flag.touch() if on else flag.unlink(missing_ok=True)
