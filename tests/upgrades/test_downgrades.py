"""A t3flow that is older than the journal: one line that names both versions and what to do, and nothing changes."""

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from reversible import EFFECTS, WORKFLOWS, completed, started
from scenes import NEXT, bump, is_busy, tree
from support import begin, deliver, open_engine, settle

from t3flow import __version__
from t3flow.engine import downgrades
from t3flow.engine.engine import Engine
from t3flow.engine.journal import WRITTEN_BY, append_event
from t3flow.engine.reader import ReadOnlyJournal
from t3flow.host.host import Host
from t3flow.sandbox.host import Sandbox
from t3flow.web.reader import Reader

NEWER = "99.1.0"
COMMANDS = """
status; status --json; deferrals; deferrals --json; runs; runs --json; show bump; watch --json; cancel bump; actions; verify; verify --json;
backups; backups --json; restore ada x; metrics; hold ada; release ada; pin 0.0.24; unpin; unfreeze; deferrals revoke ada;
enqueue bump; enqueue drain; enqueue rollback; adopt; adopt --dry-run; doctor; doctor --json; doctor --fix; consumer
"""
UNMOUNT = {"undo": "unmount", "takes": ["name", "where"]}


def test_every_command_refuses_the_journal_of_a_newer_t3flow(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada", "grace"])
    is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    box.end("consumer")
    path = box.settings.paths.state_dir / "journal.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("pragma user_version = 7")
        connection.execute("insert or replace into meta values (?, ?)", (WRITTEN_BY, json.dumps(NEWER)))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    try:
        refuses_everything(box, path)
    finally:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("pragma user_version = 1")


def refuses_everything(box: Sandbox, path: Path) -> None:
    """Try every command, the consumer, and the page."""
    before, digest = tree(box.top, "log", "home", "state"), hashlib.sha256(path.read_bytes()).hexdigest()
    for command in COMMANDS.replace("\n", " ").strip().split("; "):
        said = box.t3flow(*command.split())
        text = said.stdout + said.stderr if command.startswith("doctor") else said.stderr
        assert said.returncode == (1 if command.startswith("doctor") else 2), (command, said)
        if command != "doctor --json":
            assert len(text.strip().splitlines()) <= (1 if not command.startswith("doctor") else 3), (command, text)
        if not command.startswith("doctor"):
            assert not said.stdout.strip(), (command, said.stdout)
        flat = " ".join(text.split())
        assert f"t3flow {NEWER} (format 7)" in flat, (command, text)
        assert f"t3flow {__version__} (format 1)" in flat, (command, text)
        assert "install" in flat, command
        assert "Traceback" not in text, command
    seen = Reader(box.settings).seen()
    assert seen.status is None
    assert seen.problem is not None
    assert f"t3flow {NEWER} (format 7)" in seen.problem["text"]
    assert tree(box.top, "log", "home", "state") == before
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(("user_version", "words"), [(7, f"written by t3flow {NEWER} (format 7)"), (1, "switched")])
def test_the_installer_refuses_before_it_replaces_the_program(
    bare: Callable[..., Host], tmp_path: Path, user_version: int, words: str
) -> None:
    """The lines of install.sh that decide, with the real program as the release that is to be installed."""
    host = bare()
    host.journal.set_meta(WRITTEN_BY, NEWER)
    with host.journal.transaction() as connection:
        connection.execute(f"pragma user_version = {user_version}")
    lines = (Path(__file__).parent.parent.parent / "deploy/install.sh").read_text()
    decision = (
        lines.split("# A journal that a newer t3flow wrote")[1].split("\n", 1)[1].split("# Account, folders, units")[0]
    )
    fresh = tmp_path / "program-fresh"
    (fresh / "bin").mkdir(parents=True)
    (fresh / "bin/t3flow").symlink_to(Path(sys.executable).parent / "t3flow")
    script = f'set -eu; fail() {{ echo "install: $*" >&2; exit 1; }}; before=/opt/t3flow/former; fresh={fresh}\n{decision}\necho switched'
    environment = {**os.environ, "T3FLOW_CONFIG": str(tmp_path / "box/config.toml")}
    said = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert words in said.stdout + said.stderr, said
    assert (said.returncode, fresh.exists()) == ((1, False) if user_version == 7 else (0, True))
    assert len((said.stdout + said.stderr).strip().splitlines()) == 1
    with host.journal.transaction() as connection:
        connection.execute("pragma user_version = 1")


def test_the_consumer_records_its_version(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"])
    assert downgrades.newest_program(box.journal) == __version__
    assert downgrades.newer_program(box.journal) == ""


@pytest.mark.parametrize(
    ("version", "other", "expected"),
    [("0.2.0", "0.1.9", True), ("0.10.0", "0.9.0", True), ("1.0.0", "1.0.0", False), ("0.1.0", "1.0", False)],
)
def test_versions_are_compared_by_their_numbers(version: str, other: str, expected: bool) -> None:
    assert downgrades.is_newer(version, other) is expected


# A run of a newer t3flow whose steps are unknown ------------------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """Provide the engine of an older t3flow, with the journal of a newer one."""
    open_engine(tmp_path, WORKFLOWS).journal.set_meta(WRITTEN_BY, NEWER)
    return open_engine(tmp_path, WORKFLOWS)


def begun_by_a_newer_one(engine: Engine) -> tuple[str, list[Any]]:
    """Begin a run with a step that this program does not know, and let a worker look at it."""
    run = begin(engine, "two")
    events = [
        started("mount", "a", **UNMOUNT),
        completed("mount", "a"),
        started("teleport", "a"),
        completed("teleport"),
    ]
    with engine.journal.transaction() as connection:
        for kind, name, data in events:
            append_event(connection, run, kind, name, 1, data)
    before = engine.journal.events(run)
    deliver(engine)
    return run, before


def test_a_run_of_a_newer_t3flow_stays_as_it_is(engine: Engine, log: list[str]) -> None:
    EFFECTS.clear()
    run, before = begun_by_a_newer_one(engine)
    engine.recover()
    deliver(engine)
    assert engine.journal.run(run).status == "running"
    assert engine.journal.events(run) == before
    assert EFFECTS == []
    assert downgrades.left_alone(engine.journal) == [run]
    assert any(NEWER in line and f"t3flow cancel {run}" in line for line in log)


def test_it_is_undone_once_it_is_canceled(engine: Engine) -> None:
    EFFECTS.clear()
    run, _ = begun_by_a_newer_one(engine)
    with engine.journal.transaction() as connection:
        connection.execute("insert into signals values (?, 'cancel', 0)", (run,))
    engine.deliver_signals()
    assert settle(engine, run).outcome == "error"
    assert "-a" in EFFECTS


def test_a_newer_t3flow_takes_it_up_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = begun_by_a_newer_one(engine)
    downgrades.record_program(engine.journal)
    assert downgrades.left_alone(engine.journal) == [run], "this one is older"
    assert downgrades.newest_program(engine.journal) == NEWER
    monkeypatch.setattr(downgrades, "__version__", "99.2.0")
    downgrades.record_program(engine.journal)
    assert downgrades.left_alone(engine.journal) == []
    assert downgrades.newest_program(engine.journal) == "99.2.0"


def test_status_tells_of_it(make_box: Callable[..., Sandbox]) -> None:
    """A problem names the run and what to do; a reader without rights sees it too."""
    box = make_box(["ada"], consumer=False)
    box.start_consumer()
    run = box.document("enqueue", "bump")["run"]
    box.until(lambda: box.document("show", run)["status"] != "running", "it ends")
    box.end("consumer")
    with box.journal.transaction() as connection:
        connection.execute("update runs set status = 'running', held = 'newer' where id = ?", (run,))
    [problem] = [each for each in box.document("status")["problems"] if each["key"] == "newer_run"]
    assert run in problem["text"]
    assert f"t3flow cancel {run}" in problem["remedy"]
    assert downgrades.left_alone(ReadOnlyJournal(box.journal.path)) == [run]
    with box.journal.transaction() as connection:
        connection.execute("update runs set status = 'cancelled' where id = ?", (run,))
