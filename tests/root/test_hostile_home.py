"""Content of a hostile user's home and database: nothing of other accounts is changed or read, and one line names him."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress

import pytest
from mounting import mount
from world import HOSTILE, World, in_one_line, whose

from t3flow.host import orphans
from t3flow.host.backups import restoring
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.owner.reader import OwnerReader

KINDS = ["symlink", "hardlink", "fifo", "device", "sparse", "folder"]
PLACES = ["state.sqlite", "state.sqlite-wal", "userdata", ".t3", "home"]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_lies_where_his_database_should_be(world: World, kind: str) -> None:
    """Backup, check for idleness and restore end soon and touch nothing of other accounts.

    Where the kernel forbids an account to make it (a device, a hard link to another's file), root makes it, as on a host that does not.
    """
    snapshot = world.snapshot()
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
                reader.read([os.getpid()], 0.7)
            in_one_line(lambda: restoring.restore(world.host, "mallory", snapshot, "replaced-1"))
            in_one_line(lambda: restoring.undo_restore(world.host, "mallory", "replaced-1"))
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
    """Links to a root-only file and to Ada's database, FIFOs and the real file, swapped in a loop during backups and restores."""
    database = world.box.database("mallory")
    snapshot = world.snapshot()
    world.begins("swap", database, world.secret, world.box.database("ada"))
    deadline, worked = time.monotonic() + 4, 0
    while time.monotonic() < deadline:
        if not in_one_line(lambda: whose(world.take())):
            worked += 1
        in_one_line(lambda: restoring.restore(world.host, "mallory", snapshot, f"replaced-{time.time_ns()}"))
        assert world.fingerprint() == world.of_ada
    for kept in (world.top / "backups/mallory").iterdir():
        assert world.token not in kept.read_text("latin-1")
        assert whose(kept) == "mallory"
    world.nothing_happened()


def test_his_disk_is_full(world: World) -> None:
    """A restore without space leaves his database as it is, and says so."""
    snapshot = world.snapshot()
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
        assert "disk is full" in in_one_line(lambda: restoring.restore(world.host, "mallory", snapshot, "replaced-1"))
        assert in_one_line(world.take) == "there is no database"
        world.nothing_happened()
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)


def test_a_file_of_another_account_in_his_home_is_restored_and_put_back(world: World) -> None:
    """The kernel refuses a link to a file that only its owner may write to, such as one that root once copied there. It is preserved by a copy."""
    snapshot = world.snapshot()
    database = world.box.database("mallory")
    was = database.read_bytes()
    os.chown(database, 0, 0)
    os.chmod(database, 0o644)
    restoring.restore(world.host, "mallory", snapshot, "replaced-1")
    assert database.stat().st_uid == world.uids["mallory"]
    assert (database.parent / "replaced-1/state.sqlite").read_bytes() == was
    restoring.undo_restore(world.host, "mallory", "replaced-1")
    assert database.read_bytes() == was
    assert not (database.parent / "replaced-1").exists()
    world.nothing_happened()


@pytest.mark.parametrize("place", ["userdata", "drop box"])
def test_a_filesystem_of_his_that_never_answers(world: World, place: str) -> None:
    """A process that reads it cannot even be killed: it is left behind, the error names him, and Ada's backup is taken meanwhile.

    Mounted as fusermount does it for him: root, who is not let in, gets no for an answer at once.
    """
    box = world.top / "backups/.incoming/mallory"
    where = world.box.database("mallory").parent if place == "userdata" else box
    where.mkdir(parents=True, exist_ok=True)
    uid = world.uids["mallory"]
    device = os.open("/dev/fuse", os.O_RDWR)
    mount("mallory", where, "fuse", 0, f"fd={device},rootmode=40000,user_id={uid},group_id={uid}")
    try:
        daemon = world.runs("hang", str(device), fds=(device,))
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"mounted\n"
        began = time.monotonic()
        said = in_one_line(world.take)
        assert ("findmnt" if place == "drop box" else "did not end within 3 s") in said
        assert time.monotonic() - began < 8
        if place == "userdata":
            assert "took over" in in_one_line(lambda: read(world))
            assert time.monotonic() - began < 20
            orphans.end_orphans(
                world.host.children.lock_path, 0.1
            )  # a consumer that starts now is not kept waiting by them either
            assert time.monotonic() - began < 25
            assert world.host.children.run(["true"], timeout_seconds=5).code == 0
        assert whose(world.take("ada")) == "ada"
    finally:
        world.stop()
        os.close(device)
        subprocess.run(["umount", "-l", str(where)], check=True)
    box.rmdir() if place == "drop box" else None
    world.nothing_happened()


def read(world: World) -> None:
    with OwnerReader(world.host, "mallory") as reader:
        reader.read([os.getpid()], 0.7)


def test_mounts_in_a_namespace_of_his_own_are_his_alone(world: World) -> None:
    """Root does not see what he mounts over his home and his drop box."""
    script = 'mount -t tmpfs none "$1" && mount -t tmpfs none "$2" && echo mounted && exec sleep 60'
    places = (str(world.box.base_dir("mallory")), str(world.top / "backups"))
    words = world.words("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *places)
    with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        said = child.stdout.readline()
        try:
            if said != b"mounted\n":
                pytest.skip("this kernel gives users no namespaces of their own")
            assert in_one_line(world.take) == ""
            assert "none of its databases open" in in_one_line(lambda: read(world))
        finally:
            child.kill()
    world.nothing_happened()


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
        create table effect_sql_migrations (migration_id, name); insert into effect_sql_migrations values (30, 'x')""",
    "level": "drop table effect_sql_migrations; create table effect_sql_migrations as select 9223372036854775807 as migration_id, 'x' as name",
    "names": "update effect_sql_migrations set name = 'x' || char(10) || 'FROZEN' where migration_id = 30",
}


@pytest.mark.parametrize(
    ("schema", "backup", "idle"),
    [
        ("views", "no migration of t3's", "does not know"),
        ("triggers", "", ""),
        ("slow", None, "took over"),
        ("lines", "", "cannot be read"),
        ("level", "malformed", "malformed"),
        ("names", "malformed", "malformed"),
    ],
)
def test_a_hostile_schema(world: World, schema: str, backup: str | None, idle: str) -> None:
    """Doubt means not idle; a slow read is abandoned; and no text of his starts a new line in a message."""
    with closing(sqlite3.connect(world.box.database("mallory"))) as connection:
        connection.executescript(SCHEMAS[schema])
    said = in_one_line(world.take)
    assert backup is None or (backup in said, bool(backup)) == (True, bool(said)), said

    pids = world.holds_open()

    def ask() -> None:
        with OwnerReader(world.host, "mallory") as reader:
            began = time.monotonic()
            try:
                said = reader.read(pids, 0.7)
            finally:
                assert time.monotonic() - began < 1
            if said["unknown"]:
                raise OwnerProblem(said["unknown"])

    said = in_one_line(ask)
    assert (idle in said, bool(idle)) == (True, bool(said)), said
    world.nothing_happened()


def test_corrupt_pages_are_no_backup(world: World) -> None:
    """Write garbage into the middle of his database."""
    database = world.box.database("mallory")
    with database.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(database.stat().st_size // 2))
    assert in_one_line(world.take)
    world.nothing_happened()


def test_a_small_database_that_becomes_a_huge_copy(world: World) -> None:
    """Blobs of zeros in a sparse file: the copy stops before the backup disk is full, and Ada's backup is taken."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m,mode=711", "none", str(world.top / "backups")], check=True)
    try:
        with closing(sqlite3.connect(world.box.database("mallory"))) as connection, connection:
            connection.execute("create table bomb as select zeroblob(200000000)")
        assert "make room" in in_one_line(world.take)
        world.nothing_happened()
    finally:
        subprocess.run(["umount", "-l", str(world.top / "backups")], check=True)
