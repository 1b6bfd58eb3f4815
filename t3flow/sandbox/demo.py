"""Three nightlies on a complete host in a temporary folder: a good one, one that the gate stops, and one that is rolled back."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t3flow import T3flowError
from t3flow.engine.files import is_on_tmpfs
from t3flow.sandbox import real
from t3flow.sandbox.enter import enter, has_own_network, is_inside
from t3flow.sandbox.folders import temporary_folder
from t3flow.sandbox.host import Sandbox
from t3flow.sandbox.probes import LOCKED, PAUSE_SECONDS, pairing_browsers, restarts


@dataclass(frozen=True)
class Cast:
    """The versions of a demo and their schema levels. The good one is the real t3 if `is_real`."""

    first: str
    first_level: int
    good: str
    good_level: int
    breaks_data: str
    breaks_later: str
    is_real: bool = False
    generation: str = ""


STAND_IN = Cast(
    first="0.0.24",
    first_level=30,
    good="0.0.25-nightly.20260609.501",
    good_level=32,
    breaks_data="0.0.25-nightly.20260610.502",
    breaks_later="0.0.25-nightly.20260611.503",
)
REAL = Cast(
    first="0.0.33",
    first_level=32,
    good=real.VERSION,
    good_level=real.LEVEL,
    breaks_data="0.0.43-nightly.20260917.601",
    breaks_later="0.0.43-nightly.20260918.602",
    is_real=True,
    generation="C",
)
USERS = ["ada", "grace", "linus"]
BUSY = "grace"
DATA = Path(__file__).with_name("data")
WAIT_SECONDS, REAL_WAIT_SECONDS, COMMAND_SECONDS = 30.0, 120.0, 600
REAL_ENVIRONMENT = {
    "T3FLOW_GATE__START_TIMEOUT_S": "90",
    "T3FLOW_DISPATCH__VERIFY_TIMEOUT_S": "90",
    "T3CODE_TELEMETRY_ENABLED": "false",
}
NAMED_PROJECT = (
    "update projection_projects set title = 'compiler' where rowid = (select min(rowid) from projection_projects)"
)
BREAKS_MIGRATION = {"fault": "migration_throws", "when": {"database_has_project_title": "compiler"}}
BREAKS_PAIRING = {"fault": "pairing_500", "when": {"not_scratch": True}}


def main(*, keep: bool = False, plain: bool = False, with_real: bool = False) -> int:
    """Play the demo and return the exit code: 0 if every claim holds. `keep` leaves the folder.

    `with_real`: use the real t3 as the good nightly and download it first; return 2 if that fails.
    """
    if with_real and (code := fetch_real()) != 0:
        return code
    flags = {"--keep": keep, "--plain": plain, "--real": with_real}
    enter([sys.executable, "-m", "t3flow", "demo", *(flag for flag, given in flags.items() if given)])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    if keep:
        return play(
            Path(tempfile.mkdtemp(prefix="t3flow-kept-", dir=on_disk())), plain=plain, with_real=with_real, keep=True
        )
    with temporary_folder("t3flow-demo-", Path(on_disk() or tempfile.gettempdir())) as top:
        return play(top, plain=plain, with_real=with_real)


def play(top: Path, *, plain: bool, with_real: bool, keep: bool = False) -> int:
    """Play the demo in a folder, and return the exit code."""
    sandbox = Sandbox(top, USERS)
    color = sys.stdout.isatty() and not plain and not os.environ.get("NO_COLOR")
    story = Story(sandbox, REAL if with_real else STAND_IN, color=color)
    try:
        story.play()
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        story.check(f"the demo runs to its end ({error})", False)
    finally:
        sandbox.close()
        if keep:
            print(f"\nkept: {top} (logs in {top}/log)")
    return story.conclude()


def fetch_real() -> int:
    """Download the real t3 if it is not cached. Return the exit code."""
    if is_inside():
        return 0
    try:
        if real.cached() is None:
            print(f"downloading {real.PACKAGE}@{real.VERSION} with npm (64 MB) ...", flush=True)
        print(f"the real t3 {real.VERSION}: {real.fetch()}", flush=True)
    except T3flowError as error:
        print(f"t3flow demo --real: {error}; without --real the demo needs nothing", file=sys.stderr)
        return 2
    return 0


def on_disk() -> str | None:
    """Return a parent folder on a disk; /tmp is in memory on some hosts. None for the default."""
    return "/var/tmp" if is_on_tmpfs(Path(tempfile.gettempdir())) else None


class Story:
    """Announce each scene, play it, and check its claims."""

    def __init__(self, sandbox: Sandbox, cast: Cast, *, color: bool) -> None:
        self.sandbox = sandbox
        self.cast = cast
        self.seconds = REAL_WAIT_SECONDS if cast.is_real else WAIT_SECONDS
        self.began = time.monotonic()
        self.failed = 0
        self.summary: list[str] = []
        self._bold, self._green, self._red, self._dim, self._off = (
            ("\033[1m", "\033[32m", "\033[31m", "\033[2m", "\033[0m") if color else ("",) * 5
        )

    def play(self) -> None:
        """Play the four scenes."""
        self.set_up()
        self.good_nightly()
        self.nightly_that_breaks_data()
        self.nightly_that_breaks_later()

    def set_up(self) -> None:
        """Start a host on a quiet evening."""
        box = self.sandbox
        self.scene(
            "A complete host in a folder",
            f"{', '.join(USERS)}: each with a real database, a server and a browser, all on t3 {self.cast.first}",
        )
        self.tell(
            "The npm registry, the dispatch, the supervisor and the consumer are real processes"
            + (" in a network of their own" if has_own_network() else "")
        )
        if self.cast.is_real:
            box.environment |= REAL_ENVIRONMENT
            box.ready_seconds = box.mint_seconds = self.seconds
        database = DATA / f"state-level{self.cast.first_level}.sqlite"
        box.start(self.cast.first, dict.fromkeys(USERS, database), {"schema_level": self.cast.first_level})
        box.start_consumer()
        self.check("all users can pair through the dispatch", all(box.pairs(user) for user in USERS))

    def good_nightly(self) -> None:
        """Show that idle users are restarted at once, and the busy user after her turn."""
        box, good = self.sandbox, self.cast.good
        what = "which renames the pairing endpoint and migrates every database"
        if self.cast.is_real:
            what = "the real t3: another package, other processes, other cookies, and each database from level 32 to 52"
        self.scene(
            f"A good nightly: {good}, {what}",
            f"{BUSY} has a running turn and must not be interrupted; a browser pairs for each user all the time",
        )
        self.publish_good()
        turn = box.control(BUSY, "turn/start", agent="claude")["turn"]
        with pairing_browsers(box, USERS, 1.5 if self.cast.is_real else PAUSE_SECONDS) as browsers:
            self.move_all_users(turn)
        outside = [failure for failure in browsers.outside(restarts(box)) if LOCKED not in failure.cause]
        self.check(
            f"of {browsers.tried} pairings meanwhile, none failed except during the user's own restart", not outside
        )
        for failure in outside:
            self.tell(f"{failure.user} at {time.strftime('%H:%M:%S', time.localtime(failure.began))}: {failure.cause}")
        self.summary.append(f"{good}: two idle users at once, {BUSY} when her turn had ended; no turn was interrupted")

    def publish_good(self) -> None:
        """Publish the good version: the stand-in, or the real package."""
        if not self.cast.is_real:
            self.sandbox.publish(self.cast.good, {"schema_level": self.cast.good_level})
            return
        tarball = real.cached()
        if tarball is None:
            raise AssertionError("the real t3 is not where it was fetched to")
        real.publish(self.sandbox.top / "registry", tarball)

    def move_all_users(self, turn: str) -> None:
        """Run the bump, and wait until the deferral is done."""
        box, first, good = self.sandbox, self.cast.first, self.cast.good
        code = self.run("enqueue", "bump", "--wait", *(["--target", good] if self.cast.is_real else []))
        self.check("the bump succeeds (exit 0)", code == 0)
        # A concurrent pairing can defer a user for a second.
        with suppress(AssertionError):
            box.until(self.idle_users_moved, "ada and linus are moved")
        self.check("ada and linus run the nightly", self.idle_users_moved())
        self.check(
            f"{BUSY} keeps working on {first} and can still pair", box.assigned(BUSY) == first and box.pairs(BUSY)
        )
        self.run("deferrals")
        self.tell(f"The turn of {BUSY} ends; a delayed task restarts the server at the first quiet moment")
        box.control(BUSY, "turn/end", turn=turn)
        began = time.monotonic()
        box.until(
            lambda: box.assigned(BUSY) == good and not box.document("deferrals"), f"{BUSY} is migrated", self.seconds
        )
        self.check(f"{BUSY} was migrated {time.monotonic() - began:.1f} s later and can pair", box.pairs(BUSY))

    def idle_users_moved(self) -> bool:
        """Return whether all users but the busy one are assigned the good nightly."""
        return all(self.sandbox.assigned(user) == self.cast.good for user in USERS if user != BUSY)

    def nightly_that_breaks_data(self) -> None:
        """Show that the gate stops a version that fails on the data of one user."""
        box, version = self.sandbox, self.cast.breaks_data
        self.scene(
            f"A nightly that breaks one user's data: {version}",
            "Its migration fails on a project that only linus has",
        )
        self.change_database("linus", NAMED_PROJECT)
        before = self.fingerprints()
        box.publish(version, self.bad_build(BREAKS_MIGRATION))
        code = self.run("enqueue", "bump", "--wait")
        self.check("the gate stops it (exit 1)", code == 1 and box.document("runs")[-1]["outcome"] == "gate_failed")
        self.check("no server was restarted, and no user was assigned the version", self.fingerprints() == before)
        self.summary.append(f"{version}: stopped by the gate on a copy of the database of linus; no user noticed")

    def nightly_that_breaks_later(self) -> None:
        """Show that a failure which no gate can see is undone at the first user."""
        box, version = self.sandbox, self.cast.breaks_later
        self.scene(
            f"A nightly that only fails in place: {version}",
            "It passes the gate, then pairing breaks on the real server",
        )
        box.publish(version, self.bad_build(BREAKS_PAIRING))
        code = self.run("enqueue", "bump", "--wait")
        run = box.document("runs")[-1]
        self.check("it is rolled back (exit 1, rolled_back)", code == 1 and run["outcome"] == "rolled_back")
        self.check(
            "all users are on the good nightly and can pair",
            all(box.assigned(user) == self.cast.good and box.pairs(user) for user in USERS),
        )
        self.check(
            f"every database is back at schema level {self.cast.good_level}",
            [box.level(user) for user in USERS] == [self.cast.good_level] * len(USERS),
        )
        status = box.document("status")
        self.check(
            "tracking is frozen, and the version is rejected",
            status["frozen"] is not None and version in status["rejected"],
        )
        self.run("status")
        self.summary.append(
            f"{version}: rolled back at the first user, database and program; tracking stays frozen until an operator resumes it"
        )

    # ----------------------------------------------------------------------------------------------------------------

    def bad_build(self, rule: dict[str, Any]) -> dict[str, Any]:
        """Return the behavior of a version that migrates one level further and has a fault."""
        generation = {"generation": self.cast.generation} if self.cast.generation else {}
        return {"schema_level": self.cast.good_level + 1, "rules": [rule], **generation}

    def run(self, *arguments: str) -> int:
        """Print and run a t3flow command, and return its exit code."""
        print(f"{self._dim}$ t3flow {' '.join(arguments)}{self._off}", flush=True)
        return subprocess.run(
            [sys.executable, "-m", "t3flow", *arguments],
            env=self.sandbox.environment,
            stdin=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
            check=False,
        ).returncode

    def change_database(self, user: str, sql: str) -> None:
        """Write to the database of a user."""
        import sqlite3
        from contextlib import closing

        with closing(sqlite3.connect(self.sandbox.database(user), timeout=5)) as connection, connection:
            connection.execute(sql)

    def fingerprints(self) -> dict[str, Any]:
        """Return the process and the assigned version of each user."""
        return {
            user: (self.sandbox.supervise("status", user)["main_pid"], self.sandbox.assigned(user)) for user in USERS
        }

    def scene(self, title: str, text: str) -> None:
        """Print a heading and a line about the scene."""
        print(f"\n{self._bold}{title}{self._off}\n  {text}", flush=True)

    def tell(self, text: str) -> None:
        """Print a line."""
        print(f"  {text}", flush=True)

    def check(self, claim: str, holds: bool | Callable[[], bool]) -> None:
        """Print a claim and whether it holds."""
        good = holds() if callable(holds) else holds
        self.failed += not good
        mark = f"{self._green}✓{self._off}" if good else f"{self._red}✗ NOT SO:{self._off}"
        print(f"  {mark} {claim}", flush=True)

    def conclude(self) -> int:
        """Print the summary and return the exit code."""
        print(f"\n{self._bold}In short{self._off} ({time.monotonic() - self.began:.0f} s)")
        for line in self.summary:
            print(f"  {line}")
        if self.failed:
            print(f"{self._red}{self.failed} of the claims above did not hold{self._off}")
            return 1
        print(f"  Everything was as announced. Next: {self._dim}t3flow --help{self._off}, README.md, ARCHITECTURE.md")
        return 0
