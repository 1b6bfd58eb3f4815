"""The trial of a candidate on one copy of a state, inside a cell, as the unprivileged account.

usage: python -m t3flow.gate.cell.trial < REQUEST   (one JSON document)
       → one JSON document {"checks": [{"name", "ok", "evidence"}], "level", "schema", "live", "slow", "started_s", "unknown", "used"}

In a cell it is the first process of its namespace: what the candidate leaves behind comes to it, no signal of the candidate's reaches it,
and all of it ends with it. The order of the checks is that of a user's day: the program says its version, starts on the state, answers,
pairs two browsers, shows real rows, rests, stops when asked, starts again on what it has migrated; and the state has lost nothing.

A check fails by what the candidate breaks. Where the candidate does something in a way that t3flow does not know, there is no verdict
(`unknown` says what): a live database of another name or with other tables, paths that are not there. docs/gate.md has the rule.
"""

import ctypes
import errno
import json
import signal
import stat
import sys
import time
from collections.abc import Callable
from typing import Any

from t3flow.gate.cell import browser, log
from t3flow.gate.cell.database import Unreadable
from t3flow.gate.cell.output import clean, last_line
from t3flow.gate.cell.server import MAX_SNAPSHOT_BYTES, Candidate, Failed, busy_cores, listening_ports
from t3flow.gate.cell.state import State
from t3flow.host import http_client
from t3flow.host.cells import watch
from t3flow.t3 import commands, rows
from t3flow.t3 import http as t3_http
from t3flow.t3.unknown import Unknown

PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36
CALM_CORES, CALM_SECONDS = 0.5, 0.4
UP_SECONDS = 1.2
"""How long the server has to last before it is asked to stop: however fast the checks are, one that ends soon after its start is found out."""
GONE_SECONDS = 2.0
HOST_ERRORS = {errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO}
"""What this process itself meets when the host has no more processes, memory or disk to give."""


class NotHeld(Exception):
    """The trial could not go on, by no fault of the candidate's."""


class Trial:
    """One candidate on one copy of a state. Each check returns its evidence or raises Failed, or Unknown."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.candidate = Candidate(request)
        self.base_dir = self.candidate.base_dir
        self.state = State(self.base_dir, time.monotonic() + float(request["limit_s"]))
        self.credential = ""
        self.cookie_name = ""
        self.cookie = ""

    def says_its_version(self) -> str:
        """Under a wrong Node t3 prints nothing and exits 0: the output is required, never the exit code alone."""
        text = self.candidate.run(*commands.VERSION).strip()
        wanted = commands.version_line(self.request["version"])
        if text != wanted:
            complaint = last_line(self.candidate.complaint) if self.candidate.complaint.strip() else ""
            printed = repr(text[:80]) if text else f"nothing ({complaint or 'is the Node too old for it?'})"
            raise Failed(f"`t3 {' '.join(commands.VERSION)}` prints {printed}, not {wanted!r}")
        return text

    def answers(self) -> str:
        """The server starts on the state, which it migrates, and `GET /` is 200."""
        return self.candidate.start()

    def runs_its_own_code(self) -> str:
        """The server says the version of the code that it runs."""
        document = self.candidate.get_json(t3_http.ENVIRONMENT)
        if document is None:
            raise Unknown(
                f"this t3 says its version in a way that this t3flow does not know: it has no {t3_http.ENVIRONMENT}"
            )
        said = t3_http.served_version(document)
        if said != self.request["version"]:
            raise Failed(f"the server says it is {said!r}")
        return f"serverVersion {said}"

    def mints(self) -> str:
        """A pairing credential, as the dispatch gets it."""
        self.credential = browser.mint(self.candidate)
        return "a credential"

    def exchanges(self) -> str:
        """The credential becomes the cookie that the server names, or the settings do: the same at each start, by an endpoint of the dispatch's."""
        pinned = (
            self.request["cookie"] if self.request["host"] == "0.0.0.0" else ""
        )  # on loopback t3 names it otherwise
        name = pinned or t3_http.cookie_name(browser.session(self.candidate))
        if self.cookie_name not in ("", name):
            raise Failed(
                f"the session cookie is called {name} now, and was {self.cookie_name}: every browser is signed out"
            )
        self.cookie_name = name
        endpoint, self.cookie = browser.exchange(self.candidate, self.request["endpoints"], self.credential, name)
        return f"POST {endpoint} sets {name}"

    def authenticates(self) -> str:
        """The session that the cookie opens is a good one."""
        browser.check(self.candidate, self.cookie)
        return "authenticated"

    def pairs_another(self) -> str:
        """A second browser pairs with the same server, and the first stays paired.

        By the credential that the server printed at its start, as people at a shell do: a command of a real t3 takes a second of a processor.
        """
        first, printed = self.cookie, self.candidate.startup_credential()
        self.credential = printed or browser.mint(self.candidate)
        self.exchanges()
        self.authenticates()
        browser.check(self.candidate, first)
        return f"a second browser{', by what the server printed' if printed else ''}, and the first stays"

    def knows_its_state(self) -> str:
        """The database that the server has open is one by which t3flow can tell who is at work."""
        live = self.state.find_live(self.candidate.pids())
        if stale := self.state.why_stale(self.request["in_use"]):
            raise NotHeld(stale)
        return f"{live} is live"

    def reads_rows(self) -> str:
        """Real rows come through the server's own API: a build once passed every cheaper check and could not decode them."""
        wanted = self.state.must_show()
        path, shown = rows.shown(self._read)
        for kind, expected in wanted.items():
            if shown.get(kind, 0) < expected:
                raise Failed(f"GET {path} shows {shown.get(kind, 0) or 'none'} of {expected} {kind}")
        return f"{', '.join(f'{count} {kind}' for kind, count in shown.items())} by GET {path}"

    def _read(self, reader: rows.Reader) -> dict[str, Any] | None:
        """Read as the browser that has paired; where only an owner may read, with a bearer made for the trial."""
        headers = {"Cookie": self.cookie}
        if reader.owner:
            bearer = commands.bearer(self.candidate.run_json(*commands.ISSUE))
            if not bearer:
                raise Failed(f"`t3 {' '.join(commands.ISSUE)}` prints no token")
            headers = {"Authorization": f"Bearer {bearer}"}
        return self.candidate.get_json(reader.path, headers, self.candidate.start_seconds, MAX_SNAPSHOT_BYTES)

    def rests(self) -> str:
        """While nobody asks anything it leaves the processors alone, at the latest when a server must have started; and it stays up.

        All of its processes count: a monitor that spins is one of them.
        """
        patience = time.monotonic() + self.candidate.start_seconds
        up_by = self.candidate.answered_at + UP_SECONDS
        while (busy := busy_cores(max(CALM_SECONDS, up_by - time.monotonic()))) > CALM_CORES:
            if time.monotonic() > patience:
                raise Failed(f"it keeps {busy:.1f} cores busy while nobody asks it anything", slow=True)
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
        """No line of the levels ERROR and FATAL is about a migration."""
        if found := log.migration_error(self.candidate.log_lines()):
            raise Failed(f"the log says: {found[:200]}")
        return "nothing in the log"

    def stops(self) -> str:
        """All processes of the server end when asked, as systemd asks a unit's control group."""
        return self.candidate.stop()

    def leaves_nothing(self) -> str:
        """No process, and in the base dir nothing but plain files and folders without special bits."""
        deadline = time.monotonic() + GONE_SECONDS
        while left := watch.below():
            if time.monotonic() > deadline:
                raise Failed(f"after the stop {left[0].name} (pid {left[0].pid}) still runs", slow=True)
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

    def keeps_its_identity(self) -> str:
        """Who the server is stays: the names of its cookies depend on it."""
        return self.state.check_identity()

    def starts_again(self) -> str:
        """A migration may work once and then crash at each start: so a second start, on the same database, and two more pairings.

        A browser that has paired before stays paired.
        """
        evidence, former = self.candidate.start(), self.cookie
        for check in (self.mints, self.exchanges, self.authenticates, self.pairs_another, self.knows_its_state):
            check()
        browser.check(self.candidate, former)
        self.logs_no_migration_error()
        return f"{evidence}, and pairs"

    def stops_again(self) -> str:
        """As before, and leaves nothing again."""
        evidence = self.candidate.stop()
        self.leaves_nothing()
        self.keeps_its_identity()
        return evidence

    def keeps_integrity(self) -> str:
        """The migrated databases pass SQLite's own checks no worse than before."""
        self.state.read_after()
        return self.state.check_integrity()

    def keeps_rows(self) -> str:
        """No table but those of the pairing lost rows, and a live database that was made anew holds all that the former one held."""
        return self.state.check_rows()

    # ------------------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """All checks in order, up to the first that fails."""
        checks: list[Callable[[], str]] = [
            *((self.says_its_version,) if self.request["asks_version"] else ()),
            *(self.answers, self.runs_its_own_code, self.mints, self.exchanges),
            *(self.authenticates, self.pairs_another, self.knows_its_state, self.reads_rows),
            *(self.rests, self.keeps_to_its_port, self.logs_no_migration_error),
            *(self.stops, self.leaves_nothing, self.keeps_its_identity, self.starts_again, self.stops_again),
            *(self.keeps_integrity, self.keeps_rows),
        ]
        self.state.read_before()
        bounds = watch.Watch(self.request["bounds"])
        try:
            bounds.start()
        except RuntimeError as error:
            raise NotHeld(f"the host gave out before the trial: {error}") from error
        results: list[dict[str, Any]] = []
        slow, unknown = False, ""
        try:
            for check in checks:
                try:
                    evidence = check()
                    if bounds.broken:
                        raise Failed(bounds.broken)
                    results.append({"name": check.__name__, "ok": True, "evidence": clean(evidence)})
                except (Failed, Unknown, OSError, ValueError) as error:
                    bounds.stop()
                    if isinstance(error, OSError) and error.errno in HOST_ERRORS and not bounds.broken:
                        raise NotHeld(f"the host gave out in {check.__name__}: {error.strerror}") from error
                    unknown = clean(str(error)) if isinstance(error, Unknown) and not bounds.broken else ""
                    slow = isinstance(error, TimeoutError) or (isinstance(error, Failed) and error.slow)
                    evidence = clean(bounds.broken or self._evidence(error))
                    results.append({"name": check.__name__, "ok": False, "evidence": evidence})
                    break
        finally:
            bounds.stop()
            watch.end_all()
        return {
            "checks": results,
            "level": self.state.level(),
            "schema": self.state.schema(),
            "live": self.state.open,
            "slow": slow,
            "started_s": round(self.candidate.slowest_start_seconds, 3),
            "unknown": unknown,
            "used": bounds.most,
        }

    def _evidence(self, error: Exception) -> str:
        if isinstance(error, Failed | Unknown):
            return str(error)
        why = http_client.reason(error) if isinstance(error, OSError) else str(error)
        return self.candidate.ended() or f"no answer ({why})"


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
