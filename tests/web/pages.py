"""A host to look at: a real journal with users, runs and deferrals, and the page's own process on a real socket.

The test itself stands for the consumer: it holds the consumer's lock.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from t3flow.engine.journal import append_event
from t3flow.engine.runs import Outcome, end_run, new_run
from t3flow.host import slots
from t3flow.host.records import deferral_records, facts
from t3flow.service.consumer import create_state_dir, only_consumer, open_journal
from t3flow.settings import load
from t3flow.settings.text import describe
from t3flow.state.observed import FACT, Observed, ObservedUser

ADMIN, VIEWER = "root@example.test", "ada@example.test"
HEADER = "X-authentik-username"
FIRST, NEXT = "0.0.24", "0.0.25-nightly.20260609.501"
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
READY_SECONDS = 20.0
CONFIG = """\
[paths]
state_dir = "{top}/state"
freeze_file = "{top}/freeze"
last_good_file = "{top}/last-good"
backup_dir = "{top}/backups"
versions_dir = "{top}/t3"
launcher = "{top}/launcher"
scratch_dir = "{top}"
user_map = "{top}/map"
serve_env_dir = "{top}/env"
[schedule]
timezone = "Europe/Vienna"
[queue]
url = "redis://:open-sesame@localhost/1"
[web]
listen = "{listen}"
admins = ["{admin}"]
"""


def takes_less(seconds: float, work: Callable[[int], object], tries: int = 10) -> bool:
    """Return whether one of some calls, each with its number, takes less: what a loaded machine adds is not the page's."""
    for number in range(tries):
        began = time.monotonic()
        work(number)
        if time.monotonic() - began < seconds:
            return True
    return False


class Answer(NamedTuple):
    """A response. Header names are lowercase."""

    status: int
    headers: dict[str, str]
    text: str


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float = 10) -> None:
        super().__init__("page.example.test", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = connect(self.path, self.timeout or 30)


def connect(path: Path, timeout: float = 30) -> socket.socket:
    """Return a connection to a Unix socket."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    connection.connect(str(path))
    return connection


class PageHost:
    """A host in a folder, whose journal a test writes, and the page on it."""

    def __init__(self, top: Path, users: list[str], listen: str = "") -> None:
        self.top, self.users = top, users
        self.socket = top / "web.sock"
        self.config = top / "config.toml"
        self.config.write_text(CONFIG.format(top=top, listen=listen or f"unix://{self.socket}", admin=ADMIN))
        (top / "map").write_text("".join(f"{user}@example.test={user}\n" for user in users))
        self.settings = load.load(self.config, {})
        create_state_dir(self.settings.paths.state_dir)
        (self.settings.paths.state_dir / "requests").mkdir(mode=0o700, exist_ok=True)
        self.journal = open_journal(self.settings, create=True)
        for version in (FIRST, NEXT):
            slot = slots.slot_path(self.settings.paths.versions_dir, version)
            slot.mkdir(parents=True)
            (slot / slots.MANIFEST).write_text("{}")
        for user in users:
            slots.assign(self.settings.paths.versions_dir, user, NEXT)
        slots.set_default(self.settings.paths.versions_dir, NEXT)
        self.observe()
        self.note_consumer()
        self.consumer = contextlib.ExitStack()
        self.consumer.enter_context(only_consumer(self.settings.paths.state_dir))

    # What the consumer would write --------------------------------------------------------------------------------

    def observe(self, **changed: Any) -> None:
        """Record servers as the consumer observes them."""
        server = ObservedUser(unit="t3-serve@.service", active=True, running_version=NEXT, why_unmanaged="")
        observed = Observed(at=time.time(), users={}, user_map_problems=[], launcher_problems=[])
        observed["users"] = {user: {**server, **changed.get(user, {})} for user in self.users}  # type: ignore[typeddict-item]
        facts.write(self.journal, FACT, observed)

    def note_consumer(self) -> None:
        """Record the settings of a consumer."""
        facts.write(self.journal, "consumer", {"settings": describe(self.settings), "since": time.time()})

    def defer(self, user: str, waiting_for: str = "active_turn", detail: str = "") -> str:
        """Record a pending deferral, and return its run."""
        slots.assign(self.settings.paths.versions_dir, user, FIRST)
        run = new_run(self.journal, "drain", {"user": user}, wake_at=time.time() + 600) or ""
        deferral_records.put_deferral(self.journal, user, run, NEXT, waiting_for, time.time() + 600)
        with self.journal.transaction() as connection:
            connection.execute("update deferrals set detail = ? where user = ?", (detail, user))
        return run

    def begin(self, workflow: str = "bump", **args: Any) -> str:
        """Record a run that has begun."""
        return new_run(self.journal, workflow, args) or ""

    def step(self, run: str, name: str, *args: Any, result: Any = None, is_done: bool = True, attempt: int = 1) -> None:
        """Record a step of a run."""
        with self.journal.transaction() as connection:
            append_event(connection, run, "started", name, attempt, {"args": list(args), "kwargs": {}})
            if is_done:
                append_event(connection, run, "completed", name, attempt, {"result": result})

    def end(self, run: str, outcome: str = "updated", reason: str = "", status: str = "succeeded", **data: Any) -> None:
        """Record the end of a run."""
        end_run(self.journal, self.journal.run(run), Outcome(outcome, reason, status, data))

    def end_at(self, run: str, at: float) -> None:
        """Move the end of a run to a time."""
        with self.journal.transaction() as connection:
            connection.execute("update runs set updated = ?, created = ? where id = ?", (at, at - 60, run))

    def requests(self) -> list[dict[str, Any]]:
        """Return the requests in the spool."""
        folder = self.settings.paths.state_dir / "requests"
        return [json.loads(path.read_text()) for path in sorted(folder.iterdir())]

    # The page -----------------------------------------------------------------------------------------------------

    @contextmanager
    def serving(self, **environment: str) -> Iterator["PageHost"]:
        """Run the page's process meanwhile, and check that it ends well and has said nothing in excess."""
        self.start(**environment)
        try:
            yield self
        finally:
            log = self.stop()
        assert "Traceback" not in log, log

    @contextmanager
    def serving_on(self, given: socket.socket) -> Iterator["PageHost"]:
        """Run the page's process meanwhile on a socket that it is given as systemd gives one."""
        words = ["bash", "-c", 'exec 3<&"$0"; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', str(given.fileno())]
        self.start(words, pass_fds=(given.fileno(),))
        try:
            yield self
        finally:
            self.stop()

    def start(self, prefix: list[str] | None = None, pass_fds: tuple[int, ...] = (), **environment: str) -> None:
        """Start the page."""
        self.log = self.top / "web.log"
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                [*(prefix or []), sys.executable, "-m", "t3flow", "web"],
                pass_fds=pass_fds,
                env={**os.environ, "T3FLOW_CONFIG": str(self.config), "MALLOC_ARENA_MAX": "2", **environment},
                stderr=log,
                stdout=log,
            )
        deadline = time.monotonic() + READY_SECONDS
        while b"serving" not in self.log.read_bytes():
            assert self.child.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> str:
        """End the page like systemd, and return what it has said."""
        self.child.send_signal(signal.SIGTERM)
        try:
            assert self.child.wait(15) == 0
        finally:
            self.child.kill()
            self.child.wait()
        return self.log.read_text()

    def ask(self, path: str, identity: str = "", method: str = "GET", body: str = "", **headers: str) -> Answer:
        """Send a request to the page, as the reverse proxy would for a person."""
        connection = UnixConnection(self.socket)
        sent = {**({HEADER: identity} if identity else {}), **{key.replace("_", "-"): headers[key] for key in headers}}
        try:
            connection.request(method, path, body.encode() or None, sent)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read().decode())
        finally:
            connection.close()

    def post(self, path: str, fields: dict[str, str], identity: str = ADMIN, **headers: str) -> Answer:
        """Send a form as the page's own does in a browser."""
        sent = {"Content-Type": "application/x-www-form-urlencoded", **SAME_ORIGIN, **headers}
        return self.ask(path, identity, "POST", urlencode(fields), **sent)

    def rss_bytes(self) -> int:
        """Return the memory of the page's process."""
        return int(Path(f"/proc/{self.child.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Events:
    """A stream of server-sent events, read as a browser does."""

    def __init__(self, host: PageHost, path: str = "/live", identity: str = ADMIN, **headers: str) -> None:
        self.connection = UnixConnection(host.socket)
        self.connection.request("GET", path, headers={HEADER: identity, **headers})
        self.response = self.connection.getresponse()

    def next(self) -> list[list[str]]:
        """Return the changes of the next event."""
        while True:
            line = self.response.readline().decode()
            assert line, "the stream has ended"
            if line.startswith("data: "):
                found: list[list[str]] = json.loads(line.removeprefix("data: "))
                return found

    def close(self) -> None:
        """Leave."""
        self.connection.close()
