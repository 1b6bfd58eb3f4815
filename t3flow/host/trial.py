"""The trial of a candidate on one copy of a database: a program of its own, of the standard library only, run as the unprivileged account.

usage: trial.py < REQUEST   (one JSON document)   → one JSON document {"passed": BOOL, "checks": [{"name", "ok", "evidence"}]}

The order is a user's: the program says its version, starts on the database, answers, mints a credential, takes it for a cookie, knows the
session that the cookie opens, has logged no trouble with migrations, and stops when asked.
"""

import contextlib
import http.client
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

PROBE_SECONDS = 1.0
COMMAND_SECONDS = 60.0
STOP_SECONDS = 15.0
MAX_BYTES = 1024 * 1024
SECRET_LINES = re.compile(r"token|credential|pairing url|connection string|secret|bearer", re.IGNORECASE)
MIGRATION_TROUBLE = re.compile(
    r"migrat.*\b(error|fail\w*|exception)\b|\b(error|fail\w*|exception)\b.*migrat", re.IGNORECASE
)


class Failed(Exception):
    """A check that the candidate does not pass: the text is its evidence."""


class Trial:
    """One candidate on one copy of a database."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.command = [request["node"], request["program"]]
        self.base_dir = Path(request["base_dir"])
        self.log = Path(request["log"])
        self.deadline = time.monotonic() + request["start_timeout_s"]
        self.server: subprocess.Popen[bytes] | None = None
        self.credential = ""
        self.cookie = ""

    # Checks: each returns its evidence or raises Failed --------------------------------------------------------

    def says_its_version(self) -> str:
        text = self._run("--version").strip()
        wanted = f"t3 v{self.request['version']}"
        if text != wanted:
            printed = repr(text[:80]) if text else "nothing (is the Node too old for it?)"
            raise Failed(f"`t3 --version` prints {printed}, not {wanted!r}")
        return text

    def starts(self) -> str:
        words = [
            "serve",
            "--host",
            self.request["host"],
            "--port",
            str(self.request["port"]),
            "--base-dir",
            str(self.base_dir),
        ]
        with self.log.open("wb") as log:
            self.server = subprocess.Popen([*self.command, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        began = time.monotonic()
        while True:
            if self.server.poll() is not None:
                raise Failed(f"the server ended with exit code {self.server.returncode}: {self._last_log_line()}")
            try:
                status, _, _ = self._http("GET", "/")
                if status == 200:
                    return f"GET / answers 200 after {time.monotonic() - began:.1f} s"
                problem = f"GET / answers {status}"
            except OSError as error:
                problem = f"GET / has no answer ({type(error).__name__})"
            if time.monotonic() > self.deadline:
                raise Failed(f"{problem} within {self.request['start_timeout_s']} s: {self._last_log_line()}")
            time.sleep(0.05)

    def runs_its_own_code(self) -> str:
        said = self._json("/.well-known/t3/environment").get("serverVersion")
        if said != self.request["version"]:
            raise Failed(f"the server says it is {said!r}")
        return f"serverVersion {said}"

    def mints(self) -> str:
        text = self._run("auth", "pairing", "create", "--base-dir", str(self.base_dir), "--ttl", "5m", "--json")
        try:
            self.credential = json.loads(text)["credential"]
        except (ValueError, KeyError, TypeError):
            raise Failed(f"`auth pairing create` prints no credential: {last_line(text)}") from None
        return "a credential"

    def pairs(self) -> str:
        wanted = self.request["cookie"]
        if self.request["host"] == "127.0.0.1":  # bound to loopback t3 names its cookie otherwise: ask it
            wanted = self._json("/api/auth/session").get("auth", {}).get("sessionCookieName", wanted)
        for endpoint in self.request["endpoints"]:
            status, headers, _ = self._http("POST", endpoint, {"credential": self.credential})
            if status == 404:
                continue
            if status != 200:
                raise Failed(f"POST {endpoint} answers {status}")
            jar: SimpleCookie = SimpleCookie()
            for header in headers.get_all("Set-Cookie", []):
                jar.load(header)
            if wanted not in jar:
                raise Failed(f"POST {endpoint} sets no cookie {wanted}, but {', '.join(jar) or 'none'}")
            self.cookie = f"{wanted}={jar[wanted].value}"
            return f"POST {endpoint} sets {wanted}"
        raise Failed(
            f"no pairing endpoint answers ({', '.join(self.request['endpoints'])}: all 404); see dispatch.pair_endpoints"
        )

    def knows_the_session(self) -> str:
        if self._json("/api/auth/session", {"Cookie": self.cookie}).get("authenticated") is not True:
            raise Failed("the session that the cookie opens is not authenticated")
        return "authenticated"

    def logs_no_migration_trouble(self) -> str:
        for line in self._log_lines():
            if MIGRATION_TROUBLE.search(line):
                raise Failed(f"the log says: {line[:200]}")
        return "nothing in the log"

    def stops(self) -> str:
        assert self.server is not None
        if self.server.poll() is not None:
            raise Failed(
                f"the server ended on its own with exit code {self.server.returncode}: {self._last_log_line()}"
            )
        self.server.send_signal(signal.SIGTERM)
        try:
            code = self.server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failed(f"the server does not stop within {STOP_SECONDS:g} s of SIGTERM") from None
        return f"exit code {code}"

    # ----------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """All checks in order, up to the first that fails."""
        checks: list[Callable[[], str]] = [
            self.says_its_version,
            self.starts,
            self.runs_its_own_code,
            self.mints,
            self.pairs,
            self.knows_the_session,
            self.logs_no_migration_trouble,
            self.stops,
        ]
        results = []
        try:
            for check in checks:
                try:
                    results.append({"name": check.__name__, "ok": True, "evidence": check()})
                except (Failed, OSError, http.client.HTTPException) as error:
                    evidence = (
                        str(error) if isinstance(error, Failed) else f"no answer ({type(error).__name__}: {error})"
                    )
                    results.append({"name": check.__name__, "ok": False, "evidence": clean(evidence)})
                    break
        finally:
            if self.server is not None and self.server.poll() is None:
                self.server.kill()
                self.server.wait()
        return {"passed": all(result["ok"] for result in results), "checks": results, "level": self._level()}

    def _level(self) -> int:
        """The schema level that the database is at now; 0 where there is none to read."""
        try:
            with contextlib.closing(sqlite3.connect(self.base_dir / "userdata" / "state.sqlite")) as connection:
                return int(connection.execute("select max(migration_id) from effect_sql_migrations").fetchone()[0])
        except (sqlite3.Error, TypeError, ValueError):
            return 0

    def _run(self, *words: str) -> str:
        try:
            finished = subprocess.run(
                [*self.command, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"`t3 {words[0]}` does not end within {COMMAND_SECONDS:g} s") from None
        text = finished.stdout[:MAX_BYTES].decode(errors="replace")
        if finished.returncode != 0:
            raise Failed(f"`t3 {' '.join(words[:3])}` ends with exit code {finished.returncode}: {last_line(text)}")
        return text

    def _http(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.request["port"], timeout=PROBE_SECONDS if method == "GET" else 10.0
        )
        try:
            data = json.dumps(body) if body is not None else None
            connection.request(
                method, path, data, {"Content-Type": "application/json", **(headers or {})} if data else headers or {}
            )
            response = connection.getresponse()
            return response.status, response.headers, response.read(MAX_BYTES)
        finally:
            connection.close()

    def _json(self, path: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
        status, _, body = self._http("GET", path, None, headers)
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if status != 200 or not isinstance(answer, dict):
            raise Failed(f"GET {path} answers {status} and no JSON object")
        return answer

    def _log_lines(self) -> list[str]:
        with self.log.open("rb") as log:
            text = log.read(MAX_BYTES).decode(errors="replace")
        return [line for line in text.splitlines() if line.strip() and not SECRET_LINES.search(line)]

    def _last_log_line(self) -> str:
        return (self._log_lines() or ["no log"])[-1].strip()[:200]


def last_line(text: str) -> str:
    """The last line that says something and holds no secret."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not SECRET_LINES.search(line)]
    return lines[-1][:200] if lines else "nothing"


def clean(text: str) -> str:
    """A line for the journal: what looks like a credential or a token is taken out."""
    return re.sub(r"\b[2-9A-HJ-NP-Z]{12}\b|[\w-]{20,}\.[\w-]{20,}", "…", " ".join(text.split()))[:400]


if __name__ == "__main__":
    json.dump(Trial(json.load(sys.stdin)).run(), sys.stdout)
