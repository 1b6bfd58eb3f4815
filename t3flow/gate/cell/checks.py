"""The checks of a trial, in the order of a user's day. Each returns its evidence, or raises Failed or Unknown."""

import stat
import time
from collections.abc import Callable
from typing import Any

from t3flow.gate.cell import pairing
from t3flow.gate.cell.measure import busy_cores, listening_ports
from t3flow.gate.cell.output import last_line, migration_error
from t3flow.gate.cell.server import MAX_SNAPSHOT_BYTES, Failed, Server
from t3flow.gate.cell.state import State
from t3flow.host.cells import bounds, processes
from t3flow.t3 import commands, rows
from t3flow.t3 import http as t3_http
from t3flow.t3.unknown import Unknown

CALM_CORES, CALM_SECONDS = 0.5, 0.4
UP_SECONDS = 1.2
"""Minimum uptime before the stop: a server that ends soon after its start is detected however fast the checks are."""
GONE_SECONDS = 2.0


class Inconclusive(Exception):
    """The trial cannot continue, through no fault of the version."""


class Checks:
    """The checks of one version on one copy of a set."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.server = Server(request)
        self.base_dir = self.server.base_dir
        self.state = State(self.base_dir, time.monotonic() + float(request["limit_s"]))
        self.credential = ""
        self.cookie_name = ""
        self.cookie = ""

    def says_its_version(self) -> str:
        """Check the output of `t3 --version`. Under an unsupported Node, t3 prints nothing and exits 0: the exit status alone proves nothing."""
        text = self.server.run(*commands.VERSION).strip()
        wanted = commands.version_line(self.request["version"])
        if text != wanted:
            errors = last_line(self.server.errors) if self.server.errors.strip() else ""
            printed = repr(text[:80]) if text else f"nothing ({errors or 'is Node too old for it?'})"
            raise Failed(f"`t3 {' '.join(commands.VERSION)}` prints {printed}, not {wanted!r}")
        return text

    def answers(self) -> str:
        """Check that the server starts on the set, which it migrates, and `GET /` returns 200."""
        return self.server.start()

    def runs_its_own_code(self) -> str:
        """Check the version that the server reports for the code that it runs."""
        document = self.server.get_json(t3_http.ENVIRONMENT)
        if document is None:
            raise Unknown(
                f"this t3 reports its version in a way unknown to this t3flow: it has no {t3_http.ENVIRONMENT}"
            )
        reported = t3_http.served_version(document)
        if reported != self.request["version"]:
            raise Failed(f"the server reports version {reported!r}")
        return f"serverVersion {reported}"

    def mints(self) -> str:
        """Create a pairing credential as the dispatch does."""
        self.credential = pairing.mint(self.server)
        return "got a credential"

    def exchanges(self) -> str:
        """Exchange the credential for the session cookie, which keeps its name, by an endpoint that the dispatch uses."""
        # a server on loopback uses another name than one on 0.0.0.0
        configured = self.request["cookie"] if self.request["host"] == "0.0.0.0" else ""
        name = configured or t3_http.cookie_name(pairing.session(self.server))
        if self.cookie_name not in ("", name):
            raise Failed(f"the session cookie was {self.cookie_name} and is now {name}: every browser is signed out")
        self.cookie_name = name
        endpoint, self.cookie = pairing.exchange(self.server, self.request["endpoints"], self.credential, name)
        return f"POST {endpoint} sets {name}"

    def authenticates(self) -> str:
        """Check that the session of the cookie is authenticated."""
        pairing.check(self.server, self.cookie)
        return "authenticated"

    def pairs_another(self) -> str:
        """Pair a second browser with the same server and check that the first stays paired.

        It uses the credential that the server printed at its start, if any: a command of a real t3 takes a second of processor time.
        """
        first, printed = self.cookie, self.server.startup_credential()
        self.credential = printed or pairing.mint(self.server)
        self.exchanges()
        self.authenticates()
        pairing.check(self.server, first)
        return f"paired a second browser{' with the credential that the server printed' if printed else ''}; the first stays paired"

    def knows_its_state(self) -> str:
        """Check that t3flow can tell work in progress from the database that the server has open."""
        live = self.state.find_live(self.server.pids())
        if stale := self.state.stale_reason(self.request["in_use"]):
            raise Inconclusive(stale)
        return f"{live} is live"

    def reads_rows(self) -> str:
        """Read real rows through the server's API: a version once passed every cheaper check and could not decode them."""
        wanted = self.state.required_rows()
        path, shown = rows.shown(self._read)
        for kind, expected in wanted.items():
            if shown.get(kind, 0) < expected:
                raise Failed(f"GET {path} shows {shown.get(kind, 0) or 'none'} of {expected} {kind}")
        return f"{', '.join(f'{count} {kind}' for kind, count in shown.items())} from GET {path}"

    def _read(self, reader: rows.Reader) -> dict[str, Any] | None:
        """Read as the paired browser, or with a bearer token created for the trial if only an owner may read."""
        headers = {"Cookie": self.cookie}
        if reader.owner:
            bearer = commands.bearer(self.server.run_json(*commands.ISSUE))
            if not bearer:
                raise Failed(f"`t3 {' '.join(commands.ISSUE)}` prints no token")
            headers = {"Authorization": f"Bearer {bearer}"}
        return self.server.get_json(reader.path, headers, self.server.start_seconds, MAX_SNAPSHOT_BYTES)

    def rests(self) -> str:
        """Check that the idle server, with all of its processes, becomes calm within the time limit for a start, and stays up."""
        deadline = time.monotonic() + self.server.start_seconds
        up_by = self.server.answered_at + UP_SECONDS
        while (busy := busy_cores(max(CALM_SECONDS, up_by - time.monotonic()))) > CALM_CORES:
            if time.monotonic() > deadline:
                raise Failed(f"the server keeps {busy:.1f} cores busy without any request", slow=True)
        return f"{busy:.2f} cores"

    def keeps_to_its_port(self) -> str:
        """Check that nothing listens on another port. Only possible in a network namespace of its own."""
        if not self.request["isolated"]:
            return "not checked: the trial shares the host's network"
        others = listening_ports() - {self.server.port}
        if others:
            raise Failed(f"it also listens on port {min(others)}")
        return f"listens on port {self.server.port} alone"

    def logs_no_migration_error(self) -> str:
        """Check that no log line of level ERROR or FATAL is about a migration."""
        if found := migration_error(self.server.log_lines()):
            raise Failed(f"error in the log: {found[:200]}")
        return "no migration error in the log"

    def stops(self) -> str:
        """Stop the server as systemd stops a unit's control group, and check that all of its processes end."""
        return self.server.stop()

    def leaves_nothing(self) -> str:
        """Check that no process remains, and that the base dir contains only regular files, folders, links and sockets without setuid bits."""
        deadline = time.monotonic() + GONE_SECONDS
        while left := processes.descendants():
            if time.monotonic() > deadline:
                raise Failed(f"{left[0].name} (pid {left[0].pid}) still runs after the stop", slow=True)
            time.sleep(0.02)
        if not self.base_dir.is_dir():
            raise Failed("the base dir was deleted")
        for entry in bounds.walk(str(self.base_dir)):
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                raise Failed(f"it created a setuid file: {entry.name}")
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode) or stat.S_ISSOCK(mode)):
                raise Failed(f"it created a device or pipe: {entry.name}")
        return "no process and no special file remains"

    def keeps_its_identity(self) -> str:
        """Check that the server keeps its identity: the names of its cookies depend on it."""
        return self.state.check_identity()

    def starts_again(self) -> str:
        """Start the migrated set again and pair two more browsers: a migration may work once and then crash at each start.

        Browsers that paired before must stay paired.
        """
        evidence, former = self.server.start(), self.cookie
        for check in (self.mints, self.exchanges, self.authenticates, self.pairs_another, self.knows_its_state):
            check()
        pairing.check(self.server, former)
        self.logs_no_migration_error()
        return f"{evidence}, pairs two browsers"

    def stops_again(self) -> str:
        """Stop again with the same checks as after the first stop."""
        evidence = self.server.stop()
        self.leaves_nothing()
        self.keeps_its_identity()
        return evidence

    def keeps_integrity(self) -> str:
        """Check that SQLite's own checks find no more faults in the migrated databases than before."""
        self.state.read_after()
        return self.state.check_integrity()

    def keeps_rows(self) -> str:
        """Check that no table except those of pairings lost rows, and that a new live database has all rows of the one it was created from."""
        return self.state.check_rows()

    def in_order(self) -> list[Callable[[], str]]:
        """Return the checks in the order in which a trial makes them."""
        return [
            *((self.says_its_version,) if self.request["asks_version"] else ()),
            *(self.answers, self.runs_its_own_code, self.mints, self.exchanges),
            *(self.authenticates, self.pairs_another, self.knows_its_state, self.reads_rows),
            *(self.rests, self.keeps_to_its_port, self.logs_no_migration_error),
            *(self.stops, self.leaves_nothing, self.keeps_its_identity, self.starts_again, self.stops_again),
            *(self.keeps_integrity, self.keeps_rows),
        ]
