"""One test for each clause of the definition of idle, on real databases, processes and terminals."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from scenes import write

from t3flow.host.activity import idle
from t3flow.host.activity.idle import Idleness, UnitProcesses
from t3flow.host.backups import store
from t3flow.host.home import activity
from t3flow.host.home.database import Problem
from t3flow.host.host import Host
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.owner.reader import OwnerReader
from t3flow.host.services.manager import ServerState

QUIET = 900
SERVER = """
import os, pty, subprocess, sys, time
children, opened = [], []
for line in sys.stdin:
    words = line.split()
    if words[0] == "open":
        for fd in opened:
            os.close(fd)
        opened = [os.open(words[1], os.O_RDONLY)] if os.path.exists(words[1]) else []
    elif words[0] == "pty":
        pid, fd = pty.fork()
        if pid == 0:
            os.execvp(words[1], words[1:])
        children.append(fd)
    elif words[0] == "type":
        os.write(children[-1], (" ".join(words[1:]) + "\\n").encode())
    else:
        children.append(subprocess.Popen(words[1:], executable=words[0], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
    print("done", flush=True)
"""


class Server:
    """A stand-in for a user's server that starts children on request."""

    def __init__(self) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.started = time.time()

    def has(self, order: str) -> None:
        """Start a child: `PROGRAM ARGV…`, or `pty ARGV…` on its own terminal; `type TEXT` into that; or `open PATH` as its database."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(order + "\n")
        self.child.stdin.flush()
        assert self.child.stdout.readline() == "done\n"

    def state(self, started_wall: float | None = None) -> ServerState:
        return ServerState("t3-serve@ada", True, self.child.pid, started_wall or self.started, "active")

    def close(self) -> None:
        below = psutil.Process(self.child.pid).children(recursive=True)
        self.child.kill()
        self.child.wait()
        for process in below:
            with suppress(psutil.NoSuchProcess):  # a shell ends with its terminal
                process.kill()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def host(bare: Callable[..., Host]) -> Host:
    made = bare(quiet_seconds=QUIET)
    write(database(made), "delete from projection_thread_sessions")
    return made


def database(host: Host) -> Path:
    return store.database_path(host, "ada")


def thread(host: Host, seconds_ago: float, *, turn: bool = False, text: str | None = None) -> None:
    """Insert a thread that changed so long ago, with or without a turn."""
    moment = (
        datetime.fromtimestamp(time.time() - seconds_ago, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
    write(
        database(host),
        "insert into projection_thread_sessions (thread_id, status, active_turn_id, updated_at, runtime_mode) "
        "values (hex(randomblob(8)), ?, ?, ?, 'full-access')",
        "running" if turn else "ready",
        "turn-1" if turn else None,
        text if text is not None else moment,
    )


def ask(
    host: Host, server: Server, state: ServerState | None = None, *, canary: bool = True, ignore: bool = False
) -> Idleness:
    """Read idleness as `read_idleness`, for a unit of the server and its descendants."""
    state = state or server.state()
    assert state.main_pid is not None
    server.has(f"open {database(host)}")
    below = psutil.Process(state.main_pid).children(recursive=True) if psutil.pid_exists(state.main_pid) else []
    unit = UnitProcesses(state.main_pid, (), [state.main_pid, *(process.pid for process in below)])
    try:
        with OwnerReader(host, "ada") as reader:
            return idle.judge(host, "ada", state, unit, reader, canary=canary, ignore_processes=ignore)
    except OwnerProblem as problem:
        return idle.unreadable(str(problem), 60)


def test_idle_is_quiet_without_turn_or_process(host: Host, server: Server) -> None:
    thread(host, QUIET + 60)
    found = ask(host, server)
    assert found.idle, found
    assert found.level == 30
    assert found.fingerprint is not None


def test_no_thread_at_all_is_idle(host: Host, server: Server) -> None:
    assert ask(host, server).idle


def test_a_live_turn_is_not_idle(host: Host, server: Server) -> None:
    thread(host, 0, turn=True)
    thread(host, 5000)
    found = ask(host, server)
    assert (found.idle, found.waiting_for, found.detail) == (False, "active_turn", "a turn is running")
    assert found.ask_again > time.time()


def test_a_turn_of_a_dead_server_does_not_count(host: Host, server: Server) -> None:
    """t3 leaves `active_turn_id` set for ever when it is stopped in mid-turn."""
    thread(host, QUIET + 60, turn=True)
    assert ask(host, server).idle


def test_a_turn_about_as_old_as_the_server_counts(host: Host, server: Server) -> None:
    thread(host, 2, turn=True)
    assert ask(host, server).waiting_for == "active_turn"


def test_quiet_is_counted_from_the_newest_change_of_any_thread(host: Host, server: Server) -> None:
    thread(host, 5000)
    thread(host, 100)
    found = ask(host, server)
    assert found.waiting_for == "quiet_period"
    assert abs(found.ask_again - (time.time() + QUIET - 100)) < 5, "asked again when the quiet period can be over"


def test_a_turn_that_died_within_the_quiet_period_is_still_a_change(host: Host, server: Server) -> None:
    thread(host, 100, turn=True)
    assert ask(host, server).waiting_for == "quiet_period"


def test_a_job_below_the_server_is_work(host: Host, server: Server) -> None:
    server.has("/bin/sleep sleep 100")
    for canary in (True, False):
        found = ask(host, server, canary=canary)
        assert found.waiting_for == "running_process"
        assert "sleep" in found.detail
    assert ask(host, server, ignore=True).idle, "unless a person said so"


def test_an_agent_child_defers_the_canary_only(host: Host, server: Server) -> None:
    server.has("/bin/sleep codex 100")
    assert ask(host, server, canary=True).waiting_for == "running_process"
    assert ask(host, server, canary=False).idle


def test_ignored_processes_never_hide_a_turn(host: Host, server: Server) -> None:
    server.has("/bin/sleep sleep 100")
    thread(host, 0, turn=True)
    assert ask(host, server, ignore=True).waiting_for == "active_turn"


def test_a_shell_at_its_prompt_is_no_work(host: Host, server: Server) -> None:
    server.has("pty bash --norc -i")
    time.sleep(0.5)
    assert ask(host, server).idle
    server.has("type sleep 100")
    time.sleep(0.5)
    assert ask(host, server).waiting_for == "running_process", "an overnight job in its terminal is"


@pytest.mark.parametrize("words", ["/bin/sh sh -c sleep${IFS}100", "pty sh -c sleep${IFS}100"])
def test_a_shell_with_a_script_is_work(host: Host, server: Server, words: str) -> None:
    server.has(words)
    time.sleep(0.2)
    assert ask(host, server).waiting_for == "running_process"


def _is_doubt(found: Idleness, *words: str) -> None:
    assert not found.idle
    assert found.waiting_for == "unreadable_state"
    assert all(word in found.detail for word in words), found.detail
    assert found.ask_again > time.time()


def test_a_change_in_the_future_is_one_from_before_the_start(host: Host, server: Server) -> None:
    """A previous server had another clock: quiet counts from this server's start, not from a moment that may be years ahead."""
    thread(host, -3600)
    assert ask(host, server).waiting_for == "quiet_period"


def test_a_clock_step_since_the_start_is_bridged(host: Host, server: Server) -> None:
    """A turn of a previous server stays dead; one that began before the step is alive (all cases: test_clock.py)."""
    thread(host, 9000, turn=True)
    assert ask(host, server, server.state(started_wall=server.started - 7200)).idle
    thread(host, 7100, turn=True)
    assert ask(host, server, server.state(started_wall=server.started - 7200)).waiting_for == "active_turn"


def test_a_server_that_is_gone_is_doubt(host: Host, server: Server) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    _is_doubt(ask(host, server, ServerState("u", True, gone.pid, time.time(), "active")), "age")


@pytest.mark.parametrize("text", ["yesterday", "", "2026-11-23T23:03:22", "99999-01-01T00:00:00Z"])
def test_a_time_that_cannot_be_read_is_doubt(host: Host, server: Server, text: str) -> None:
    thread(host, 0, text=text)
    _is_doubt(ask(host, server), "time")


def test_a_locked_database_is_doubt(host: Host, server: Server) -> None:
    with closing(sqlite3.connect(database(host))) as other:
        other.execute("pragma locking_mode = exclusive")
        other.execute("create table mine (x)")
        other.commit()
        _is_doubt(ask(host, server), "locked")


def test_a_write_under_way_is_doubt(host: Host, server: Server) -> None:
    """A commit in the log that is not in its index yet is invisible, but would be there after the end."""
    with closing(sqlite3.connect(database(host), isolation_level=None)) as other:
        other.execute("pragma journal_mode = wal")
        other.execute("begin immediate")
        _is_doubt(ask(host, server), "is writing to")
        other.execute("rollback")
        assert ask(host, server).idle, "an open connection alone is none"


def test_a_missing_database_is_doubt(host: Host, server: Server) -> None:
    database(host).unlink()
    _is_doubt(ask(host, server), "no database")


def test_a_corrupt_database_is_doubt(host: Host, server: Server) -> None:
    database(host).write_bytes(b"garbage" * 1000)
    _is_doubt(ask(host, server), "not a database")


def test_an_empty_database_is_doubt(host: Host, server: Server) -> None:
    database(host).write_bytes(b"")
    _is_doubt(ask(host, server), "empty")


def test_a_foreign_database_is_doubt(host: Host, server: Server) -> None:
    database(host).unlink()
    write(database(host), "create table holidays (day)")
    _is_doubt(ask(host, server), "keeps its work")


def test_a_view_in_place_of_the_table_is_doubt(host: Host, server: Server) -> None:
    """Files that a user could place to look idle, or to make the reader execute something, are not read."""
    write(database(host), "drop table projection_thread_sessions")
    write(
        database(host),
        "create view projection_thread_sessions as select null as active_turn_id, '2020-01-01T00:00:00Z' as updated_at",
    )
    _is_doubt(ask(host, server), "keeps its work")


def test_a_database_that_is_a_link_is_doubt(host: Host, server: Server, tmp_path: Path) -> None:
    database(host).rename(tmp_path / "elsewhere")
    database(host).symlink_to(tmp_path / "elsewhere")
    _is_doubt(ask(host, server), "regular file")


def test_a_database_that_lies_in_its_log_alone_is_read(host: Host, server: Server) -> None:
    """Until its first clean stop, all data of a server is in the write-ahead log."""
    text = "\n".join(closing(sqlite3.connect(database(host))).thing.iterdump())
    database(host).unlink()
    with closing(sqlite3.connect(database(host))) as other:
        other.execute("pragma journal_mode = wal")
        other.execute("pragma wal_autocheckpoint = 0")
        other.executescript(text)
        thread(host, 0, turn=True)
        assert database(host).stat().st_size == 4096
        assert ask(host, server).waiting_for == "active_turn"


# The databases of later servers ---------------------------------------------------------------------------------------

DATA = Path(__file__).parents[2] / "data"
RUN = "update orchestration_v2_projection_runs set status = ?, payload_json = ?"


@pytest.fixture
def later(bare: Callable[..., Host]) -> Host:
    """Return a user whose live database is the second one; the first has a stale turn."""
    made = bare(quiet_seconds=QUIET)
    (database(made).parent / "statev2.sqlite").write_bytes((DATA / "statev2-level56.sqlite").read_bytes())
    return made


def ask_later(host: Host, server: Server) -> Idleness:
    """With the second database open and the first closed."""
    first = database(host)
    first.rename(first.with_name("aside.sqlite"))
    first.symlink_to("statev2.sqlite")  # what `ask` has the server open
    try:
        server.has(f"open {first}")
    finally:
        first.unlink()
        first.with_name("aside.sqlite").rename(first)
    unit = UnitProcesses(server.child.pid, (), [server.child.pid])
    try:
        with OwnerReader(host, "ada") as reader:
            return idle.judge(host, "ada", server.state(), unit, reader, canary=True, ignore_processes=False)
    except OwnerProblem as problem:
        return idle.unreadable(str(problem), 60)


def stamp(seconds_ahead: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds_ahead, UTC).isoformat(timespec="milliseconds")


def test_the_live_database_alone_counts(later: Host, server: Server) -> None:
    """The first database is stale once there is a second: a new turn in it belongs to no running server."""
    thread(later, 0, turn=True)
    assert ask_later(later, server).idle, ask_later(later, server)


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_live_database_that_is_no_longer_there_means_not_idle(later: Host, how: str) -> None:
    """The server goes on in a file that the set does not have: the other database does not show its turns, and no snapshot has what it wrote."""
    second = database(later).with_name("statev2.sqlite")
    with second.open("rb") as live, database(later).open("rb"):
        assert activity.read_state(second.parent, [os.getpid()])["live"] == ["state.sqlite", "statev2.sqlite"]
        second.unlink()
        if how == "replaced":
            second.write_bytes(live.read())
        with pytest.raises(Problem, match=r"works in statev2\.sqlite, which was removed or replaced"):
            activity.read_state(second.parent, [os.getpid()])


@pytest.mark.parametrize(
    ("status", "payload", "waiting_for"),
    [
        ("preparing", "{}", "active_turn"), ("starting", "{}", "active_turn"), ("running", "{}", "active_turn"),
        ("waiting", "{}", "active_turn"), ("queued", "{}", "queued_work"), ("queued", '{"queueHeld": false}', "queued_work"),
        ("queued", '{"queueHeld": true}', ""), ("completed", "{}", ""), ("cancelled", "{}", ""), ("interrupted", "{}", ""),
        ("failed", "{}", ""), ("rolled_back", "{}", ""), ("dreaming", "{}", "unreadable_state"), ("queued", "[]", "unreadable_state"),
    ],
)  # fmt: skip
def test_runs(later: Host, server: Server, status: str, payload: str, waiting_for: str) -> None:
    """A run is live whatever its age; one that waits in a held queue starts only when its user says so."""
    write(database(later).with_name("statev2.sqlite"), RUN, status, payload)
    found = ask_later(later, server)
    assert (found.idle, found.waiting_for) == (not waiting_for, waiting_for), found


@pytest.mark.parametrize("status", ["pending", "running", "succeeded", "failed"])
def test_effects(later: Host, server: Server, status: str) -> None:
    write(database(later).with_name("statev2.sqlite"), "update orchestration_v2_effect_outbox set status = ?", status)
    found = ask_later(later, server)
    assert found.waiting_for == ("queued_work" if status in ("pending", "running") else ""), found


@pytest.mark.parametrize(
    ("enabled", "due", "waits"), [(1, 30, True), (1, -5, True), (1, 3600, False), (1, -7200, False), (0, 30, False)]
)
def test_a_scheduled_task_that_would_fall_into_the_restart(
    later: Host, server: Server, enabled: int, due: float, waits: bool
) -> None:
    """Also beside a task that was missed long ago, which does not count."""
    for task, moment, is_enabled in (("a", due, enabled), ("b", -90000.0, 1)):
        write(
            database(later).with_name("statev2.sqlite"),
            "insert into scheduled_tasks values (?, 't', 'p', ?, '{}', 'p', null, '{}', '{}', 'm', 'm', 'u', 'u', ?, ?, ?, null, 'n', null, 0)",
            *(task, is_enabled, stamp(-90000), stamp(-90000), stamp(moment)),
        )
    found = ask_later(later, server)
    assert (found.waiting_for, "scheduled" in found.detail) == (("queued_work", True) if waits else ("", False)), found
