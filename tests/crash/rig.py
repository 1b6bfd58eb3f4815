"""A sandbox that plays scenarios whose consumer is killed at a point, and is checked from outside after each.

Nothing is reset: each attempt starts from the state that the previous one left. The scenarios are in bumps.py, verbs.py and takeover.py.
"""

import gc
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from tracer import Point

from t3flow.cli.base import hint
from t3flow.engine.journal import Journal, JournalError, Run
from t3flow.engine.runs import new_run
from t3flow.host import freeze, slots
from t3flow.host.host import open_host
from t3flow.host.pairing import probe, verification
from t3flow.host.processes import listing
from t3flow.host.services.supervisor import SUPERVISOR_SOCKET
from t3flow.host.slots import running_version
from t3flow.sandbox.host import Sandbox
from t3flow.sandbox.packages import PACKAGE
from t3flow.service.consumer import JOURNAL, open_journal

HERE = Path(__file__).parent
LEVEL30 = HERE.parent / "data" / "state-level30.sqlite"
FIRST = "0.0.24"
IDLE, BUSY = ["ada"], "grace"
MANY = ["ada", "alan", "barbara", "donald", "edsger", "frances", "john", "ken", "linus"]
END_SECONDS = 60.0
MOMENTARY = (".*.t3flow", ".partial", "state.sqlite.t3flow*", ".incoming/*")
"""Patterns of names that files have while they are incomplete."""
CHANGES = (
    ("[gate]", "[canary]\norder = 'map_order'\n[gate]\nseeds = 'largest'"),
    ("verify_timeout_s = 6", "verify_timeout_s = 1"),
    ("max_check_interval_s = 5", "max_check_interval_s = 1"),
)
"""Settings that make an attempt quick."""


@dataclass
class Attempt:
    """The result of one attempt."""

    scenario: str
    reached: bool = False
    killed: int = 0
    outcome: str = ""
    wrong: list[str] = field(default_factory=list)
    repeated: dict[str, int] = field(default_factory=dict)  # step → how often it was repeated
    resumed_seconds: float | None = None  # from the start of the second consumer to its first step
    points: list[dict[str, Any]] = field(default_factory=list)


class Glance(Journal):
    """A read-only journal, whose open or closed file changes nothing when the consumer dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._is_open = True

    def _connection(self, synchronous: str) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            uri = f"{self.path.as_uri()}?mode=ro"
            self._local.connection = sqlite3.connect(uri, uri=True, timeout=10, isolation_level=None)
        found: sqlite3.Connection = self._local.connection
        return found

    @contextmanager
    def transaction(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """Refuse: this process only looks, such as with probes whose sessions need no record."""
        raise JournalError("this journal is only read")
        yield  # never reached: makes this a context manager

    def let_go(self) -> None:
        """Close the file; the next query opens it again."""
        if hasattr(self._local, "connection"):
            self._local.connection.close()
            del self._local.connection


class Rig:
    """The sandbox: idle users, and one who may be busy. All are on `version` at `level`; `before` is the same before the last accepted bump."""

    def __init__(self, idle: list[str] = IDLE, set_up: Callable[[Sandbox], None] | None = None) -> None:
        self.idle = idle
        self.box = Sandbox(Path(tempfile.mkdtemp(prefix="t3b-", dir="/tmp")), [*idle, BUSY], quiet_seconds=0)
        text = self.box.config.read_text()
        for change in CHANGES:
            assert change[0] in text
            text = text.replace(*change)
        self.box.config.write_text(text)
        self.version, self.level = FIRST, 30
        self.before: tuple[str, int] | None = None
        self.published = 0
        self.staged = True
        self.log = self.box.top / "log" / "points.jsonl"
        self.go = self.box.top / "log" / "go"
        self.kills: list[Point | int] = []
        self.whom, self.record = "all", False
        self.births: list[float] = []
        self.tracers: list[subprocess.Popen[bytes]] = []
        try:
            (set_up or everybody_on_first)(self.box)
        except BaseException:
            self.close()
            raise
        self.settings = self.box.settings
        self.journal = Glance(self.settings.paths.state_dir / JOURNAL)
        self.host = open_host(self.settings, self.journal)

    def close(self) -> None:
        """End all processes and remove the folder."""
        self.box.close()
        shutil.rmtree(self.box.top, ignore_errors=True)

    # Runs -----------------------------------------------------------------------------------------------------------

    def publish(self, level: int, rules: list[dict[str, Any]] | None = None) -> str:
        """Publish the next build and return its version. If `staged`, create its slot without npm, to save time."""
        self.published += 1
        version = f"0.0.25-nightly.20260609.{500 + self.published}"
        behavior = {"schema_level": level, "boot_window_ms": 0, "rules": rules or []}
        self.box.publish(version, behavior)
        if not self.staged:
            return version
        folder = slots.slots_dir(self.settings.paths.versions_dir)
        shutil.copytree(folder / self.version, folder / f".{version}", symlinks=True)
        package = folder / f".{version}" / "node_modules" / PACKAGE
        for path, change in (
            (package / "package.json", {"version": version}),
            (package / "behavior.json", behavior),
            (folder / f".{version}" / slots.MANIFEST, {"version": version}),
        ):
            path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        (folder / f".{version}").rename(folder / version)
        return version

    def begin(self, workflow: str, args: dict[str, Any]) -> str:
        """Journal a run and return its id."""
        run = new_run(open_journal(self.settings), workflow, args) or ""
        gc.collect()  # closes journals that this process opened for writing
        return run

    def quietly(self, workflow: str, args: dict[str, Any]) -> Run:
        """Run to the end without disturbance, in the running consumer or a new one."""
        run = self.begin(workflow, args)
        if alone := "consumer" not in self.box.processes:
            self.consumer()
        else:
            hint(self.settings, run)
        self.wait(lambda: self.over(run), f"run {run} has ended")
        if alone:
            self.stop_consumer()
        return self.journal.run(run)

    def unfreeze(self) -> None:
        """Unfreeze tracking like an operator."""
        if freeze.is_frozen(self.settings):
            freeze.unfreeze(self.settings, open_journal(self.settings))
            gc.collect()

    # Consumers ------------------------------------------------------------------------------------------------------

    def consumer(self) -> None:
        """Start the next consumer: under the tracer if kills are left or calls are recorded."""
        words = [sys.executable, str(HERE / "marked.py")]
        if self.kills or self.record:
            self.log.unlink(missing_ok=True)
            tracer = [sys.executable, str(HERE / "tracer.py"), "--log", str(self.log)]
            tracer += ["--whom", self.whom, "--top", str(self.box.top), "--go", str(self.go)]
            if self.kills:
                kill = self.kills[0]
                given = ["--kill-at", str(kill)] if isinstance(kill, int) else ["--kill", json.dumps(asdict(kill))]
                tracer += given
            words = [*tracer, "--", *words]
        self.births.append(time.time())
        self.box._spawn("consumer", words)

    def succeed(self) -> None:
        """Start another consumer if the last was killed. The tracer of the last lives as long as its children."""
        if self.kills and b'"dead"' in read(self.log):
            self.lose_power()
        if self.kills and b'"killed"' in read(self.log):
            self.kills.pop(0)
            self.tracers.append(self.box.processes.pop("consumer"))
            if self.whom.startswith("power:"):
                self.boot()
            self.consumer()

    def lose_power(self) -> None:
        """Kill all servers at once, and let the tracer lose unsynced data."""
        for name in ("dispatch", "supervisor"):
            self.box.kill(name)
        prefix = f"{slots.slots_dir(self.settings.paths.versions_dir)}/"
        self.box.until(
            lambda: not listing.matching_pids(lambda words: any(word.startswith(prefix) for word in words)),
            "all is dead",
        )
        self.journal.let_go()
        journal = str(self.settings.paths.state_dir / JOURNAL)
        still = [link for entry in Path("/proc/self/fd").iterdir() if journal in (link := _target(entry))]
        assert not still, f"this process would keep SQLite from looking at its log anew: {still}"
        self.go.touch()
        self.box.until(lambda: b'"killed"' in read(self.log), "the power is cut")

    def boot(self) -> None:
        """Start everything but the consumer again."""
        self.go.unlink()
        (self.settings.paths.serve_env_dir / SUPERVISOR_SOCKET).unlink()
        self.box.start_supervisor()
        self.box.start_dispatch()
        for user in self.box.users:
            self.box.supervise("start", user)

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds, and replace consumers that were killed."""

        def ask() -> bool:
            self.succeed()
            return holds()

        self.box.until(ask, what, END_SECONDS)

    def stop_consumer(self) -> None:
        """End the running consumer, and wait for the tracers of the killed ones."""
        if "consumer" in self.box.processes:
            self.box.end("consumer")
        for tracer in self.tracers:
            tracer.wait(15)
        self.tracers = []

    def over(self, run: str) -> bool:
        """Return whether the run has ended."""
        return self.journal.run(run).status != "running"

    # Looking --------------------------------------------------------------------------------------------------------

    def server(self, user: str) -> int | None:
        """Return the main pid of a user's server."""
        return self.host.services.state(user).main_pid

    def user_is_on(self, found: Attempt, user: str, version: str, level: int) -> None:
        """Check that assignment, process, database and dispatch match."""
        assigned = self.box.assigned(user)
        if assigned != version:
            found.wrong.append(f"{user} is assigned {assigned}, not {version}")
        try:
            verification.verify(self.host, user, version, 5)
        except probe.NotPaired as error:
            found.wrong.append(f"{user} cannot pair on {version}: {error}")
        if self.box.level(user) != level:
            found.wrong.append(f"the database of {user} is at level {self.box.level(user)}, not {level}")
        pid = self.server(user)
        runs = running_version.of_process(pid, self.settings.paths.versions_dir) if pid else None
        if runs != version:
            found.wrong.append(f"the server of {user} runs {runs}, not {version}")
        self.nobody_is_held(found)

    def nobody_is_held(self, found: Attempt) -> None:
        """Check that no server is suspended."""
        for user in self.box.users:
            if (pid := self.server(user)) and psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                found.wrong.append(f"the server of {user} is suspended")

    def nothing_half_done(self, found: Attempt, ended: Run) -> None:
        """Check that the run has released the lease and left no file under a temporary name."""
        if self.journal.query("select * from locks where run = ?", ended.id):
            found.wrong.append("a run still has the lease")
        found.wrong += [
            f"left in scratch: {path.name}" for path in self.settings.paths.scratch_dir.glob(f"*{ended.id}*")
        ]
        halves = [*self.settings.paths.versions_dir.rglob(".*partial")]
        if ended.workflow != "bump":
            for room in ("etc", "opt/t3", "bin", "backups", "state", "home"):
                halves += [path for name in MOMENTARY for path in (self.box.top / room).rglob(name)]
        found.wrong += [f"half done: {path.relative_to(self.box.top)}" for path in halves]

    def at_rest(self, found: Attempt) -> None:
        """Stop the consumer, and check that none of its processes is left."""
        if self.record:
            found.points = [json.loads(line) for line in self.log.read_text().splitlines()]
        self.stop_consumer()
        known = {child.pid for child in self.box.processes.values()}
        known |= {pid for user in self.box.users if (pid := self.server(user)) is not None}
        top = str(self.box.top)
        for process in psutil.process_iter(["pid", "cmdline"]):
            words = process.info["cmdline"] or []
            if process.pid not in known and process.pid != os.getpid() and any(top in word for word in words):
                found.wrong.append(f"left behind: {process.pid} {' '.join(words)[:200]}")

    def count(self, found: Attempt) -> None:
        """Count the repeated steps in all runs of this attempt, and measure how soon the last consumer resumed."""
        begun = []
        for run in self.journal.runs("updated > ?", self.births[0]):
            for event in self.journal.events(run.id):
                if (
                    event.kind in ("completed", "undone", "failed")
                    and (event.attempt or 1) > 1
                    and event.step not in ("await_idle", "watch_pairings")
                ):
                    found.repeated[str(event.step)] = found.repeated.get(str(event.step), 0) + (event.attempt or 1) - 1
                if event.kind == "started":
                    begun.append(event.at)
        if len(self.births) > 1:
            found.resumed_seconds = (
                min((at for at in begun if at > self.births[-1]), default=self.births[-1]) - self.births[-1]
            )

    def keep(self, folder: Path) -> None:
        """Copy the evidence of a failure."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.box.top / "log", folder / "log", dirs_exist_ok=True)
        for path in (self.box.top / "state").glob("journal.db*"):
            shutil.copy(path, folder)

    def kill_everything(self) -> None:
        """End processes that a failed attempt may have left."""
        for child in [*self.tracers, *self.box.processes.values()]:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def everybody_on_first(box: Sandbox) -> None:
    """Return a host with all users on an accepted version."""
    box.start(FIRST, dict.fromkeys(box.users, LEVEL30), {"schema_level": 30, "boot_window_ms": 0})


def read(path: Path) -> bytes:
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def _target(link: Path) -> str:
    with suppress(OSError):
        return os.readlink(link)
    return ""
