"""A user's server under the sandbox's supervisor, with the states of a systemd unit."""

import asyncio
import ctypes
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t3flow import T3flowError
from t3flow.sandbox.tree import Process, members
from t3flow.sandbox.unit_file import UnitFile, read_unit_file
from t3flow.sandbox.users import base_dir_of, environment_of, port_of

STARTS, STARTS_WITHIN_SECONDS = 5, 30.0
CLEAN_ENDS = {0, -signal.SIGHUP, -signal.SIGINT, -signal.SIGTERM, -signal.SIGPIPE}
EXIT_NOT_STARTED = 203  # systemd's EXIT_EXEC
KILLED_SECONDS = 10.0
PR_SET_PDEATHSIG = 1
TERM, KILL = (signal.SIGTERM, signal.SIGCONT), (signal.SIGKILL,)
SUPERVISOR_PID = "T3FLOW_SANDBOX_SUPERVISOR"
"""The variable by which a server that outlives its launcher notices the end of the sandbox."""

_libc = ctypes.CDLL(None)


class Refused(T3flowError):
    """The supervisor refused a request."""


@dataclass
class Options:
    """Options of all servers. `base_dir` may contain `{user}`; `closing` forbids further starts."""

    serve_env_dir: Path
    launcher: Path
    base_dir: str
    log_dir: Path
    host: str
    stop_seconds: float = 10.0
    restart_seconds: float = 1.0
    closing: bool = False


@dataclass(eq=False)
class Unit:
    """A user's server. Requests that change it run one after the other; `description` never waits."""

    user: str
    options: Options
    state: str = "inactive"
    main_pid: int | None = None
    exit: int | None = None
    started_monotonic: float | None = None
    started_wall: float | None = None
    _session: int | None = None
    _start_count: int = 0
    _command: list[str] = field(default_factory=list)
    _file: UnitFile = field(default_factory=UnitFile)
    _starts: deque[float] = field(default_factory=deque)
    _revival: asyncio.Task[None] | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    def description(self, processes: list[Process] | None = None) -> dict[str, Any]:
        """Return the response about this server. Start times are in seconds, or null if it does not run.

        `processes` saves reading /proc again.
        """
        running = self.main_pid is not None
        return {
            "user": self.user,
            "state": self.state,
            "main_pid": self.main_pid,
            "started_monotonic": self.started_monotonic if running else None,
            "started_wall": self.started_wall if running else None,
            "exit": self.exit,
            "starts": self._start_count,
            "pids": sorted(members(self.user, self._session, processes)),
            "exec_start": self._command,
        }

    async def no_op(self) -> None:
        """Do nothing: the response describes the unit."""

    async def start(self) -> None:
        """Start the server. Idempotent. Raise Refused, UserError."""
        async with self._lock:
            if self.main_pid is None:
                await self._cancel_revival()
                if not self._file.leaves_others:
                    await self._end_members()
                self._spawn()

    async def stop(self) -> None:
        """Stop the unit and wait until all of its processes have ended. Raise Refused if one survives SIGKILL.

        Like systemd with KillMode=control-group: SIGTERM to every process of the unit, and SIGKILL after the timeout.
        With KillMode=process, signal only the main process.
        """
        async with self._lock:
            await self._cancel_revival()
            if self.main_pid is None:
                if not self._file.leaves_others:
                    await self._end_members()
                self.state = "failed" if self.state == "failed" else "inactive"
                return
            self.state = "deactivating"
            timed_out = await self._end_main() if self._file.leaves_others else await self._end_members()
            await self._ended.wait()
            self.state = "failed" if timed_out or self.exit not in CLEAN_ENDS else "inactive"
            self._log(f"stopped, exit {self.exit}")

    async def _end_main(self) -> bool:
        """End only the main process. Return whether that took SIGKILL."""
        self._signal([self.main_pid], signal.SIGTERM, signal.SIGCONT)
        try:
            await asyncio.wait_for(self._ended.wait(), self.options.stop_seconds)
        except TimeoutError:
            self._signal([self.main_pid], signal.SIGKILL)
            return True
        return False

    async def kill(self, number: int) -> None:
        """Send a signal to every process of the unit, as `systemctl kill` does. After SIGKILL, wait for their end."""
        self._signal(members(self.user, self._session), number)
        if number == signal.SIGKILL:
            await self._end_members()

    async def reset_failed(self) -> None:
        """Forget failures and past starts."""
        async with self._lock:
            self._starts.clear()
            if self.state == "failed":
                self.state = "inactive"

    async def kill_main(self) -> None:
        """Kill the main process with SIGKILL, as in a crash. Raise Refused if it does not run."""
        if self.main_pid is None:
            raise Refused(f"the server of {self.user} does not run: start it first")
        self._signal([self.main_pid], signal.SIGKILL)
        await self._ended.wait()

    def main_ended(self, code: int) -> None:
        """Record the end of the main process. If no stop caused it, end the remaining processes, and restart the unit after a failure."""
        self.exit, self.main_pid = code, None
        self._ended.set()
        if self.state != "deactivating":
            self.state = "activating" if self._may_restart(code) else "failed" if code not in CLEAN_ENDS else "inactive"
            self._log(f"ended without a stop, exit {code}")
            self._revival = asyncio.create_task(self._revive())

    def _may_restart(self, code: int) -> bool:
        return code not in CLEAN_ENDS and not self.options.closing

    async def _revive(self) -> None:
        try:
            if not self._file.leaves_others:
                await self._end_members()
            if self.state == "activating":
                await asyncio.sleep(self.options.restart_seconds)
                self._spawn()
        except T3flowError as error:
            self._log(str(error))

    async def _cancel_revival(self) -> None:
        if self._revival is not None:
            self._revival.cancel()
            with suppress(asyncio.CancelledError):
                await self._revival
            self._revival = None

    def _spawn(self) -> None:
        """Start the main process in its own session. Raise Refused, UserError, which leave the unit failed."""
        if self.options.closing:
            raise Refused("the supervisor is shutting down")
        self.state = "failed"
        now = time.monotonic()
        while self._starts and self._starts[0] < now - STARTS_WITHIN_SECONDS:
            self._starts.popleft()
        if len(self._starts) >= STARTS:
            raise Refused(
                f"start-limit-hit: {STARTS} starts within {STARTS_WITHIN_SECONDS:g} s: send reset-failed first"
            )
        self._starts.append(now)
        options = self.options
        base_dir = base_dir_of(options.base_dir, self.user)
        port = port_of(options.serve_env_dir, self.user)
        words = ["serve", "--host", options.host, "--port", str(port), "--base-dir", str(base_dir)]
        self._file = read_unit_file(options.serve_env_dir, self.user)
        self._command = self._file.command([str(options.launcher), *words])
        options.log_dir.mkdir(parents=True, exist_ok=True)
        log = os.open(options.log_dir / f"t3-serve@{self.user}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        try:
            process = subprocess.Popen(
                self._command,
                env={**environment_of(self.user, base_dir.parent), SUPERVISOR_PID: str(os.getpid())},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # safe: this process has no threads
            )
        except (OSError, subprocess.SubprocessError) as error:
            self.exit = EXIT_NOT_STARTED
            raise Refused(f"{self._command[0]} cannot be started: {error}") from error
        finally:
            os.close(log)
        process.returncode = 0  # the supervisor reaps all children, so Popen must not
        self.main_pid = self._session = process.pid
        self.started_monotonic, self.started_wall = time.monotonic(), time.time()
        self.state = "active"
        self._start_count += 1
        self._ended.clear()
        self._log(f"started as pid {process.pid} on port {port}")

    @staticmethod
    def _signal(pids: Iterable[int | None], *numbers: int) -> None:
        for pid in pids:
            for number in numbers:
                if pid is not None:
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, number)

    async def _end_members(self) -> bool:
        """End all processes of the unit and wait. Return whether that took SIGKILL. Raise Refused after a timeout."""
        terminated: set[int] = set()
        now = time.monotonic()
        kill_at, give_up_at = now + self.options.stop_seconds, now + self.options.stop_seconds + KILLED_SECONDS
        killed = False
        while pids := members(self.user, self._session):
            now = time.monotonic()
            if now > give_up_at:
                raise Refused(f"processes {pids} of {self.user} survive SIGKILL")
            killed = now > kill_at
            self._signal(
                pids if killed else [pid for pid in pids if pid not in terminated], *(KILL if killed else TERM)
            )
            terminated.update(pids)
            await asyncio.sleep(0.005 if now < kill_at - self.options.stop_seconds + 1 else 0.05)
        self._session = None  # the number may be reused
        return killed

    def _log(self, text: str) -> None:
        print(f"{self.user}: {text}", flush=True)


def _die_with_parent() -> None:
    """Kill this process when the supervisor dies."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
