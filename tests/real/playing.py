"""Helpers for tests with the real t3: sandboxes with longer timeouts, faults by a prelude, work in its databases."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

from scenes import write

from t3flow.host.pairing import probe
from t3flow.sandbox import real
from t3flow.sandbox.host import Sandbox
from t3flow.sandbox.probes import LOCKED, pairing_browsers, restarts

USERS = ["ada", "grace", "linus"]
LEVEL32 = Path(__file__).parent.parent / "data" / "state-level32.sqlite"
LEVEL52 = Path(__file__).parent.parent / "data" / "state-level52.sqlite"
PATIENCE = {
    "T3FLOW_GATE__START_TIMEOUT_S": "90",
    "T3FLOW_DISPATCH__VERIFY_TIMEOUT_S": "90",
    "T3FLOW_BAKE__MAX_FAILURES": "1000",
    "T3CODE_TELEMETRY_ENABLED": "false",
}
READY_SECONDS = 120.0
PAIR_SECONDS = 60.0
LONG_SECONDS = 600.0
PAUSE_SECONDS = 4.0
"""The pause between two pairings of a browser. Minting takes more than a second of CPU."""

TABLES = ("projection_projects", "projection_threads", "projection_thread_messages")

MARK = "fails-here"
FAILS_IN_PLACE = f"""\
import {{ existsSync as isThere }} from "node:fs";
const after = (name) => process.argv.indexOf(name) + 1;
if (process.argv[2] === "serve" && isThere(`${{process.argv[after("--base-dir")]}}/../{MARK}`))
  process.argv[after("--port")] = String(Number(process.argv[after("--port")]) + 31000);
"""
"""In a home with the mark, the server migrates the database and listens on another port. The gate's copies have no mark."""


def patient(make_box: Callable[..., Sandbox], users: list[str] = USERS) -> Sandbox:
    """Return a sandbox that has not started, with timeouts for the real program on a busy machine."""
    box = make_box(users, start=False)
    box.environment |= PATIENCE
    box.ready_seconds, box.mint_seconds = READY_SECONDS, PAIR_SECONDS
    return box


def publish(box: Sandbox, prelude: str = "") -> None:
    """Publish the real t3."""
    tarball = real.cached()
    assert tarball is not None
    real.publish(box.top / "registry", tarball, prelude=prelude)


def rows(box: Sandbox, user: str) -> dict[str, int]:
    """Return the number of rows of a user's work by table."""
    with closing(sqlite3.connect(f"file:{box.database(user)}?mode=ro", uri=True)) as connection:
        return {name: connection.execute(f"select count(*) from {name}").fetchone()[0] for name in TABLES}


def level_of(database: Path) -> int:
    """Return the schema level of a database that no server has open."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        level: int = connection.execute("select max(migration_id) from effect_sql_migrations").fetchone()[0]
        return level


def begin_turn(box: Sandbox, user: str) -> str:
    """Write the rows of a turn that begins, as the real server does, and return the thread."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    with closing(sqlite3.connect(box.database(user), timeout=10)) as connection:
        thread: str = connection.execute("select thread_id from projection_thread_sessions limit 1").fetchone()[0]
    said = "update projection_thread_sessions set status = 'running', active_turn_id = 'turn', updated_at = ? where thread_id = ?"
    write(box.database(user), said, now, thread)
    return thread


def end_turn(box: Sandbox, user: str, thread: str) -> None:
    """Write the rows of a turn that ends."""
    said = "update projection_thread_sessions set status = 'ready', active_turn_id = null where thread_id = ?"
    write(box.database(user), said, thread)


@contextmanager
def nobody_is_shut_out(box: Sandbox, users: list[str]) -> Iterator[None]:
    """Let a browser pair for each user in a loop. Only pairings during a restart of the user's own server may fail."""
    with patch.object(probe, "PAIR_SECONDS", PAIR_SECONDS), pairing_browsers(box, users, PAUSE_SECONDS) as browsers:
        yield
    outside = [failure for failure in browsers.outside(restarts(box)) if LOCKED not in failure.cause]
    assert not outside, outside
    assert browsers.tried >= len(users)


def all_is_well(box: Sandbox, versions: dict[str, str]) -> None:
    """Check that each user is assigned this version, runs it, and can pair. Sequential, because minting is slow."""
    shown = box.document("status")["users"]
    for user, version in versions.items():
        assert box.assigned(user) == version
        assert (shown[user]["running_version"], shown[user]["active"]) == (version, True), shown[user]
        verified = box.t3flow("verify", user)
        assert verified.returncode == 0, verified


def findings(box: Sandbox, tries: int = 3) -> list[str]:
    """Return the findings of `t3flow doctor`. Retries if a pairing timed out, because the doctor pairs users concurrently."""
    found: list[dict[str, Any]] = box.document("doctor")
    if tries > 1 and any(each["check"] == "pairing" for each in found):
        return findings(box, tries - 1)
    return [f"{each['check']}: {each['problem']}" for each in found]
