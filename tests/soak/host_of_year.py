"""The host of a simulated year: a sandbox with its own wall clock, users who come and go, and operators who act."""

import gc
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from plan import Night
from rig import FIRST, LEVEL30, Glance, Rig
from shifted import Clock

from t3flow.engine.journal import Run
from t3flow.host import freeze, slots
from t3flow.host.host import open_host
from t3flow.host.records import catalog, deferral_records
from t3flow.sandbox.host import Sandbox, free_port
from t3flow.sandbox.registry import Registry
from t3flow.service.consumer import JOURNAL

DAY = 86400
FOUR = 4 * 3600
TOP = Path(__file__).parents[2]
END_SECONDS = 240.0
CHANGES = (
    ("start_timeout_s = 15", 'start_timeout_s = 15\nseeds = "{seeds}"'),
    ("verify_timeout_s = 6", "verify_timeout_s = 3"),
    ("max_check_interval_s = 5", "max_check_interval_s = 2"),
    ('bump = "0 4 1 1 *"', 'bump = "0 4 * * *"\njitter_s = 0\ntimezone = "UTC"\nlatest = ""'),
    ("retry_for_s = 5", "retry_for_s = 1"),
)
"""Settings that make a night quick."""
SETTINGS = """\
[bake]
minutes = 1
[backup]
replaced_days = {replaced_days}
[journal]
keep_days = {keep_days}
"""
MARKS = "create table if not exists soak_marks (id integer primary key check (id = 1), night integer not null)"
MARK = "insert into soak_marks values (1, ?) on conflict (id) do update set night = excluded.night"


class Violation(AssertionError):
    """The host broke one of its promises."""


class Year(Rig):
    """The rig of the crash tests, whose host lives for a year."""

    def __init__(self, top: Path, users: int, keep_days: int, replaced_days: int, seeds: str) -> None:
        self.clock = Clock()
        self.names = 0
        self.idle = [self._name() for _ in range(users)]
        self.box = Sandbox(top, list(self.idle), quiet_seconds=0)
        text = self.box.config.read_text()
        for old, new in CHANGES:
            assert old in text
            text = text.replace(old, new.replace("{seeds}", seeds))
        self.box.config.write_text(text + SETTINGS.format(keep_days=keep_days, replaced_days=replaced_days))
        self.level, self.version = 30, FIRST
        self.kills, self.record, self.tracers, self.births = [], False, [], []
        self.marks: dict[str, int] = {}
        self.bad: set[str] = set()
        self.programs = 0
        self.turns: dict[str, str] = {}
        self.gone: list[str] = []
        self.new: set[str] = set()
        """Users who came since the last bump that began, and so may follow the default."""
        self.consumers = 0
        try:
            behavior = {"schema_level": 30, "boot_window_ms": 0}
            self.box.start(FIRST, dict.fromkeys(self.box.users, LEVEL30), behavior)
            self.settings = self.box.settings
            self.start_consumer()
            self.journal = Glance(self.settings.paths.state_dir / JOURNAL)
            self.host = open_host(self.settings, self.journal)
        except BaseException:
            self.box.close()
            raise

    def _name(self) -> str:
        self.names += 1
        return f"user{self.names:03}"

    # Time -----------------------------------------------------------------------------------------------------------

    def to(self, night: int, hour: float, days_each: float = 1.0) -> None:
        """Set the wall clock to an hour of a night's day."""
        if not hasattr(self, "first_day"):
            self.first_day = (int(time.time()) // DAY + 1) * DAY
        self.clock.advance(self.first_day + night * days_each * DAY + hour * 3600 - time.time())

    # The consumer ---------------------------------------------------------------------------------------------------

    def start_consumer(self) -> None:
        """Start the consumer."""
        child = self.box.start_consumer()
        self.consumers += 1
        if child.poll() is not None:
            raise Violation(f"the consumer ended with {child.returncode} at its start")

    def upgrade(self) -> None:
        """Restart the consumer with another copy of the package, as an upgrade of t3flow does."""
        self.programs += 1
        copy = self.box.top / f"program-{self.programs}"
        shutil.copytree(TOP / "t3flow", copy / "t3flow", ignore=shutil.ignore_patterns("__pycache__"))
        if code := self.box.end("consumer"):
            raise Violation(f"the consumer ended with {code} when it was stopped")
        self.box.environment["PYTHONPATH"] = str(copy)
        self.start_consumer()
        shutil.rmtree(self.box.top / f"program-{self.programs - 1}", ignore_errors=True)

    # Users ----------------------------------------------------------------------------------------------------------

    def write_map(self) -> None:
        """Write the user map."""
        lines = "".join(f"{user}@example.test={user}\n" for user in self.box.users)
        path = self.settings.paths.user_map
        path.with_suffix(".new").write_text(lines)
        path.with_suffix(".new").rename(path)

    def leave(self, user: str) -> None:
        """Remove an account with its server and home, as an account service does."""
        self.end_turn(user)
        self.box.users.remove(user)
        self.write_map()
        self.box.supervise("stop", user)
        (self.settings.paths.serve_env_dir / f"{user}.env").unlink()
        shutil.rmtree(self.box.base_dir(user).parent)
        self.marks.pop(user, None)
        self.gone.append(user)

    def join(self) -> None:
        """Create an account with a server."""
        user = self._name()
        self.box.ports[user] = free_port()
        self.box.base_dir(user).mkdir(parents=True)
        (self.settings.paths.serve_env_dir / f"{user}.env").write_text(f"T3_PORT={self.box.ports[user]}\n")
        self.box.copy_databases({user: LEVEL30})
        self.box.users.append(user)
        self.new.add(user)
        self.write_map()
        self.box.supervise("start", user)
        self.box.until(lambda: self.box.pairs(user, 1), f"{user} can pair", END_SECONDS)

    def mark(self, night: int) -> None:
        """Write the number of the night into each database, which tells later which state it is."""
        for user in self.box.users:
            with closing(sqlite3.connect(self.box.database(user), timeout=20)) as connection, connection:
                connection.execute(MARKS)
                connection.execute(MARK, (night,))
            self.marks[user] = night

    def mark_of(self, database: Path) -> int:
        """Return the number of the night in a database, 0 without one."""
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20)) as connection:
            with suppress(sqlite3.OperationalError):
                return int(connection.execute("select night from soak_marks").fetchone()[0])
            return 0

    def start_turn(self, user: str) -> None:
        """Make a user busy."""
        self.turns[user] = str(self.box.control(user, "turn/start", agent="claude")["turn"])

    def end_turn(self, user: str) -> None:
        """End a user's turn, if there is one and its server still runs."""
        if (turn := self.turns.pop(user, None)) is not None:
            with suppress(AssertionError, OSError):
                self.box.control(user, "turn/end", turn=turn)

    # Runs -----------------------------------------------------------------------------------------------------------

    def release(self, night: Night) -> str:
        """Publish the build of a night and return its version."""
        migrates = night.raises_level or (night.rule or {}).get("fault") == "migration_throws"
        level = self.level + (1 if migrates and night.release else 0)
        version = f"0.0.25-nightly.{time.strftime('%Y%m%d', time.gmtime())}.{500 + night.number}"
        behavior = {"schema_level": level, "boot_window_ms": 0, "rules": [night.rule] if night.rule else []}
        self.box.publish(version, behavior)
        if night.rule:
            self.bad.add(version)
        else:
            self.level = level
        shutil.rmtree(self.box.top / "registry" / "packed", ignore_errors=True)
        return version

    def registry(self) -> Registry:
        """Return the registry, for its faults."""
        return Registry(self.box.top / "registry")

    def enqueue(self, *words: str) -> str:
        """Start a run with the command and return its id."""
        said = self.box.document("enqueue", *words)
        return str(said["run"])

    def ended(self, run: str) -> Run:
        """Wait for the end of a run."""
        self.box.until(lambda: self.over(run), f"run {run} has ended", END_SECONDS)
        return self.journal.run(run)

    def settle(self) -> None:
        """End what is temporary, and wait until no run is left: freezes, turns, deferrals, bakes."""
        for user in list(self.turns):
            self.end_turn(user)
        deadline = time.monotonic() + END_SECONDS
        self.clock.advance(3700)  # after a retry within the hour
        while True:
            if freeze.is_frozen(self.settings) and (failed := self.box.t3flow("unfreeze")).returncode:
                raise Violation(f"unfreeze: {failed.stderr}")
            if self._is_settled():
                return
            if not self.journal.runs("status = 'running' and workflow != 'bake'"):
                self.clock.advance(120)  # after the bake
            if time.monotonic() > deadline:
                pending = deferral_records.deferrals(self.journal)
                shown = [f"{each.user} to {each.version}: {each.waiting_for}, {each.detail}" for each in pending]
                left = [run.id for run in self.journal.runs("status = 'running'")]
                raise Violation(f"pending after {END_SECONDS:g} s: {'; '.join(shown)}; runs {left}")
            time.sleep(0.3)

    def _is_settled(self) -> bool:
        pending = [each for each in deferral_records.deferrals(self.journal) if each.user in self.box.users]
        return not self.journal.runs("status = 'running'") and not pending

    def default(self) -> str | None:
        """Return the default version."""
        return slots.default_version(self.settings.paths.versions_dir)

    def snapshots(self) -> list[catalog.Backup]:
        """Return all recorded snapshots of present users."""
        return [each for each in catalog.backups(self.journal) if each.user in self.box.users]

    def close(self) -> None:
        """End all processes."""
        gc.collect()
        self.box.close()

    def keep_evidence(self, folder: Path) -> None:
        """Copy logs, journal, and settings of a violation."""
        self.keep(folder)
        shutil.copy(self.box.config, folder)
