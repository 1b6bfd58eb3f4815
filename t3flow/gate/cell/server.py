"""A candidate's commands, server and HTTP answers, each within bounds of time and size. Nothing that it says is trusted to be well formed."""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, BinaryIO

from t3flow.gate.cell.output import LOCKED, has_secret, last_line
from t3flow.host import http_client
from t3flow.host.cells import watch
from t3flow.t3 import commands

POST_SECONDS, STOP_SECONDS, ENDING_SECONDS = 10.0, 20.0, 0.3
"""A real server of 300 MB needs 5 s to stop when it has just started, on an idle host; systemd gives it 90."""
ENDS_OF_A_STOP = (0, *commands.ENDS_OF_A_STOP)
"""Exit codes that systemd takes for success after it has asked a server to stop."""
PARENT = '"$@" >>"$0" 2>&1 & echo $!; wait $!'
"""The parent of the main process, a shell in a session of its own: one that the candidate can kill, as it cannot the first process of a cell,
so that this is found out."""
FIRST_PROBE_SECONDS, PROBE_GROWTH, PROBE_SECONDS = 0.1, 1.15, 1.0
"""A server that starts accepts connections for half a second and never answers them: short tries first find it ready soonest."""
LOCKED_TRIES, LOCKED_SECONDS = 5, 1.0
"""Older builds wait for no lock: a command fails when the server happens to write."""
MAX_BYTES, MAX_SNAPSHOT_BYTES = 1024 * 1024, 256 * 1024 * 1024
NO_PATH = "/api/t3flow/nobody-knows"
LISTENING = "0A"
LAST_LINES = 30
SAMPLE_SECONDS = STOP_PAUSE_SECONDS = 0.02


class Failed(Exception):
    """A check that the candidate does not pass: the text is its evidence. `slow`: only because its time was over."""

    def __init__(self, evidence: str, *, slow: bool = False) -> None:
        super().__init__(evidence)
        self.slow = slow


class Candidate:
    """A program, the base dir that it works on, and (once started) its server."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.command = [*watch.GENTLY, request["node"], request["program"]]
        self.base_dir = Path(request["base_dir"])
        self.host, self.port = request["host"], int(request["port"])
        self.start_seconds = float(request["start_timeout_s"])
        self.stop_seconds = min(STOP_SECONDS, self.start_seconds)
        self.log = Path(request["log"])
        self.parent: subprocess.Popen[bytes] | None = None
        self.answered_at = 0.0
        self.slowest_start_seconds = 0.0
        self.complaint = ""

    # Commands ---------------------------------------------------------------------------------------------------------

    def run(self, *words: str) -> str:
        """Return what a command prints on stdout, once it has ended. Raises Failed when it fails or takes too long.

        The reason has the line that tells most of its output or its stderr: a launcher without its platform package says so there alone.
        """
        what = f"`t3 {' '.join(words[:3])}`"
        said, errors = Path(f"{self.log}.out"), Path(f"{self.log}.err")
        with (
            said.open("w+b") as out,
            errors.open("w+b") as err,
        ):  # no pipes: what the command leaves would keep them open
            child = subprocess.Popen([*self.command, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            try:
                code = child.wait(self.start_seconds)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                raise Failed(f"{what} does not end within {self.start_seconds:g} s", slow=True) from None
            text, self.complaint = (_beginning(file) for file in (out, err))
        if code != 0:
            told = last_line("\n".join((self.complaint, text)))
            raise Failed(f"{what} ends with exit code {code}: {told}")
        said.unlink()
        errors.unlink()
        return text

    def run_json(self, *words: str) -> dict[str, Any]:
        """The JSON object that a command prints. Raises Failed."""
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
            told = last_line(text) if text.strip() else last_line(self.complaint)
            raise Failed(f"`t3 {' '.join(words[:3])}` prints no JSON object but: {told}")
        return answer

    # The server -------------------------------------------------------------------------------------------------------

    def start(self) -> str:
        """Starts the server and waits until `GET /` answers 200. Returns how long that took, as evidence. Raises Failed."""
        serve = commands.serve(self.host, self.port, str(self.base_dir))
        self.log.write_bytes(b"")
        words = ["/bin/sh", "-c", PARENT, str(self.log), *self.command, *serve]
        self.parent = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
        assert self.parent.stdout is not None
        with self.parent.stdout as said:
            said.readline()
        began, patience = time.monotonic(), FIRST_PROBE_SECONDS
        while True:
            if self.parent.poll() is not None:
                raise Failed(self.ended())
            try:
                patience *= PROBE_GROWTH
                status = self.http("GET", "/", timeout_seconds=min(patience, PROBE_SECONDS)).status
                if status == 200:
                    self.answered_at = time.monotonic()
                    self.slowest_start_seconds = max(self.slowest_start_seconds, self.answered_at - began)
                    return f"GET / answers 200 after {self.answered_at - began:.1f} s"
                problem = f"GET / answers {status}"
            except OSError as error:
                problem = f"GET / has no answer ({http_client.reason(error)})"
            if time.monotonic() - began > self.start_seconds:
                raise Failed(f"{problem} within {self.start_seconds:g} s: {self.last_log_line()}", slow=True)
            time.sleep(0.05)

    def pids(self) -> list[int]:
        """Return the processes of the server: all that descend from the trial, as a unit's control group has them, sessions of their own or not."""
        assert self.parent is not None
        return [process.pid for process in watch.below() if process.pid != self.parent.pid]

    def stop(self) -> str:
        """Ask the server to stop as systemd does: SIGTERM to each process, once, and wait until all have ended. Return the exit code as evidence.

        A launcher blocks until its child ends, or dies at once and leaves the child behind; a monitor has a session of its own. Raises Failed
        when the server was gone, when any process stays, or when the main process ends with a code of another cause.
        """
        assert self.parent is not None
        if self.parent.poll() is not None:
            raise Failed(self.ended())
        began = time.monotonic()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        while left := watch.below():
            self.parent.poll()
            if time.monotonic() - began > self.stop_seconds:
                name = next((each.name for each in left if each.pid != self.parent.pid), "the server")
                raise Failed(f"{name} still runs {self.stop_seconds:g} s after SIGTERM to every process", slow=True)
            time.sleep(STOP_PAUSE_SECONDS)
        code = self.parent.wait()
        if code not in ENDS_OF_A_STOP:
            raise Failed(f"asked to stop, the server ends with exit code {code}: {self.last_log_line()}")
        return f"exit code {code} after {time.monotonic() - began:.1f} s"

    def ended(self) -> str:
        """How the server ended; "" while it runs. One that has just been cut off gets a moment to do so."""
        if self.parent is None:
            return ""
        try:
            code = self.parent.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            return ""
        if code < 0:
            return f"the process that started the server was ended with signal {-code}"
        return f"the server ended on its own with exit code {code}: {self.last_log_line()}"

    # HTTP -------------------------------------------------------------------------------------------------------------

    def http(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        timeout_seconds: float | None = None,
        most_bytes: int = MAX_BYTES,
    ) -> http_client.Answer:
        """Return the answer to one request. Raise OSError without one."""
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
        """Return the JSON object at a path, or None where the server does not have the path. Raise Failed, OSError.

        A t3 answers a path that it does not have with 404 or with its page: as it answers one that nobody can know. Anything else is a failure
        of a path that it has.
        """
        answer = self.http("GET", path, None, headers, timeout_seconds, most_bytes)
        found = answer.json_object()
        if answer.status == 200 and found is not None:
            return found
        unknown = self.http("GET", NO_PATH, None, headers, POST_SECONDS)
        if (answer.status, answer.body) == (unknown.status, unknown.body):
            return None
        raise Failed(f"GET {path} answers {answer.status} and no JSON object")

    # Its log ----------------------------------------------------------------------------------------------------------

    def startup_credential(self) -> str:
        """Return the pairing credential that the server printed at its start; "" for none."""
        return commands.startup_credential(self._log_text())

    def log_lines(self) -> list[str]:
        """The lines of the server's log that say something and hold no secret."""
        return [line for line in self._log_text().splitlines() if line.strip() and not has_secret(line)]

    def _log_text(self) -> str:
        try:
            descriptor = os.open(self.log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return ""
        with os.fdopen(descriptor, "rb") as log:
            return log.read(MAX_BYTES).decode(errors="replace")

    def last_log_line(self) -> str:
        """Return the line of the log's end that tells most."""
        return last_line("\n".join(self.log_lines()[-LAST_LINES:])) if self.log_lines() else "no log"


def _beginning(file: BinaryIO) -> str:
    file.seek(0)
    return file.read(MAX_BYTES).decode(errors="replace")


def listening_ports() -> set[int]:
    """The TCP ports on which anything listens in this network namespace."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING:
                    found.add(int(fields[1].rpartition(":")[2], 16))
    return found


def busy_cores(window_seconds: float) -> float:
    """How many cores the processes below this one want over so long. On a busy host it is chance how much of that they get."""
    counts = []
    end = time.monotonic() + window_seconds
    while time.monotonic() < end:
        counts.append(sum(process.running_threads() for process in watch.below()))
        time.sleep(SAMPLE_SECONDS)
    return sum(counts) / max(1, len(counts))
