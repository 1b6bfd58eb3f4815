"""The t3 under trial: its commands, its server, and its HTTP answers, within limits of time and size. No output is trusted to be well formed."""

import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, TypeVar

from t3flow.gate.cell.output import LOCKED, last_line
from t3flow.host import http_client
from t3flow.host.cells import processes
from t3flow.t3 import commands, secrets

POST_SECONDS, STOP_SECONDS, ENDING_SECONDS = 10.0, 20.0, 0.3
"""A real server of 300 MB needs 5 s to stop right after its start, on an idle host; systemd allows 90 s."""
ENDS_OF_A_STOP = (0, *commands.ENDS_OF_A_STOP)
"""Exit codes that systemd accepts from a server that it asked to stop."""
PARENT = '"$@" >>"$0" 2>&1 & echo $!; wait $!'
"""The parent of the main process: a shell in its own session. Unlike the first process of a cell, the program under trial can kill it, so that
such an attack is detected."""
FIRST_PROBE_SECONDS, PROBE_GROWTH, PROBE_SECONDS = 0.1, 1.15, 1.0
"""A starting server accepts connections for half a second and never answers them: short attempts first detect it earliest."""
LOCKED_TRIES, LOCKED_SECONDS = 5, 1.0
"""Older versions do not wait for a lock: a command fails while the server writes."""
MAX_BYTES, MAX_SNAPSHOT_BYTES = 1024 * 1024, 256 * 1024 * 1024
NO_PATH = "/api/t3flow/nobody-knows"
LAST_LINES = 30
PAUSE_SECONDS = 0.02


class Failed(Exception):
    """A check that the version does not pass; the text is the evidence. `slow`: it failed by a timeout alone."""

    def __init__(self, evidence: str, *, slow: bool = False) -> None:
        super().__init__(evidence)
        self.slow = slow


P = ParamSpec("P")
R = TypeVar("R")


def counted(method: Callable[Concatenate["Server", P], R]) -> Callable[Concatenate["Server", P], R]:
    """Add the seconds of each outermost call to `Server.own_seconds`: the method waits for t3, not for t3flow."""

    @functools.wraps(method)
    def call(self: "Server", /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._is_counting:
            return method(self, *args, **kwargs)
        began, self._is_counting = time.monotonic(), True
        try:
            return method(self, *args, **kwargs)
        finally:
            self._is_counting = False
            self.own_seconds += time.monotonic() - began

    return call


class Server:
    """A t3 on a base dir: its commands and, once started, its server."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.command = [*processes.LOW_PRIORITY, request["node"], request["program"]]
        self.base_dir = Path(request["base_dir"])
        self.host, self.port = request["host"], int(request["port"])
        self.start_seconds = float(request["start_timeout_s"])
        self.stop_seconds = min(STOP_SECONDS, self.start_seconds)
        self.log = Path(request["log"])
        self.parent: subprocess.Popen[bytes] | None = None
        self.answered_at = 0.0
        self.slowest_start_seconds = 0.0
        self.errors = ""
        self.own_seconds = 0.0
        self._is_counting = False

    # Commands ---------------------------------------------------------------------------------------------------------

    @counted
    def run(self, *words: str) -> str:
        """Run a command to its end and return its stdout. Raises Failed if it fails or takes too long.

        The evidence quotes the most informative line of stdout or stderr: a launcher without its platform package reports that on stderr alone.
        """
        command = f"`t3 {' '.join(words[:3])}`"
        stdout, stderr = Path(f"{self.log}.out"), Path(f"{self.log}.err")
        with (
            stdout.open("w+b") as out,
            stderr.open("w+b") as err,
        ):  # no pipes: orphans of the command would keep them open
            child = subprocess.Popen([*self.command, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            if not _ends_within(child, self.start_seconds):
                child.kill()
                child.wait()
                raise Failed(f"{command} does not end within {self.start_seconds:g} s", slow=True)
            code = child.wait()
            text, self.errors = (_beginning(file) for file in (out, err))
        if code != 0:
            line = last_line("\n".join((self.errors, text)))
            raise Failed(f"{command} ends with exit status {code}: {line}")
        stdout.unlink()
        stderr.unlink()
        return text

    def run_json(self, *words: str) -> dict[str, Any]:
        """Run a command and return the JSON object that it prints. Raises Failed."""
        for tries_left in reversed(range(LOCKED_TRIES)):
            try:
                text = self.run(*words, "--base-dir", str(self.base_dir), "--json")
                break
            except Failed as error:
                if LOCKED not in str(error) or not tries_left:
                    raise
                time.sleep(LOCKED_SECONDS)
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            line = last_line(text) if text.strip() else last_line(self.errors)
            raise Failed(f"`t3 {' '.join(words[:3])}` prints no JSON object: {line}")
        return answer

    # The server -------------------------------------------------------------------------------------------------------

    @counted
    def start(self) -> str:
        """Start the server and wait until `GET /` returns 200. Return how long that took, as evidence. Raises Failed."""
        serve = commands.serve(self.host, self.port, str(self.base_dir))
        self.log.write_bytes(b"")
        words = ["/bin/sh", "-c", PARENT, str(self.log), *self.command, *serve]
        self.parent = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
        assert self.parent.stdout is not None
        with self.parent.stdout as pid:
            pid.readline()
        began, probe_seconds = time.monotonic(), FIRST_PROBE_SECONDS
        while True:
            if self.parent.poll() is not None:
                raise Failed(self.ended())
            try:
                probe_seconds *= PROBE_GROWTH
                status = self.http("GET", "/", timeout_seconds=round(min(probe_seconds, PROBE_SECONDS), 2)).status
                if status == 200:
                    self.answered_at = time.monotonic()
                    self.slowest_start_seconds = max(self.slowest_start_seconds, self.answered_at - began)
                    return f"GET / returns 200 after {self.answered_at - began:.1f} s"
                problem = f"GET / returns {status}"
            except OSError as error:
                problem = f"GET / fails ({http_client.reason(error)})"
            if time.monotonic() - began > self.start_seconds:
                raise Failed(
                    f"the server does not start within {self.start_seconds:g} s: {problem}; log: {self.last_log_line()}",
                    slow=True,
                )
            time.sleep(PAUSE_SECONDS)

    def pids(self) -> list[int]:
        """Return the processes of the server: all descendants of the trial in any session, like those in a unit's control group."""
        assert self.parent is not None
        return [process.pid for process in processes.descendants() if process.pid != self.parent.pid]

    @counted
    def stop(self) -> str:
        """Stop the server as systemd does: SIGTERM to each process, once, and wait until all have ended. Return the exit status as evidence.

        A launcher waits for its child, or ends at once and leaves the child behind; a monitor has its own session. Raises Failed if the server
        had ended already, if a process remains, or if the main process ends with a status that systemd takes for a failure.
        """
        assert self.parent is not None
        if self.parent.poll() is not None:
            raise Failed(self.ended())
        began = time.monotonic()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        while left := processes.descendants():
            self.parent.poll()
            if time.monotonic() - began > self.stop_seconds:
                name = next((each.name for each in left if each.pid != self.parent.pid), "the server")
                raise Failed(f"{name} still runs {self.stop_seconds:g} s after SIGTERM to every process", slow=True)
            time.sleep(PAUSE_SECONDS)
        code = self.parent.wait()
        if code not in ENDS_OF_A_STOP:
            raise Failed(f"after SIGTERM the server ends with exit status {code}: {self.last_log_line()}")
        return f"exit status {code} after {time.monotonic() - began:.1f} s"

    def ended(self) -> str:
        """Return how the server ended; "" while it runs. A server that was just killed gets a moment to end."""
        if self.parent is None:
            return ""
        try:
            code = self.parent.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            return ""
        if code < 0:
            return f"the process that started the server was killed by signal {-code}"
        return f"the server ended on its own with exit status {code}: {self.last_log_line()}"

    # HTTP -------------------------------------------------------------------------------------------------------------

    @counted
    def http(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        timeout_seconds: float | None = None,
        most_bytes: int = MAX_BYTES,
    ) -> http_client.Answer:
        """Send one request and return its answer, with at most `most_bytes` of the body. Raises OSError."""
        limit = timeout_seconds or (PROBE_SECONDS if method == "GET" else min(POST_SECONDS, self.start_seconds))
        data = None if body is None else json.dumps(body).encode()
        sent = {**({} if data is None else {"Content-Type": "application/json"}), **(headers or {})}
        url = f"http://127.0.0.1:{self.port}{path}"
        return http_client.request(
            url, method=method, body=data, headers=sent, timeout_seconds=limit, max_bytes=most_bytes
        )

    def get_json(
        self,
        path: str,
        headers: dict[str, str] | None = None,
        timeout_seconds: float = POST_SECONDS,
        most_bytes: int = MAX_BYTES,
    ) -> dict[str, Any] | None:
        """Return the JSON object at a path, or None if the server does not have the path. Raises Failed, OSError.

        t3 answers every path that it does not have with the same 404 or page, as it answers a path that cannot exist. Any other answer is a failure
        of a path that it has.
        """
        answer = self.http("GET", path, None, headers, timeout_seconds, most_bytes)
        found = answer.json_object()
        if answer.status == 200 and found is not None:
            return found
        impossible = self.http("GET", NO_PATH, None, headers, POST_SECONDS)
        if (answer.status, answer.body) == (impossible.status, impossible.body):
            return None
        raise Failed(f"GET {path} returns {answer.status} without a JSON object")

    # Its log ----------------------------------------------------------------------------------------------------------

    def startup_credential(self) -> str:
        """Return the pairing credential that the server printed at its start, or ""."""
        return commands.startup_credential(self._log_text())

    def log_lines(self) -> list[str]:
        """Return the lines of the server's log that are not empty and contain no secret."""
        return secrets.harmless_lines(line for line in self._log_text().splitlines() if line.strip())

    def _log_text(self) -> str:
        try:
            descriptor = os.open(self.log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return ""
        with os.fdopen(descriptor, "rb") as log:
            return log.read(MAX_BYTES).decode(errors="replace")

    def last_log_line(self) -> str:
        """Return the most informative of the log's last lines."""
        return last_line("\n".join(self.log_lines()[-LAST_LINES:])) if self.log_lines() else "empty"


def _ends_within(child: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for a child to end, and return whether it did. `Popen.wait` with a timeout would notice the end up to 50 ms late."""
    descriptor = os.pidfd_open(child.pid)
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        return bool(waiting.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def _beginning(file: BinaryIO) -> str:
    file.seek(0)
    return file.read(MAX_BYTES).decode(errors="replace")
