"""A sandbox that goes through one scenario after another, each with a consumer that is killed at a point, and is looked at from outside after each.

Nothing is reset between two attempts: each takes everybody one version further, from where the one before has left them.
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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from tracer import Point

from t3flow.consumer import JOURNAL, open_journal
from t3flow.engine.journal import Journal, Run
from t3flow.engine.runs import new_run
from t3flow.host import freeze, pairing, processes, records, slots
from t3flow.host.host import open_host
from t3flow.host.services import SUPERVISOR_SOCKET
from t3flow.sandbox.host import Sandbox
from t3flow.sandbox.packages import PACKAGE

HERE = Path(__file__).parent
LEVEL30 = HERE.parent / "data" / "state-level30.sqlite"
FIRST = "0.0.24"
IDLE, BUSY = ["ada"], "grace"
MANY = ["ada", "alan", "barbara", "donald", "edsger", "frances", "john", "ken", "linus"]
END_SECONDS = 60.0
CHANGES = (
    ("[gate]", "[canary]\norder = 'map_order'\n[gate]\nseeds = 'largest'"),
    ("verify_timeout_s = 6", "verify_timeout_s = 1"),
    ("max_check_interval_s = 5", "max_check_interval_s = 1"),
)
"""Settings of the sandbox that make an attempt quick."""


@dataclass(frozen=True)
class Scenario:
    """What a candidate does wrong (a rule of the stand-in), who is at work, and how the run is to end."""

    outcome: str
    rules: tuple[dict[str, Any], ...] = ()
    busy: bool = True
    freeze_after: str = ""
    also: tuple[str, ...] = ()
    """Outcomes that are right too, because of the moment at which the consumer was killed."""


SCENARIOS = {
    "good": Scenario("updated"),
    "alone": Scenario("updated", busy=False),
    "gate": Scenario("gate_failed", ({"fault": "mint_fails", "when": {"not_scratch": False}},)),
    "undo": Scenario("rolled_back", ({"fault": "pairing_500", "when": {"not_scratch": True}},), busy=False),
    "cancel": Scenario("cancelled", also=("updated",)),
    "freeze": Scenario("frozen", busy=False, freeze_after="verify_user"),
}


@dataclass
class Attempt:
    """What one attempt showed."""

    scenario: str
    reached: bool = False
    killed: int = 0
    outcome: str = ""
    wrong: list[str] = field(default_factory=list)
    repeated: dict[str, int] = field(default_factory=dict)  # step → how often it ran again
    resumed_seconds: float | None = None  # from the start of the second consumer to the first step of it
    points: list[dict[str, Any]] = field(default_factory=list)


class Glance(Journal):
    """The journal for somebody who only looks: an open file of theirs changes nothing when the consumer dies, not even by closing it."""

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

    def let_go(self) -> None:
        """Closes the file; the next look opens it again."""
        if hasattr(self._local, "connection"):
            self._local.connection.close()
            del self._local.connection


class Rig:
    """The sandbox: users who are idle, and one who may be at work."""

    def __init__(self, idle: list[str] = IDLE, queue_url: str = "") -> None:
        self.idle = idle
        self.box = Sandbox(
            Path(tempfile.mkdtemp(prefix="t3b-", dir="/tmp")), [*idle, BUSY], quiet_seconds=0, queue_url=queue_url
        )
        text = self.box.config.read_text()
        for change in CHANGES:
            assert change[0] in text
            text = text.replace(*change)
        self.box.config.write_text(text)
        self.version, self.level = FIRST, 30
        self.attempts = 0
        self.log = self.box.top / "log" / "points.jsonl"
        self.go = self.box.top / "log" / "go"
        self.kills: list[Point | int] = []
        self.whom, self.record = "all", False
        self.births: list[float] = []
        self.tracers: list[subprocess.Popen[bytes]] = []
        try:
            self.box.start(FIRST, dict.fromkeys(self.box.users, LEVEL30), {"schema_level": 30, "boot_window_ms": 0})
        except BaseException:
            self.close()
            raise
        self.settings = self.box.settings
        self.journal = Glance(self.settings.paths.state_dir / JOURNAL)
        self.host = open_host(self.settings, self.journal)

    def close(self) -> None:
        """Ends everything and removes the folder."""
        self.box.close()
        shutil.rmtree(self.box.top, ignore_errors=True)

    # One attempt ----------------------------------------------------------------------------------------------------

    def attempt(
        self,
        name: str,
        kills: list[Point | int],
        whom: str = "all",
        *,
        staged: bool = True,
        record: bool = False,
        cancel_at: int = 0,
    ) -> Attempt:
        """Plays a scenario with a kill at each of the points (or at the so manieth call), and looks at what came of it."""
        scenario = SCENARIOS[name]
        if whom.startswith("power:"):
            scenario = replace(scenario, busy=False)  # a turn ends with the power
        found = Attempt(name)
        self.attempts += 1
        target = f"0.0.25-nightly.20260609.{500 + self.attempts}"
        behaviour = {"schema_level": self.level + 1, "boot_window_ms": 0, "rules": list(scenario.rules)}
        self.publish(target, behaviour, staged=staged)
        turn = self.box.control(BUSY, "turn/start", agent="claude")["turn"] if scenario.busy else None
        before = {user: self.server(user) for user in self.box.users}
        self.box.environment["T3CRASH_FREEZE_AFTER"] = scenario.freeze_after
        self.box.environment["T3CRASH_FREEZE_FILE"] = str(self.settings.paths.freeze_file)
        self.box.environment["T3CRASH_CANCEL_AT"] = str(cancel_at)
        run = new_run(open_journal(self.settings), "bump", {"target": target}) or ""
        self.kills, self.whom, self.record, self.births = list(kills), whom, record, []
        gc.collect()  # closes the journals that this process has opened to write
        try:
            self.consumer()
            self.wait(lambda: self.over(run), f"run {run} has ended")
            ended = self.journal.run(run)
            found.outcome = str(ended.outcome)
            self.look(found, scenario, ended, target, before)
            self.finish(found, target, turn)
            self.at_rest(found)
            self.count(found)
        except Exception as error:
            found.wrong.append(f"{type(error).__name__}: {error}")
        found.killed = len(self.births) - 1
        found.reached = found.killed == len(kills)
        return found

    def attempt_fault(self, name: str, point: Point, whom: str) -> Attempt:
        """Plays a scenario in which a write fails. However it ends: program, link and database of each user agree, and the next bump works."""
        scenario = replace(SCENARIOS[name], busy=False, freeze_after="")
        found = Attempt(name)
        self.attempts += 2
        target, later = (f"0.0.25-nightly.20260609.{500 + self.attempts + number}" for number in (0, 1))
        rules = list(scenario.rules)
        self.publish(target, {"schema_level": self.level + 1, "boot_window_ms": 0, "rules": rules}, staged=True)
        run = new_run(open_journal(self.settings), "bump", {"target": target}) or ""
        self.kills, self.whom, self.record, self.births = [point], whom, False, []
        gc.collect()
        try:
            self.consumer()
            self.box.until(
                lambda: self.over(run) or (whom.endswith("lasting") and b'"failed"' in _read(self.log)), "it fails", 90
            )
            found.reached = b'"failed"' in _read(self.log)
            self.kills = []
            if not self.over(run):
                time.sleep(1)
            self.stop_consumer()
            self.box.start_consumer()
            self.wait(lambda: self.over(run), f"run {run} has ended")
            found.outcome = str(self.journal.run(run).outcome)
            for user in self.box.users:
                moved = self.box.assigned(user) == target
                self.user_is_on(found, user, *((target, self.level + 1) if moved else (self.version, self.level)))
            if freeze.is_frozen(self.settings):
                freeze.unfreeze(self.settings, open_journal(self.settings))
            self.wait(lambda: not records.deferrals(self.journal), "every deferral is seen through")
            self.publish(later, {"schema_level": self.level + 2, "boot_window_ms": 0, "rules": []}, staged=True)
            said = self.box.document("enqueue", "bump", "--target", later, "--wait")
            if said["outcome"] != "updated":
                found.wrong.append(f"the next bump: {said}")
            self.wait(lambda: not records.deferrals(self.journal), "nobody is deferred any more")
            self.version, self.level = later, self.level + 2
            for user in self.box.users:
                self.user_is_on(found, user, later, self.level)
            self.at_rest(found)
        except Exception as error:
            found.wrong.append(f"{type(error).__name__}: {error}")
        return found

    def publish(self, version: str, behaviour: dict[str, Any], *, staged: bool) -> None:
        """Publishes a build; if `staged`, its slot is there already, as npm would have made it, which saves the time of npm."""
        self.box.publish(version, behaviour)
        if not staged:
            return
        folder = slots.versions(self.settings.paths.versions_dir)
        shutil.copytree(folder / self.version, folder / f".{version}", symlinks=True)
        package = folder / f".{version}" / "node_modules" / PACKAGE
        for path, change in (
            (package / "package.json", {"version": version}),
            (package / "behaviour.json", {"rules": [], **behaviour}),
            (folder / f".{version}" / slots.MANIFEST, {"version": version}),
        ):
            path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        (folder / f".{version}").rename(folder / version)

    # Consumers ------------------------------------------------------------------------------------------------------

    def consumer(self) -> None:
        """Starts the next consumer: under the tracer while there are kills to come, or if calls are to be recorded."""
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
        """Starts another consumer if the last was killed. Its tracer stays as long as children of it live."""
        if self.kills and b'"dead"' in _read(self.log):
            self.lose_power()
        if self.kills and b'"killed"' in _read(self.log):
            self.kills.pop(0)
            self.tracers.append(self.box.processes.pop("consumer"))
            if self.whom.startswith("power:"):
                self.boot()
            self.consumer()

    def lose_power(self) -> None:
        """Ends all servers at once, and lets the tracer lose what the disk may lose."""
        for name in ("dispatch", "supervisor"):
            self.box.kill(name)
        prefix = f"{slots.versions(self.settings.paths.versions_dir)}/"
        self.box.until(
            lambda: not processes.using([], lambda words: any(word.startswith(prefix) for word in words)), "all is dead"
        )
        self.journal.let_go()
        still = [link for entry in Path("/proc/self/fd").iterdir() if "journal.db" in (link := _target(entry))]
        assert not still, f"this process would keep SQLite from looking at its log anew: {still}"
        self.go.touch()
        self.box.until(lambda: b'"killed"' in _read(self.log), "the power is cut")

    def boot(self) -> None:
        """Starts everything again but the consumer."""
        self.go.unlink()
        (self.settings.paths.serve_env_dir / SUPERVISOR_SOCKET).unlink()
        self.box.start_supervisor()
        self.box.start_dispatch()
        for user in self.box.users:
            self.box.supervise("start", user)

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        """Waits for something to become true, while consumers live and die."""

        def ask() -> bool:
            self.succeed()
            return holds()

        self.box.until(ask, what, END_SECONDS)

    def stop_consumer(self) -> None:
        """Ends the consumer that lives, and waits for the tracers of those that died."""
        if "consumer" in self.box.processes:
            self.box.end("consumer")
        for tracer in self.tracers:
            tracer.wait(15)
        self.tracers = []

    def over(self, run: str) -> bool:
        """Whether the run has ended."""
        return self.journal.run(run).status != "running"

    # Looking --------------------------------------------------------------------------------------------------------

    def server(self, user: str) -> int | None:
        """The main process of a user's server."""
        return self.host.services.state(user).main_pid

    def look(self, found: Attempt, scenario: Scenario, ended: Run, target: str, before: dict[str, int | None]) -> None:
        """Compares what the run has left with what it should."""
        wrong = found.wrong
        undone = ended.outcome == "error" and "the consumer died" in str(ended.result.get("reason"))
        results = {user: entry["result"] for user, entry in ended.result.get("users", {}).items()}
        moved = [user for user in self.box.users if results.get(user) == "restarted"]
        started_again = "started again meanwhile" in str(ended.result)  # by the boot after a power cut
        also = (*scenario.also, "updated") if started_again else scenario.also
        if ended.outcome not in (scenario.outcome, *also) and not undone:
            wrong.append(f"outcome {ended.outcome}: {ended.result}")
        if (
            ended.outcome == "updated"
            and moved != (self.idle if scenario.busy else self.box.users)
            and not started_again
        ):
            wrong.append(f"restarted: {moved}")
        if BUSY in moved and scenario.busy:
            wrong.append(f"{BUSY} was restarted at work")
        for user in self.box.users:
            if started_again and results.get(user) == "deferred":
                continue  # may have been seen through already
            self.user_is_on(found, user, *((target, self.level + 1) if user in moved else (self.version, self.level)))
        if scenario.busy and self.server(BUSY) != before[BUSY]:
            wrong.append(f"the server of {BUSY}, who was at work, is another process")
        accepted = target if ended.outcome == "updated" else self.version
        for what, is_ in (
            ("default", slots.default_version(self.settings.paths.versions_dir)),
            ("last-good", slots.read_last_good(self.settings.paths.last_good_file)),
        ):
            if is_ != accepted:
                wrong.append(f"{what} is {is_}, not {accepted}")
        frozen = freeze.is_frozen(self.settings)
        if frozen != (undone or ended.outcome in ("rolled_back", "frozen")) and not started_again:
            wrong.append(f"frozen: {frozen} after {ended.outcome}")
        deferred = [entry.user for entry in records.deferrals(self.journal)]
        if not started_again and deferred != ([user for user in self.box.users if user not in moved] if moved else []):
            wrong.append(f"deferred: {deferred}")
        if self.journal.query("select * from locks where run = ?", ended.id):
            wrong.append("the lock is still held")
        wrong += [f"left in scratch: {path.name}" for path in self.settings.paths.scratch_dir.glob(f"*{ended.id}*")]
        wrong += [f"half a slot: {path.name}" for path in self.settings.paths.versions_dir.rglob(".*partial")]

    def user_is_on(self, found: Attempt, user: str, version: str, level: int) -> None:
        """Link, process, database and dispatch agree."""
        assigned = self.box.assigned(user)
        if assigned != version:
            found.wrong.append(f"{user} is assigned {assigned}, not {version}")
        try:
            pairing.verify(self.host, user, version, 5)
        except pairing.NotPaired as error:
            found.wrong.append(f"{user} cannot pair on {version}: {error}")
        if self.box.level(user) != level:
            found.wrong.append(f"the database of {user} is at level {self.box.level(user)}, not {level}")
        pid = self.server(user)
        runs = slots.running_version(pid, self.settings.paths.versions_dir) if pid else None
        if runs != version:
            found.wrong.append(f"the server of {user} runs {runs}, not {version}")
        if pid and psutil.Process(pid).status() == psutil.STATUS_STOPPED:
            found.wrong.append(f"the server of {user} is held still")

    # Going on -------------------------------------------------------------------------------------------------------

    def finish(self, found: Attempt, target: str, turn: str | None) -> None:
        """Lets the deferral be seen through, then brings the host to rest for the next attempt."""
        waiting = [entry.user for entry in records.deferrals(self.journal)]
        if freeze.is_frozen(self.settings):
            freeze.unfreeze(self.settings, open_journal(self.settings))
            gc.collect()
        if turn is not None:
            self.box.control(BUSY, "turn/end", turn=turn)
        self.wait(lambda: not records.deferrals(self.journal), "every deferral is seen through")
        for user in self.box.users if found.outcome == "updated" else waiting:
            self.user_is_on(found, user, target, self.level + 1)
        if waiting or found.outcome == "updated":
            self.version, self.level = target, self.level + 1
        if (accepted := slots.default_version(self.settings.paths.versions_dir)) != self.version:
            found.wrong.append(f"default is {accepted}, not {self.version}, in the end")
        self.wait(lambda: not self.journal.runs("status = 'running' and workflow != 'bake'"), "no run is left")

    def at_rest(self, found: Attempt) -> None:
        """Stops the consumer; nothing of it may be left."""
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
        """Counts, for all runs of this attempt, the steps that were begun again, and measures how soon the last consumer went on."""
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
        """Copies what tells of a failure."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.box.top / "log", folder / "log", dirs_exist_ok=True)
        for path in (self.box.top / "state").glob("journal.db*"):
            shutil.copy(path, folder)

    def kill_everything(self) -> None:
        """Ends what an attempt that failed may have left."""
        for child in [*self.tracers, *self.box.processes.values()]:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def _read(path: Path) -> bytes:
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def _target(link: Path) -> str:
    with suppress(OSError):
        return os.readlink(link)
    return ""
