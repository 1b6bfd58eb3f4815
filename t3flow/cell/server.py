"""A candidate's commands, server and HTTP answers, each within bounds of time and size. Nothing that it says is trusted to be well formed."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from t3flow.cell import watch

POST_SECONDS, STOP_SECONDS, ENDING_SECONDS = 10.0, 15.0, 0.3
ENDS_OF_A_STOP = (0, 130, 143)
"""130 and 143 are what t3 says at SIGTERM (the shell's numbers), and what systemd is told to take for success."""
PARENT = '"$@" >>"$0" 2>&1 & echo $!; wait $!'
"""The server's parent, a shell: one that the server can kill, as it cannot the first process of a cell, so that this is found out."""
FIRST_PROBE_SECONDS, PROBE_GROWTH, PROBE_SECONDS = 0.1, 1.15, 1.0
"""A server that starts accepts connections for half a second and never answers them: short tries first find it ready soonest."""
LOCKED, LOCKED_TRIES, LOCKED_SECONDS = "database is locked", 5, 1.0
"""t3 waits for no lock: a command fails when the server happens to write."""
MAX_BYTES, MAX_SNAPSHOT_BYTES = 1024 * 1024, 256 * 1024 * 1024
SECRET_LINES = re.compile(r"token|credential|pairing url|connection string|secret|bearer", re.IGNORECASE)
ERROR_LINES = re.compile(r"\bERROR\b|\w*Error: ")
LISTENING = "0A"
SAMPLE_SECONDS = 0.02


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
        self.log = Path(request["log"])
        self.parent: subprocess.Popen[bytes] | None = None
        self.server_pid = 0
        self.answered_at = 0.0

    # Commands ---------------------------------------------------------------------------------------------------------

    def run(self, *words: str) -> str:
        """What a command prints, to its end. Raises Failed when it fails or takes too long."""
        what = f"`t3 {' '.join(words[:3])}`"
        output = Path(f"{self.log}.out")
        with output.open("w+b") as file:  # no pipe: it would stay open for as long as anything that the command left
            child = subprocess.Popen(
                [*self.command, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.DEVNULL
            )
            try:
                code = child.wait(self.start_seconds)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                raise Failed(f"{what} does not end within {self.start_seconds:g} s", slow=True) from None
            file.seek(0)
            text = file.read(MAX_BYTES).decode(errors="replace")
        if code != 0:
            raise Failed(f"{what} ends with exit code {code}: {last_line(text)}")
        output.unlink()
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
            raise Failed(f"`t3 {' '.join(words[:3])}` prints no JSON object but: {last_line(text)}")
        return answer

    # The server -------------------------------------------------------------------------------------------------------

    def start(self) -> str:
        """Starts the server and waits until `GET /` answers 200. Returns how long that took, as evidence. Raises Failed."""
        where = ["--host", self.host, "--port", str(self.port), "--base-dir", str(self.base_dir)]
        self.log.write_bytes(b"")
        words = ["/bin/sh", "-c", PARENT, str(self.log), *self.command, "serve", *where]
        self.parent = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self.parent.stdout is not None
        with self.parent.stdout as said:
            self.server_pid = int(said.readline())
        began, patience = time.monotonic(), FIRST_PROBE_SECONDS
        while True:
            if self.parent.poll() is not None:
                raise Failed(self.ended())
            try:
                patience *= PROBE_GROWTH
                status, _, _ = self.http("GET", "/", timeout_seconds=min(patience, PROBE_SECONDS))
                if status == 200:
                    self.answered_at = time.monotonic()
                    return f"GET / answers 200 after {self.answered_at - began:.1f} s"
                problem = f"GET / answers {status}"
            except (OSError, http.client.HTTPException) as error:
                problem = f"GET / has no answer ({type(error).__name__})"
            if time.monotonic() - began > self.start_seconds:
                raise Failed(f"{problem} within {self.start_seconds:g} s: {self.last_log_line()}", slow=True)
            time.sleep(0.05)

    def stop(self) -> str:
        """Asks the server to stop, as its manager does. Returns its exit code as evidence.

        Raises Failed when it was gone, does not go, or goes with a code of another cause (it may have ended by itself just then).
        """
        assert self.parent is not None
        if self.parent.poll() is not None:
            raise Failed(self.ended())
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.server_pid, signal.SIGTERM)
        try:
            code = self.parent.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failed(f"the server does not stop within {STOP_SECONDS:g} s of SIGTERM") from None
        if code not in ENDS_OF_A_STOP:
            raise Failed(f"asked to stop, the server ends with exit code {code}: {self.last_log_line()}")
        return f"exit code {code}"

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
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One request: status, headers, the first part of the body. Raises OSError, HTTPException."""
        limit = timeout_seconds or (PROBE_SECONDS if method == "GET" else min(POST_SECONDS, self.start_seconds))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=limit)
        try:
            data = json.dumps(body) if body is not None else None
            sent = {"Content-Type": "application/json", **(headers or {})} if data else headers or {}
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            return response.status, response.headers, _read(response, most_bytes, limit)
        finally:
            connection.close()

    def get_json(
        self,
        path: str,
        headers: dict[str, str] | None = None,
        timeout_seconds: float = POST_SECONDS,
        most_bytes: int = MAX_BYTES,
    ) -> dict[str, Any]:
        """The JSON object at a path. Raises Failed, OSError, HTTPException."""
        status, _, body = self.http("GET", path, None, headers, timeout_seconds, most_bytes)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if status != 200 or not isinstance(answer, dict):
            raise Failed(f"GET {path} answers {status} and no JSON object")
        return answer

    # Its log ----------------------------------------------------------------------------------------------------------

    def log_lines(self) -> list[str]:
        """The lines of the server's log that say something and hold no secret."""
        try:
            descriptor = os.open(self.log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return []
        with os.fdopen(descriptor, "rb") as log:
            text = log.read(MAX_BYTES).decode(errors="replace")
        return [line for line in text.splitlines() if line.strip() and not SECRET_LINES.search(line)]

    def last_log_line(self) -> str:
        """The last of them."""
        return (self.log_lines() or ["no log"])[-1].strip()[:200]


def _read(response: http.client.HTTPResponse, most_bytes: int, limit_seconds: float) -> bytes:
    """The body, as far as it comes in time: a server may send a byte a second for ever."""
    deadline = time.monotonic() + limit_seconds
    parts: list[bytes] = []
    size = 0
    while size < most_bytes and (part := response.read1(min(65536, most_bytes - size))):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise TimeoutError("the answer does not end")
    return b"".join(parts)


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


def last_line(text: str) -> str:
    """The line that tells most and holds no secret: the first that names an error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR_LINES.search(line)]
    harmless = [line for line in lines if not SECRET_LINES.search(line)]
    return next(iter([*errors, *reversed(harmless)]), "nothing")[:200]
