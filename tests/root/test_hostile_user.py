"""A hostile account on the host: whatever Mallory does to what is his, nothing of anybody else's changes or is read, and he is named in one line.

Real root, real accounts, in a mount namespace; what he does, processes of his do (`hostile.py`).
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from conftest import LEVEL30

from t3flow import periodic, restart
from t3flow.consumer import open_journal, prepare
from t3flow.engine.queue import open_queue, queue_key
from t3flow.files import claim_folder
from t3flow.host import backups, owned, processes, slots
from t3flow.host.host import Host, open_host
from t3flow.host.launcher import install_launcher
from t3flow.host.owned import OwnerProblem, OwnerReader
from t3flow.sandbox.host import Sandbox

HOSTILE = Path(__file__).with_name("hostile.py")
KINDS = ["symlink", "hardlink", "fifo", "device", "sparse", "folder"]
PLACES = ["state.sqlite", "state.sqlite-wal", "userdata", ".t3", "home"]


class World:
    """Two users: Mallory, and Ada whom he is after. And root, who has a secret."""

    def __init__(self, top: Path, accounts: dict[str, int]) -> None:
        os.chmod(top, 0o755)
        self.top, self.uids = top, accounts
        self.box = Sandbox(top, ["mallory", "ada"], extra="[backup]\ntimeout_s = 3\n")
        self.host: Host = open_host(self.box.settings, open_journal(self.box.settings, create=True))
        os.chmod(top / "backups", 0o711)
        self.token = secrets.token_hex(16)
        self.secret = top / "state/secret"
        self.secret.write_text(self.token)
        self.secret.chmod(0o600)
        self.children: list[subprocess.Popen[bytes]] = []
        for user in self.box.users:
            self.give(user)
        os.chmod(self.home("ada"), 0o700)
        self.of_ada = self.fingerprint()

    def home(self, user: str) -> Path:
        return self.box.base_dir(user).parent

    def give(self, user: str) -> None:
        """A home as it should be."""
        home = self.home(user)
        if home.is_symlink() or home.is_file() or home.is_fifo() or home.is_char_device():
            home.unlink()
        shutil.rmtree(home, ignore_errors=True)
        self.box.database(user).parent.mkdir(parents=True)
        self.box.database(user).write_bytes(LEVEL30.read_bytes())
        with closing(sqlite3.connect(self.box.database(user))) as connection, connection:
            connection.execute(f"create table whose as select '{user}' as name")
        self.box.database(user).chmod(0o600)
        for path in (home, *home.rglob("*")):
            os.chown(path, self.uids[user], self.uids[user])

    def fingerprint(self) -> dict[str, str]:
        """All of Ada's, and root's secret."""
        paths = [self.secret, *(path for path in self.home("ada").rglob("*") if path.is_file())]
        paths = [
            path for path in paths if not path.name.endswith(("-wal", "-shm"))
        ]  # a read by her own makes and removes them
        return {
            str(path): f"{path.stat().st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths
        }

    def words(self, *words: str) -> list[str]:
        """A command as Mallory."""
        uid = self.uids["mallory"]
        return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--pdeathsig=KILL", *words]

    def does(self, deed: str, *words: object) -> str:
        """What one of his deeds prints, to its end."""
        command = self.words(sys.executable, "-I", str(HOSTILE), deed, *map(str, words))
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    def begins(self, deed: str, *words: object) -> subprocess.Popen[bytes]:
        """One of his deeds, going on."""
        command = self.words(sys.executable, "-I", str(HOSTILE), deed, *map(str, words))
        self.children.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        return self.children[-1]

    def stop(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
        self.children = []

    def take(self, user: str = "mallory") -> Path:
        return Path(backups.take(self.host, user, wrote="1.0.0", target="2.0.0", run="run-1").path)

    def nothing_happened(self) -> None:
        """Ada's and root's are as they were, he can read no secret, and Ada's backup is had."""
        self.stop()
        assert self.fingerprint() == self.of_ada
        assert whose(self.take("ada")) == "ada"
        found = subprocess.run(
            self.words("grep", "-rlsD", "skip", self.token, str(self.top)), capture_output=True, check=False
        )
        assert found.stdout == b""
        assert list((self.top / "backups/.incoming").iterdir()) == []


def whose(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return str(connection.execute("select name from whose").fetchone()[0])


def in_one_line(deed: Callable[[], object]) -> str:
    """What is said of him: "" if it worked. It must be no fault of the disk's, which would end the run for all."""
    said = ""
    try:
        deed()
    except (OwnerProblem, backups.BackupError) as error:
        said = str(error) or "nothing"
    assert "\n" not in said
    assert len(said) < 400
    return said


@pytest.fixture
def world(accounts: dict[str, int]) -> Iterator[World]:
    top = Path(tempfile.mkdtemp(prefix="t3h-", dir="/var/tmp"))
    made = World(top, accounts)
    try:
        yield made
    finally:
        made.stop()
        subprocess.run(["rm", "-rf", "--", str(top)], check=True)


# What lies in his home ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_lies_where_his_database_should_be(world: World, kind: str) -> None:
    """Backup, idle question and restore meet it: they end soon, and touch nobody else's.

    Where the kernel forbids an account to make it (a device, a hard link to another's file), root makes it, as on a host that does not.
    """
    snapshot = world.take()
    said = {}
    goals = {
        "state.sqlite": [world.secret, world.box.database("ada")],
        "home": [world.home("ada")],
        ".t3": [world.box.base_dir("ada")],
    }
    for place in PLACES:
        for goal in goals.get(place, [world.box.database("ada").parent if place == "userdata" else world.secret]):
            world.give("mallory")
            path = {
                "userdata": world.box.database("mallory").parent,
                ".t3": world.box.base_dir("mallory"),
                "home": world.home("mallory"),
            }.get(place, world.box.database("mallory").with_name(place))
            if goal.is_dir() and kind == "hardlink":
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            command = [sys.executable, "-I", str(HOSTILE), "put", kind, str(path), str(goal)]
            as_root = kind in ("device", "hardlink") or place == "home"
            subprocess.run(command if as_root else world.words(*command), check=True)
            if place == "home" and kind == "folder":
                os.chown(path, 0, 0)
            began = time.monotonic()
            said[place] = in_one_line(world.take)
            with suppress(OwnerProblem), OwnerReader(world.host, "mallory") as reader:
                reader.read(0.7)
            in_one_line(lambda: backups.restore(world.host, "mallory", snapshot, "replaced-1"))
            in_one_line(lambda: backups.put_back(world.host, "mallory", "replaced-1"))
            assert time.monotonic() - began < 3, place
            assert world.fingerprint() == world.of_ada, place
            if kind == "hardlink":
                path.unlink(missing_ok=True)
                subprocess.run(
                    ["rm", "-rf", str(path.parent / "replaced-1"), str(path.parent / "replaced-1-undone")], check=True
                )
    harmless = {("sparse", "state.sqlite-wal")}  # SQLite takes a log of zeros for an empty one
    assert {place for place, text in said.items() if not text} == {place for one, place in harmless if one == kind}
    world.nothing_happened()


def test_his_database_is_swapped_while_it_is_read_and_written(world: World) -> None:
    """Links to a root-only file and to Ada's database, fifos and the real one, in a loop, during backups and restores."""
    database = world.box.database("mallory")
    snapshot = world.take()
    world.begins("swap", database, world.secret, world.box.database("ada"))
    deadline, worked = time.monotonic() + 4, 0
    while time.monotonic() < deadline:
        if not in_one_line(lambda: whose(world.take())):
            worked += 1
        in_one_line(lambda: backups.restore(world.host, "mallory", snapshot, f"replaced-{time.time_ns()}"))
        assert world.fingerprint() == world.of_ada
    for kept in (world.top / "backups/mallory").iterdir():
        assert world.token not in kept.read_text("latin-1")
        assert whose(kept) == "mallory"
    world.nothing_happened()


def test_his_disk_is_full(world: World) -> None:
    """A restore that finds no room leaves his database, and says so."""
    snapshot = world.take()
    home = world.box.database("mallory").parent
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size=600k,mode=700,uid={world.uids['mallory']}", "none", str(home)], check=True
    )
    try:
        subprocess.run(
            world.words("dd", "if=/dev/zero", f"of={home}/filler", "bs=1k", "count=500"),
            capture_output=True,
            check=True,
        )
        assert "disk is full" in in_one_line(lambda: backups.restore(world.host, "mallory", snapshot, "replaced-1"))
        assert in_one_line(world.take) == "there is no database"
        world.nothing_happened()
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)


# His drop box -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("symlink", "no plain file"), ("hardlink", "no plain file"), ("fifo", "no plain file"), ("folder", "no plain file"),
        ("sparse", "make room"), ("grow", "grew or shrank|^$"), ("deep", "^$"),
    ],
)  # fmt: skip
def test_his_copy_is_forged_between_its_check_and_its_taking(world: World, kind: str, words: str) -> None:
    """Root takes one plain file of his, no more than it was when opened, from a disk that holds it; and the box is gone afterwards."""
    mine = world.home("mallory") / "mine"
    mine.mkdir()
    os.chown(mine, world.uids["mallory"], world.uids["mallory"])
    goal = {"symlink": world.secret, "hardlink": world.box.database("mallory"), "deep": mine}.get(kind, mine / "other")
    for _ in range(12):
        child = world.begins("forge", world.top / "backups/.incoming/mallory", kind, goal)
        assert child.stdout is not None
        time.sleep(0.2)
        said = in_one_line(world.take)
        with world.host.journal.transaction() as connection:
            connection.execute("delete from backups")
        if re.search(words, said) and (said or kind in ("grow", "deep")):
            break
        world.stop()
        subprocess.run(["rm", "-rf", str(mine / "deep"), *map(str, mine.glob("other.*"))], check=True)
    # Which of the refusals comes, or none, depends on who was quicker; that nothing of others is taken or lost does not.
    world.nothing_happened()


def test_what_he_left_in_the_box_is_cleared_away(world: World) -> None:
    """Deeper than Python's own removal goes, with links to others' and folders closed to all; and a box that is a link."""
    world.take()
    box = world.top / "backups/.incoming/mallory"
    box.mkdir()
    os.chown(box, world.uids["mallory"], world.uids["mallory"])
    world.does("deep", box / "down")
    world.does("put", "symlink", box / "link", world.home("ada"))
    world.does("put", "folder", box / "closed", "")
    subprocess.run(world.words("chmod", "0", str(box / "closed")), check=True)
    assert in_one_line(world.take) == ""
    box.symlink_to(world.home("ada"))
    assert in_one_line(world.take) == ""
    world.nothing_happened()


# What is in his database --------------------------------------------------------------------------------------------

SCHEMAS = {
    "views": """drop table projection_thread_sessions; drop table effect_sql_migrations;
        create view projection_thread_sessions as select null as active_turn_id, '2020-01-01T00:00:00Z' as updated_at;
        create view effect_sql_migrations as select 30 as migration_id""",
    "triggers": "create trigger t after insert on projection_projects begin delete from projection_threads; end",
    "slow": """create table numbers as with recursive n(i) as (select 1 union all select i + 1 from n where i < 5) select i from n;
        alter table projection_thread_sessions rename to old;
        create table projection_thread_sessions (i, active_turn_id generated always as (length(hex(zeroblob(99999999 + i)))) virtual,
          updated_at text default '2020-01-01T00:00:00Z');
        insert into projection_thread_sessions (i) select i from numbers""",
    "lines": """drop table effect_sql_migrations; alter table projection_thread_sessions rename to old;
        create table projection_thread_sessions (active_turn_id, updated_at);
        insert into projection_thread_sessions values (1, char(10) || 'ROLLBACK FAILED' || char(10));
        create table effect_sql_migrations (migration_id); insert into effect_sql_migrations values (30)""",
    "level": "drop table effect_sql_migrations; create table effect_sql_migrations as select 9223372036854775807 as migration_id",
}


@pytest.mark.parametrize(
    ("schema", "backup", "idle"),
    [
        ("views", "no table effect_sql_migrations", "no table effect_sql_migrations"),
        ("triggers", "", ""),
        ("slow", None, "took over"),
        ("lines", "", "cannot be read"),
        ("level", "not as it should be", "not as it should be"),
    ],
)
def test_a_hostile_schema(world: World, schema: str, backup: str | None, idle: str) -> None:
    """Doubt means not idle; a reading that takes long is given up; and no text of his makes a line of its own."""
    with closing(sqlite3.connect(world.box.database("mallory"))) as connection:
        connection.executescript(SCHEMAS[schema])
    said = in_one_line(world.take)
    assert backup is None or (backup in said, bool(backup)) == (True, bool(said)), said

    def ask() -> None:
        with OwnerReader(world.host, "mallory") as reader:
            began = time.monotonic()
            try:
                reader.read(0.7)
            finally:
                assert time.monotonic() - began < 1

    said = in_one_line(ask)
    assert (idle in said, bool(idle)) == (True, bool(said)), said
    world.nothing_happened()


def test_corrupt_pages_are_no_backup(world: World) -> None:
    """Rubbish in the middle of his database."""
    database = world.box.database("mallory")
    with database.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(database.stat().st_size // 2))
    assert in_one_line(world.take)
    world.nothing_happened()


def test_a_small_database_that_becomes_a_huge_copy(world: World) -> None:
    """Blobs of zeros in a sparse file: the copy is stopped before the disk of the backups is full, and Ada's is taken all the same."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m,mode=711", "none", str(world.top / "backups")], check=True)
    try:
        with closing(sqlite3.connect(world.box.database("mallory"))) as connection, connection:
            connection.execute("create table bomb as select zeroblob(200000000)")
        assert "make room" in in_one_line(world.take)
        world.nothing_happened()
    finally:
        subprocess.run(["umount", "-l", str(world.top / "backups")], check=True)


# His processes ------------------------------------------------------------------------------------------------------


def test_the_lock_of_the_children_in_his_hands_locks_nobody_out(world: World) -> None:
    """He takes the descriptor out of the reader in his home, and hides it where no process has it: work and a new consumer go on."""
    with OwnerReader(world.host, "mallory"):
        thief = world.begins("steal")
        assert thief.stdout is not None
        assert json.loads(thief.stdout.readline())[:3] == ["EBADF", "EBADF", "EINVAL"]
    assert world.host.children.lock_path.stat().st_size == 0
    assert world.host.children.run(["true"], timeout_seconds=5).code == 0
    began = time.monotonic()
    world.host.children.end_orphans(0.3)
    assert time.monotonic() - began < 5
    world.nothing_happened()


def test_an_answer_without_end_is_ended(world: World) -> None:
    """He writes into the pipe that root reads: neither root's memory nor its patience is his."""
    world.begins("flood", "state")
    before = processes_memory()
    silent, writer = os.pipe()
    said = in_one_line(lambda: owned.run_as_owner(world.host, "mallory", "state", timeout_seconds=25, stdin=silent))
    os.close(silent)
    os.close(writer)
    assert "prints more than" in said
    assert processes_memory() - before < 100e6
    world.nothing_happened()


def processes_memory() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 60000, b'{"problem": "\\ud800\\nFROZEN"}', b'{"level": 1' + b"0" * 30 + b"}", b'{"level": NaN}', b'{"level": "30"}', b"{}",
        b'{"level": 30, "newest": 1e999, "newest_with_turn": null, "fingerprint": [null, null]}', b'{"level": 30, "fingerprint": [[[]]]}',
        b'{"level": 30, "kept": "/x\\nROLLBACK FAILED"}', b'{"level": 30, "unchanged": true, "more": 1}', b"\xff\xfe", b"null",
    ],
)  # fmt: skip
def test_a_forged_answer_is_refused(text: bytes) -> None:
    """In one line, whatever it is."""
    said = in_one_line(lambda: backups._level(owned.parse_answer(text)))
    assert said.isprintable()
    assert said


def test_another_users_port_in_his_hands_is_found_and_named(world: World) -> None:
    """On IPv6 alone, beside Ada's own server: she is led to nobody else's, and it is said whose it is."""
    port = world.box.ports["ada"]
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        assert processes.owns_listener(os.getpid(), port)
        child = world.begins("listen", port)
        assert child.stdout is not None
        child.stdout.readline()
        assert not processes.owns_listener(os.getpid(), port)
        assert processes.who_listens(port) == "mallory, root"
    with pytest.raises(restart.RestartError, match=r"mallory listens there"):
        restart._await_port(port)
    world.nothing_happened()


def test_what_is_others_is_closed_to_him(world: World) -> None:
    """Journal, queue, key, others' backups, slots, links, launcher, freeze file: not to be read where secret, not to be written anywhere."""
    top = world.top
    prepare(top / "state")
    queue = open_queue(f"sqlite://{top}/state/queue.db", queue_key(top / "state/queue.key"))
    queue.register(lambda run: None, ())
    queue.send("run-1")
    tree = fake_slot(world)
    install_launcher(top / "bin/t3", top / "opt/t3", sandbox=False)
    of_ada = world.take("ada")
    scratch = top / "scratch/t3flow-run-1"
    claim_folder(scratch, 0o711)
    with OwnerReader(world.host, "ada") as reader:
        secret = [of_ada, top / "state/journal.db", top / "state/queue.db", top / "state/queue.key", world.secret]
        secret += [
            top / "state/journal.db-wal",
            Path(f"/proc/{os.getpid()}/environ"),
            Path(f"/proc/{reader._child.pid}/environ"),
        ]
        folders = [of_ada.parent, top / "backups", top / "backups/.incoming", top / "state", scratch]
        ours = [top / "opt/t3/versions/1.0.0", tree, top / "opt/t3/users/mallory", top / "bin/t3", top / "etc/user-map"]
        words = [f"{kind}:{path}" for path in secret for kind in ("read", "write")]
        words += [f"list:{path}" for path in folders]
        words += [f"make:{path}" for path in (*folders, ours[0], top / "opt/t3/users", top / "bin", top / "etc", top)]
        words += [f"remove:{path}" for path in (*ours, of_ada, scratch)] + [
            f"write:{ours[1]}",
            f"write:{ours[3]}",
            f"write:{ours[4]}",
        ]
        words += [f"signal:{pid}" for pid in (os.getpid(), reader._child.pid)]
        assert json.loads(world.does("attempts", *words)) == []
        allowed = [f"read:{tree}", f"list:{top / 'opt/t3/users'}", f"make:{world.home('mallory')}"]
        assert json.loads(world.does("attempts", *allowed)) == allowed, "the control: what he may do"
        assert reader.read(5)["level"] == 30
    assert len(queue.message_ids()) == 1
    world.nothing_happened()


def fake_slot(world: World) -> Path:
    """A slot whose program says which Node runs it, and Mallory's link to it. Returns the program."""
    tree = world.top / "tree"
    program = tree / slots.PROGRAM
    program.parent.mkdir(parents=True)
    program.write_text("#!/usr/bin/env node\nconsole.log(process.execPath, process.argv.slice(2).join())\n")
    program.chmod(0o755)
    node = world.top / "tools/node"
    made = slots.make_slot(world.top / "opt/t3", "1.0.0", tree, Path(os.path.realpath(node)), {})
    slots.assign(world.top / "opt/t3", "mallory", "1.0.0")
    return made / slots.PROGRAM


def test_a_wrong_node_first_in_his_path_runs_nothing(world: World) -> None:
    """The launcher takes the slot's."""
    fake_slot(world)
    install_launcher(world.top / "bin/t3", world.top / "opt/t3", sandbox=False)
    bad = world.home("mallory") / "bin"
    bad.mkdir()
    (bad / "node").write_text("#!/bin/sh\necho wrong\n")
    (bad / "node").chmod(0o755)
    words = world.words("env", f"PATH={bad}:/usr/bin:/bin", str(world.top / "bin/t3"), "--version")
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said == f"{os.path.realpath(world.top / 'tools/node')} --version\n"
    world.nothing_happened()


# Where everybody may write ------------------------------------------------------------------------------------------


def test_the_scratch_folder_of_a_run_whose_name_he_guessed(world: World) -> None:
    """He plants links and folders at its name as fast as he can: root has a folder of its own there all the same."""
    shared = world.top / "scratch"
    os.chmod(shared, 0o1777)
    for number in range(20):
        folder = shared / f"t3flow-bump-20261124T0400-{number}"
        child = world.begins("plant", folder, world.home("ada"))
        assert child.stdout is not None
        child.stdout.readline()
        claim_folder(folder, 0o711)
        status = folder.lstat()
        assert (status.st_uid, status.st_mode & 0o7777, list(folder.iterdir())) == (0, 0o711, [])
        world.stop()
    world.nothing_happened()


def test_what_he_planted_there_stops_no_consumer(world: World) -> None:
    """A link, a file and a folder without end, named like those of a run: a consumer that starts clears them away and follows none."""
    shared = world.top / "scratch"
    os.chmod(shared, 0o1777)
    name = "t3flow-bump-20261124T0400-"
    world.does("put", "symlink", shared / f"{name}link", world.home("ada"))
    world.does("put", "fifo", shared / f"{name}fifo", "")
    world.does("deep", shared / f"{name}deep")
    periodic.sweep(world.host)
    assert list(shared.iterdir()) == []
    world.nothing_happened()
