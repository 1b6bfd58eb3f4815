"""usage: python -m t3flow.sandbox.supervisor --socket PATH …: a small substitute for systemd in the sandbox.

It runs the users' servers like the units of a real host: Restart=on-failure after a second, at most five starts in 30 seconds. A unit is its main
process, the descendants, and their orphans. A stop sends SIGTERM to all of them, SIGKILL after a timeout, and succeeds when none is left. A unit
whose main process exits 130 is `failed`, as in systemd. `USER.unit.json` beside `USER.env` is a drop-in (`unit_file.py`).

The socket accepts JSON lines, {"do": COMMAND, "user": USER}, where COMMAND is one of `start stop status reset-failed
kill-main kill list shutdown`, and answers each with {"ok": false, "error": TEXT} or {"ok": true, "user", "state",
"main_pid", "started_monotonic", "started_wall", "exit", "starts", "pids", "exec_start"}. `state` is one of `active inactive failed activating
deactivating`; `exit` is the last exit code, or minus the number of a fatal signal; `pids` are all processes of the unit, including orphans;
`starts` counts the starts; `exec_start` is the command of the main process. `kill` takes {"signal": NUMBER} (default 9). After `kill-main`, the
remaining processes are ended before the unit restarts. `list` answers {"ok": true, "servers": [the same for each user]}.
"""

import argparse
import asyncio
import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from t3flow import T3flowError
from t3flow.sandbox.tree import live_processes
from t3flow.sandbox.unit import Options, Refused, Unit
from t3flow.sandbox.users import is_name

PR_SET_CHILD_SUBREAPER = 36
LONGEST_SOCKET_PATH = 107


class Supervisor:
    """All units, and the requests about them."""

    def __init__(self, options: Options, requests: Path | None = None) -> None:
        self.options = options
        self.requests = requests
        self.units: dict[str, Unit] = {}
        self.closing = asyncio.Event()

    def unit(self, user: object) -> Unit:
        """Return the unit of a user. Raise Refused if the user does not exist."""
        if not isinstance(user, str) or not is_name(user):
            raise Refused(f"{user!a} is not a user name")
        if user not in self.units:
            settings = self.options.serve_env_dir / f"{user}.env"
            if not settings.is_file():
                raise Refused(f"no user {user}: {settings} is missing")
            self.units[user] = Unit(user, self.options)
        return self.units[user]

    def reap(self) -> None:
        """Reap all children that have ended, including adopted orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for unit in self.units.values():
                if unit.main_pid == pid:
                    unit.main_ended(os.waitstatus_to_exitcode(status))

    async def stop_all(self) -> None:
        """Stop every server, and refuse further starts."""
        self.options.closing = True
        await asyncio.gather(*(unit.stop() for unit in self.units.values()))

    async def answer(self, request: Any) -> dict[str, Any]:
        """Execute a request and return the response. Raise Refused, UserError."""
        do = request.get("do") if isinstance(request, dict) else None
        if self.requests is not None:
            with self.requests.open("a") as file:
                file.write(f"request {do} {request.get('user')}\n")
        if do == "list":
            names = {path.stem for path in self.options.serve_env_dir.glob("*.env") if is_name(path.stem)}
            for name in self.units.keys() - names:
                if self.units[name].state in ("inactive", "failed"):
                    del self.units[name]  # systemd forgets a stopped unit as well
            names |= self.units.keys()
            processes = list(live_processes())
            return {"ok": True, "servers": [self.unit(name).description(processes) for name in sorted(names)]}
        if do == "shutdown":
            await self.stop_all()
            return {"ok": True, "user": None, "state": "inactive", "main_pid": None}
        unit = self.unit(request.get("user")) if isinstance(request, dict) else None
        actions: dict[str, Callable[[Unit], Awaitable[None]]] = {
            "start": Unit.start,
            "stop": Unit.stop,
            "status": Unit.no_op,
            "reset-failed": Unit.reset_failed,
            "kill-main": Unit.kill_main,
            "kill": lambda unit: unit.kill(_signal_number(request.get("signal", signal.SIGKILL))),
        }
        if unit is None or do not in actions:
            raise Refused(f"no command {do!a}: the commands are {', '.join([*actions, 'list', 'shutdown'])}")
        await actions[do](unit)
        return {"ok": True, **unit.description()}

    async def serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one client until it disconnects."""
        with suppress(ConnectionError):
            while line := await _line(reader):
                try:
                    answer = await self.answer(json.loads(line))
                except (T3flowError, ValueError) as error:
                    answer = {"ok": False, "error": str(error)}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
                if self.options.closing:
                    self.closing.set()
        writer.close()


def _signal_number(given: object) -> int:
    """Return a valid signal number. Raise Refused."""
    if not isinstance(given, int) or given not in {int(number) for number in signal.valid_signals()}:
        raise Refused(f"{given!a} is not a signal number")
    return given


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:  # longer than any request
        return b""


def listening_socket(path: Path) -> socket.socket:
    """Return a unix socket that appears at the path once it listens. Raise Refused if another supervisor answers there."""
    beside = path.with_name(path.name + "~")
    if len(os.fsencode(beside)) > LONGEST_SOCKET_PATH:
        raise Refused(
            f"{path} is longer than the {LONGEST_SOCKET_PATH - 1} bytes that a socket's path may have: use a shorter folder"
        )
    with socket.socket(socket.AF_UNIX) as probe, suppress(FileNotFoundError, ConnectionRefusedError):
        probe.connect(str(path))
        raise Refused(f"another supervisor answers at {path}: end it first")
    beside.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o077)
    try:
        listener.bind(str(beside))
    finally:
        os.umask(before)
    listener.listen(64)
    beside.rename(path)
    return listener


async def supervise(options: Options, path: Path, requests: Path | None) -> None:
    """Run servers until a shutdown request, SIGTERM, or SIGINT; then stop them all. Raise Refused."""
    loop = asyncio.get_running_loop()
    supervisor = Supervisor(options, requests)
    listener = listening_socket(path)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    loop.add_signal_handler(signal.SIGCHLD, supervisor.reap)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.closing.set)
    await asyncio.start_unix_server(supervisor.serve_client, sock=listener)
    print(f"listening on {path}", flush=True)
    await supervisor.closing.wait()
    await supervisor.stop_all()
    path.unlink(missing_ok=True)


def main() -> None:
    """Supervise until terminated."""
    parser = argparse.ArgumentParser(prog="python -m t3flow.sandbox.supervisor")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--serve-env-dir", type=Path, required=True, help="USER.env with T3_PORT=…")
    parser.add_argument("--launcher", type=Path, required=True, help="the t3 that runs the servers")
    parser.add_argument("--base-dir", required=True, help="template with {user}")
    parser.add_argument("--log-dir", type=Path, required=True, help="t3-serve@USER.log")
    parser.add_argument("--host", default="127.0.0.1", help="address that servers bind")
    parser.add_argument("--stop-timeout-seconds", type=float, default=10.0)
    parser.add_argument("--restart-seconds", type=float, default=1.0)
    parser.add_argument("--requests", type=Path, help="a file to which each request is appended")
    given = parser.parse_args()
    options = Options(
        serve_env_dir=given.serve_env_dir,
        launcher=given.launcher.absolute(),
        base_dir=given.base_dir,
        log_dir=given.log_dir,
        host=given.host,
        stop_seconds=given.stop_timeout_seconds,
        restart_seconds=given.restart_seconds,
    )
    try:
        asyncio.run(supervise(options, given.socket, given.requests))
    except Refused as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
