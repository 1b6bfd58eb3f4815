"""usage: python -m t3flow.sandbox.supervisor --socket F --serve-env-dir D --launcher F --base-dir TEMPLATE --log-dir D --host H

The sandbox's own small stand-in for systemd: starts, stops and restarts the users' servers. A line of JSON asks, a line answers:
{"do": "start" | "stop" | "status" | "reset-failed" | "list" | "shutdown", "user": USER}.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STOP_SECONDS = 10.0
RESTART_SECONDS = 1.0
BURST, BURST_SECONDS = 5, 30.0
CLEAN_CODES = {0}


@dataclass
class Server:
    """One user's server, as a unit of systemd would be."""

    user: str
    state: str = "inactive"
    process: asyncio.subprocess.Process | None = None
    started_wall: float | None = None
    stopping: bool = False
    code: int | None = None
    starts: list[float] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """All servers of the sandbox."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.servers: dict[str, Server] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self, server: Server) -> None:
        """Starts a server that does not run. Raises ValueError when it failed too often in a short time."""
        if server.state in ("active", "activating"):
            return
        now = time.monotonic()
        server.starts = [moment for moment in server.starts if now - moment < BURST_SECONDS]
        if len(server.starts) >= BURST:
            server.state = "failed"
            raise ValueError("start request repeated too quickly")
        server.starts.append(now)
        server.stopping, server.code = False, None
        server.ended = asyncio.Event()
        base_dir = self.options.base_dir.format(user=server.user)
        home = Path(base_dir).parent
        with (self.options.log_dir / f"serve-{server.user}.log").open("ab") as log:
            server.process = await asyncio.create_subprocess_exec(
                *(str(self.options.launcher), "serve", "--host", self.options.host),
                *("--port", self._port(server.user), "--base-dir", base_dir),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=home,
                env={"PATH": os.environ["PATH"], "HOME": str(home), "SHELL": "/bin/sh", "T3FLOW_SANDBOX_USER": server.user},
                start_new_session=True,
            )
        server.started_wall = time.time()
        server.state = "active"
        self._spawn(self._watch(server, server.process, server.ended))

    def _port(self, user: str) -> str:
        for line in (self.options.serve_env_dir / f"{user}.env").read_text().splitlines():
            if line.startswith("T3_PORT="):
                return line.partition("=")[2]
        raise ValueError(f"no port for {user}")

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _watch(self, server: Server, process: asyncio.subprocess.Process, ended: asyncio.Event) -> None:
        code = await process.wait()
        end_group(process.pid)
        server.code = code
        server.state = "inactive" if code in CLEAN_CODES else "failed"
        ended.set()
        if not server.stopping and server.state == "failed":
            server.state = "restarting"
            await asyncio.sleep(RESTART_SECONDS)
            if server.state == "restarting" and not server.stopping:
                server.state = "inactive"
                with contextlib.suppress(ValueError, OSError):
                    await self.start(server)

    async def stop(self, server: Server) -> None:
        """SIGTERM, then SIGKILL; returns when all of the process group are gone."""
        server.stopping = True
        if server.state == "restarting":
            server.state = "failed"
        process = server.process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
        try:
            await asyncio.wait_for(server.ended.wait(), STOP_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await server.ended.wait()

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Does what one request asks."""
        do, user = request.get("do"), str(request.get("user", ""))
        if do == "list":
            return {"ok": True, "servers": [self._shown(server) for server in self.servers.values()]}
        if do == "shutdown":
            await self.shutdown()
            return {"ok": True}
        if not (self.options.serve_env_dir / f"{user}.env").is_file() or "/" in user:
            return {"ok": False, "error": f"no server of {user}"}
        server = self.servers.setdefault(user, Server(user))
        if do == "start":
            await self.start(server)
        elif do == "stop":
            await self.stop(server)
        elif do == "reset-failed":
            server.starts.clear()
            if server.state == "failed":
                server.state = "inactive"
        elif do != "status":
            return {"ok": False, "error": f"cannot {do}"}
        return {"ok": True, **self._shown(server)}

    def _shown(self, server: Server) -> dict[str, Any]:
        running = server.process is not None and server.process.returncode is None
        return {
            "user": server.user,
            "state": server.state,
            "main_pid": server.process.pid if running and server.process else None,
            "started_wall": server.started_wall,
            "exit": server.code,
        }

    async def shutdown(self) -> None:
        """Stops every server."""
        await asyncio.gather(*(self.stop(server) for server in self.servers.values()))

    async def serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one connection, line by line."""
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                try:
                    answer = await self.answer(json.loads(line))
                except (ValueError, OSError, AttributeError) as error:
                    answer = {"ok": False, "error": str(error)}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        writer.close()


def end_group(group: int) -> None:
    """Ends what is left of a process group, as systemd empties a control group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


async def run(options: argparse.Namespace) -> None:
    """Serves until SIGTERM, then stops all servers."""
    supervisor = Supervisor(options)
    options.socket.unlink(missing_ok=True)
    temporary = options.socket.with_name(f".{options.socket.name}")
    server = await asyncio.start_unix_server(supervisor.serve_client, temporary)
    temporary.rename(options.socket)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await supervisor.shutdown()
    server.close()


def main() -> None:
    """Reads the options and runs."""
    parser = argparse.ArgumentParser()
    for name in ("--socket", "--serve-env-dir", "--launcher", "--log-dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--base-dir", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
