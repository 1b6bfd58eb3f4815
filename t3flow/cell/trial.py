"""The trial of a candidate on one copy of a database, inside a cell, as the unprivileged account.

usage: python -m t3flow.cell.trial < REQUEST   (one JSON document)
       → one JSON document {"checks": [{"name", "ok", "evidence"}], "level", "schema", "live", "slow", "used"}

In a cell it is the first process of its namespace: what the candidate leaves behind comes to it, no signal of the candidate's reaches it,
and all of it ends with it. The order of the checks is that of a user's day: the program says its version, starts on the database, answers,
pairs, shows real rows, rests, stops when asked, starts again on what it has migrated; and the database has lost nothing.
"""

import ctypes
import errno
import http.client
import json
import re
import signal
import stat
import sys
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any

from t3flow.cell import watch
from t3flow.cell.database import Facts, Unreadable, lost_rows, read_facts, schemas, worse_integrity
from t3flow.cell.server import MAX_SNAPSHOT_BYTES, Candidate, Failed, busy_cores, listening_ports
from t3flow.t3 import files

PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36
CALM_CORES, CALM_SECONDS = 0.5, 0.4
UP_SECONDS = 1.2
"""How long the server has to last before it is asked to stop: however fast the checks are, one that ends soon after its start is found out."""
GONE_SECONDS = 2.0
ERROR_LINE = re.compile(r"\b(ERROR|FATAL)\b")
LEVELLED_LINE = re.compile(r"\b(TRACE|DEBUG|INFO|WARN|WARNING|ERROR|FATAL)\b")
MIGRATION = re.compile(r"migrat", re.IGNORECASE)
FAILED_MIGRATION = re.compile(r"migrat.*\b(error|fail\w*)\b|\b\w*(error|fail\w*)\b.*migrat", re.IGNORECASE)
BARE_ERROR = re.compile(r"^\s*(uncaught )?\w*(error|exception)\b.*migrat|migration\S* \S+ failed", re.IGNORECASE)
BEARER_KEYS = ("token", "sessionToken", "access_token", "accessToken")
HOST_ERRORS = {errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO}
"""What this process itself meets when the host has no more processes, memory or disk to give."""


class NotHeld(Exception):
    """The trial could not go on, by no fault of the candidate's."""


class Trial:
    """One candidate on one copy of a database. Each check returns its evidence or raises Failed."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.candidate = Candidate(request)
        self.base_dir = self.candidate.base_dir
        self.database = self.base_dir / "userdata" / "state.sqlite"
        self.deadline = time.monotonic() + float(request["limit_s"])
        self.before = Facts()
        self.after = Facts()
        self.live: list[str] = []
        self.credential = ""
        self.cookie = ""

    def says_its_version(self) -> str:
        """Under a wrong Node t3 prints nothing and exits 0: the output is required, never the exit code alone."""
        text = self.candidate.run("--version").strip()
        wanted = f"t3 v{self.request['version']}"
        if text != wanted:
            printed = repr(text[:80]) if text else "nothing (is the Node too old for it?)"
            raise Failed(f"`t3 --version` prints {printed}, not {wanted!r}")
        return text

    def answers(self) -> str:
        """The server starts on the database, which it migrates, and `GET /` is 200."""
        return self.candidate.start()

    def runs_its_own_code(self) -> str:
        """The server says the version of the code that it runs."""
        said = self.candidate.get_json("/.well-known/t3/environment").get("serverVersion")
        if said != self.request["version"]:
            raise Failed(f"the server says it is {said!r}")
        return f"serverVersion {said}"

    def mints(self) -> str:
        """A pairing credential, as the dispatch gets it."""
        credential = self.candidate.run_json("auth", "pairing", "create", "--ttl", "5m").get("credential")
        if not isinstance(credential, str) or not credential:
            raise Failed("`t3 auth pairing create` prints no credential")
        self.credential = credential
        return "a credential"

    def exchanges(self) -> str:
        """The credential becomes the cookie that the dispatch hands on, at one of the endpoints that it knows."""
        wanted = self.request["cookie"]
        if self.request["host"] == "127.0.0.1":  # bound to loopback t3 names its cookie otherwise: ask it
            wanted = self.candidate.get_json("/api/auth/session").get("auth", {}).get("sessionCookieName", wanted)
        for endpoint in self.request["endpoints"]:
            status, headers, _ = self.candidate.http("POST", endpoint, {"credential": self.credential})
            if status == 404:
                continue
            if status != 200:
                raise Failed(f"POST {endpoint} answers {status}")
            self.cookie = _cookie(headers, wanted, endpoint)
            return f"POST {endpoint} sets {wanted}"
        endpoints = ", ".join(self.request["endpoints"])
        raise Failed(f"no pairing endpoint answers ({endpoints}: all 404); see dispatch.pair_endpoints")

    def authenticates(self) -> str:
        """The session that the cookie opens is a good one."""
        if self.candidate.get_json("/api/auth/session", {"Cookie": self.cookie}).get("authenticated") is not True:
            raise Failed("the session that the cookie opens is not authenticated")
        return "authenticated"

    def reads_rows(self) -> str:
        """Real rows come through the server's own API: a build once passed every cheaper check and could not decode them."""
        issued = self.candidate.run_json("auth", "session", "issue")
        bearer = next((issued[key] for key in BEARER_KEYS if isinstance(issued.get(key), str)), None)
        if not bearer:
            raise Failed("`t3 auth session issue` prints no token")
        headers = {"Authorization": f"Bearer {bearer}"}
        path = "/api/orchestration/snapshot"
        shown = self.candidate.get_json(path, headers, self.candidate.start_seconds, MAX_SNAPSHOT_BYTES)
        for kind, expected in self.before.live.items():
            rows = shown.get(kind)
            if not isinstance(rows, list) or len(rows) < expected:
                found = f"{len(rows)} of" if isinstance(rows, list) else "none of"
                raise Failed(f"GET {path} shows {found} {expected} {kind}")
        return ", ".join(f"{len(shown[kind])} {kind}" for kind in self.before.live) or "a snapshot"

    def rests(self) -> str:
        """While nobody asks anything it leaves the processors alone, at the latest when a server must have started; and it stays up."""
        patience = time.monotonic() + self.candidate.start_seconds
        up_by = self.candidate.answered_at + UP_SECONDS
        while (busy := busy_cores(max(CALM_SECONDS, up_by - time.monotonic()))) > CALM_CORES:
            if time.monotonic() > patience:
                raise Failed(f"it keeps {busy:.1f} cores busy while nobody asks it anything")
        return f"{busy:.2f} cores"

    def keeps_to_its_port(self) -> str:
        """Nothing listens but the server on its port. Told only in a network of its own."""
        if not self.request["isolated"]:
            return "not looked at: the network is the host's"
        others = listening_ports() - {self.candidate.port}
        if others:
            raise Failed(f"something listens on port {min(others)} too")
        return f"port {self.candidate.port} alone"

    def logs_no_migration_error(self) -> str:
        """Lines of the levels ERROR and FATAL about migrations; a line without a level belongs to the one before it."""
        level = ""
        for line in self.candidate.log_lines():
            begins = LEVELLED_LINE.search(line[:60]) is not None
            if begins:
                level = "error" if ERROR_LINE.search(line[:60]) else "fine"
            trouble = BARE_ERROR if level == "" else MIGRATION if begins else FAILED_MIGRATION
            if level != "fine" and trouble.search(line):
                raise Failed(f"the log says: {line.strip()[:200]}")
        return "nothing in the log"

    def stops(self) -> str:
        """The server stops when asked, as its manager asks."""
        userdata = files.userdata(self.base_dir)
        self.live = files.live_databases([each.pid for each in watch.below()], userdata, files.databases(userdata))
        return self.candidate.stop()

    def leaves_nothing(self) -> str:
        """No process, and in the base dir nothing but plain files and folders without special bits."""
        deadline = time.monotonic() + GONE_SECONDS
        while left := watch.below():
            if time.monotonic() > deadline:
                raise Failed(f"after the stop {left[0].name} (pid {left[0].pid}) still runs")
            time.sleep(0.02)
        if not self.base_dir.is_dir():
            raise Failed("the base dir is gone")
        for entry in watch.files(str(self.base_dir)):
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                raise Failed(f"it made a setuid file: {entry.name}")
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode) or stat.S_ISSOCK(mode)):
                raise Failed(f"it made a device or pipe: {entry.name}")
        return "no process, no odd file"

    def starts_again(self) -> str:
        """A migration may work once and then crash at each start: so a second start, and a second pairing."""
        evidence = self.candidate.start()
        for check in (self.mints, self.exchanges, self.authenticates, self.logs_no_migration_error):
            check()
        return f"{evidence}, and pairs"

    def stops_again(self) -> str:
        """As before, and leaves nothing again."""
        evidence = self.candidate.stop()
        self.leaves_nothing()
        return evidence

    def keeps_integrity(self) -> str:
        """The migrated copy passes SQLite's own checks no worse than before."""
        if not self.database.exists():
            raise Failed("the database is gone")
        try:
            self.after = read_facts(self.database, self.deadline)
        except Unreadable as error:
            raise Failed(f"the migrated database cannot be read: {error}") from error
        if worse := worse_integrity(self.before, self.after):
            raise Failed(worse)
        if self.after.level < self.before.level:
            raise Failed(f"schema level {self.after.level}, {self.before.level} before")
        return f"level {self.before.level} → {self.after.level}, no new fault"

    def keeps_rows(self) -> str:
        """No table but those of the pairing lost rows."""
        if lost := lost_rows(self.before, self.after):
            raise Failed(f"rows were lost: {lost}")
        return f"{sum(self.before.rows.values())} rows in {len(self.before.rows)} tables, none fewer"

    # ------------------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """All checks in order, up to the first that fails."""
        checks: list[Callable[[], str]] = [
            *(self.says_its_version, self.answers, self.runs_its_own_code, self.mints, self.exchanges),
            *(self.authenticates, self.reads_rows, self.rests, self.keeps_to_its_port, self.logs_no_migration_error),
            *(self.stops, self.leaves_nothing, self.starts_again, self.stops_again),
            *(self.keeps_integrity, self.keeps_rows),
        ]
        self.before = read_facts(self.database, self.deadline)
        bounds = watch.Watch(self.request["bounds"])
        try:
            bounds.start()
        except RuntimeError as error:
            raise NotHeld(f"the host gave out before the trial: {error}") from error
        results: list[dict[str, Any]] = []
        slow = False
        try:
            for check in checks:
                try:
                    evidence = check()
                    if bounds.broken:
                        raise Failed(bounds.broken)
                    results.append({"name": check.__name__, "ok": True, "evidence": clean(evidence)})
                except (Failed, OSError, http.client.HTTPException, ValueError) as error:
                    bounds.stop()
                    if isinstance(error, OSError) and error.errno in HOST_ERRORS and not bounds.broken:
                        raise NotHeld(f"the host gave out in {check.__name__}: {error.strerror}") from error
                    slow = isinstance(error, TimeoutError) or (isinstance(error, Failed) and error.slow)
                    if not isinstance(error, Failed):
                        error = Failed(self.candidate.ended() or f"no answer ({type(error).__name__}: {error})")
                    evidence = clean(bounds.broken or str(error))
                    results.append({"name": check.__name__, "ok": False, "evidence": evidence})
                    break
        finally:
            bounds.stop()
            watch.end_all()
        return {
            "checks": results,
            "level": self.after.level or self.level_reached(),
            "schema": schemas(files.userdata(self.base_dir), self.deadline),
            "live": self.live,
            "slow": slow,
            "used": bounds.most,
        }

    def level_reached(self) -> int:
        """The schema level that a failed trial left; 0 where there is none to read."""
        try:
            return read_facts(self.database, self.deadline).level
        except (Unreadable, OSError):
            return 0


def _cookie(headers: http.client.HTTPMessage, wanted: str, endpoint: str) -> str:
    """The wanted cookie as it is sent back. Raises Failed without it."""
    jar: SimpleCookie = SimpleCookie()
    for header in headers.get_all("Set-Cookie", []):
        try:
            jar.load(header)
        except CookieError:
            continue
    if wanted not in jar or not jar[wanted].value:
        raise Failed(f"POST {endpoint} sets no cookie {wanted}, but {', '.join(jar) or 'none'}")
    return f"{wanted}={jar[wanted].value}"


def clean(text: str) -> str:
    """A line for the journal: what looks like a credential or a token is taken out."""
    return re.sub(r"\b[2-9A-HJ-NP-Z]{12}\b|[\w-]{20,}\.[\w-]{20,}", "…", " ".join(text.split()))[:400]


def main() -> int:
    """Reads the request, holds the trial, writes what came of it."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # the candidate has the same account, and must not reach into this process
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = json.load(sys.stdin)
    try:
        answer = Trial(request).run()
    except Unreadable as error:
        answer = {"problem": f"the copy cannot be read: {error}"}
    except NotHeld as error:
        answer = {"problem": str(error)}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
