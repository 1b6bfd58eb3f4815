"""A set has all files of one moment; they are replaced and put back together wherever t3flow is killed, and nothing is lost."""

import json
import os
import resource
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import DATA
from scenes import content, write

from t3flow.engine.files import DiskError
from t3flow.host.backups import compatibility, drop_box, replaced, restoring, store
from t3flow.host.home import copies, restore
from t3flow.host.home import database as reading
from t3flow.host.host import Host, open_host
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.records import catalog, version_schemas
from t3flow.service.consumer import open_journal

C, D = DATA / "state-level52.sqlite", DATA / "statev2-level56.sqlite"
GOOD, BAD = "11111111-good", "22222222-bad"


def fill(folder: Path, *, second: bool, identity: str = GOOD) -> None:
    """Create a user's set as t3 has it since 0.0.42, or with the second database too."""
    for each in folder.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    shutil.copyfile(C, folder / "state.sqlite")
    if second:
        shutil.copyfile(D, folder / "statev2.sqlite")
    (folder / "environment-id").write_text(identity)


@pytest.fixture(autouse=True)
def _file_size_limit() -> Iterator[None]:
    """Restore the limit of a file's size, which the program that copies sets for its own process."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def host(bare: Callable[..., Host]) -> Host:
    found = bare()
    fill(userdata(found), second=False)
    return found


def userdata(host: Host) -> Path:
    return host.base_dir("ada") / "userdata"


def take(host: Host, target: str = "2.0.0", wrote: str = "1.0.0") -> catalog.Backup:
    return store.take(host, "ada", written_by=wrote, version=target, run="run-1")


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


# Taking it ----------------------------------------------------------------------------------------------------------


def test_a_set_has_all_databases_and_identity_files_under_one_time(host: Host) -> None:
    fill(userdata(host), second=True)
    write(userdata(host) / "cache.sqlite", "create table cached as select 1 as one")
    (userdata(host) / "settings.json").write_text("{}")
    (userdata(host) / "server-runtime.json").write_text("{}")
    (userdata(host) / "logs").mkdir()
    made = take(host)
    assert [*made.files] == [
        *("state.sqlite", "cache.sqlite", "statev2.sqlite", "environment-id", "settings.json"),
    ]
    moment = Path(made.path).stem.rpartition("-")[2]
    assert set(made.files.values()) == {
        *(f"{stem}-prebump-2.0.0-{moment}.sqlite" for stem in ("state", "cache", "statev2")),
        *(f"environment-id-prebump-2.0.0-{moment}", f"settings-prebump-2.0.0-{moment}.json"),
    }
    assert {path.name for path in made.paths.values()} == names(host.settings.paths.backup_dir / "ada")
    for name in ("state.sqlite", "statev2.sqlite", "cache.sqlite"):
        assert content(made.paths[name]) == content(userdata(host) / name)
    assert made.paths["environment-id"].read_text() == GOOD
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in made.paths.values())
    assert made.level == 56
    assert made.schema["cache.sqlite"] is None
    assert made.schema["statev2.sqlite"] is not None
    assert (56, made.schema["statev2.sqlite"][-1][1]) == made.schema["statev2.sqlite"][-1]
    assert made.rows["cache.sqlite"] == {"cached": 1}
    assert made.rows["state.sqlite"]["projection_threads"] >= 1
    assert not any(table.startswith("auth_") for table in made.rows["state.sqlite"])
    assert catalog.backup_at(host.journal, made.path) == made


def test_an_unchanged_set_serves_again_and_a_changed_small_file_is_a_change(host: Host) -> None:
    first = take(host)
    assert take(host).path == first.path
    other = take(host, "3.0.0")
    assert other.path != first.path
    assert {name: os.stat(path).st_ino for name, path in other.paths.items()} == {
        name: os.stat(path).st_ino for name, path in first.paths.items()
    }
    assert (other.schema, other.rows, other.version) == (first.schema, first.rows, "3.0.0")
    by_another = take(host, "3.0.0", wrote="1.5.0")
    assert (by_another.written_by, by_another.path != other.path) == ("1.5.0", True), "a rollback looks for the writer"
    (userdata(host) / "environment-id").write_text(BAD)
    assert take(host, "3.0.0").path not in (other.path, by_another.path)
    Path(take(host, "3.0.0").paths["environment-id"]).unlink()
    assert take(host, "3.0.0").exists, "a snapshot without one of its files is not used"


def test_files_that_it_was_killed_over_go_with_the_next(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(userdata(host), second=True)
    first = take(host)
    write(userdata(host) / "statev2.sqlite", "create table more (x)")
    real = store.take_copy

    def die(*arguments: Any) -> None:
        real(*arguments)
        if arguments[1] == "statev2.sqlite":
            raise SystemExit

    with monkeypatch.context() as killed:
        killed.setattr(store, "take_copy", die)
        with pytest.raises(SystemExit):
            take(host)
    top = host.settings.paths.backup_dir / "ada"
    assert len(names(top)) == len(first.files) + 2
    second = take(host)
    assert names(top) == {*first.files.values(), *second.files.values()}


def test_a_set_that_fails_half_way_leaves_no_file(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(userdata(host), second=True)
    real = store.take_copy

    def fail(*arguments: Any) -> None:
        if arguments[1] == "environment-id":
            raise DiskError("no room")
        real(*arguments)

    monkeypatch.setattr(store, "take_copy", fail)
    with pytest.raises(DiskError):
        take(host)
    assert not any((host.settings.paths.backup_dir / "ada").iterdir())
    assert catalog.backups(host.journal) == []


def _make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _make_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda path: path.write_bytes(b""), "statev2.sqlite is an empty file"),
        (lambda path: path.write_bytes(b"garbage" * 999), "statev2.sqlite: file is not a database"),
        (lambda path: path.write_bytes(path.read_bytes()[:20_000]), "statev2.sqlite: .*malformed"),
        (_make_fifo, "statev2.sqlite is not a regular file"),
        (_make_link, "statev2.sqlite is not a regular file"),
        (lambda path: path.rename(path.with_name("state (copy).sqlite")), "rename it"),
    ],
    ids=["empty", "garbage", "truncated", "fifo", "link", "odd name"],
)
def test_one_bad_database_is_no_set_and_one_line(host: Host, spoil: Callable[[Path], object], word: str) -> None:
    fill(userdata(host), second=True)
    spoil(userdata(host) / "statev2.sqlite")
    with pytest.raises(OwnerProblem, match=word) as raised:
        take(host)
    assert len(str(raised.value).splitlines()) == 1
    assert catalog.backups(host.journal) == []
    assert not any((host.settings.paths.backup_dir / ".incoming").iterdir())


def test_a_locked_database_is_named(host: Host) -> None:
    fill(userdata(host), second=True)
    with closing(sqlite3.connect(userdata(host) / "statev2.sqlite", isolation_level=None)) as other:
        other.execute("pragma journal_mode = delete")
        other.execute("begin exclusive")
        with pytest.raises(OwnerProblem, match=r"statev2.sqlite: database is locked"):
            take(host)


@pytest.fixture
def writing() -> Iterator[Callable[[Path], None]]:
    """Write to databases continuously."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def work(database: Path) -> None:
        with closing(sqlite3.connect(database, timeout=10)) as connection:
            connection.execute("pragma journal_mode = wal")
            connection.execute("create table if not exists counted (n)")
            while not stop.wait(0.001):
                with connection:
                    connection.execute("insert into counted values (?)", (time.monotonic(),))

    def begin(database: Path) -> None:
        threads.append(threading.Thread(target=work, args=(database,)))
        threads[-1].start()
        time.sleep(0.1)

    yield begin
    stop.set()
    for thread in threads:
        thread.join()


def test_a_live_database_beside_one_that_lies_still_is_of_one_moment(host: Host, writing: Callable[..., None]) -> None:
    fill(userdata(host), second=True)
    writing(userdata(host) / "statev2.sqlite")
    made = take(host)
    assert made.fingerprint is None, "the next one is taken anew"
    assert "counted" in made.rows["statev2.sqlite"]


def test_two_that_change_at_once_are_no_set(host: Host, writing: Callable[..., None]) -> None:
    """Copies from before and after a change do not form a set of one moment."""
    fill(userdata(host), second=True)
    for name in ("state.sqlite", "statev2.sqlite"):
        writing(userdata(host) / name)
    with pytest.raises(OwnerProblem, match=r"no consistent copy .*state.sqlite, statev2.sqlite kept changing"):
        take(host)


def test_a_change_that_ends_is_waited_out(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(userdata(host), second=True)
    real, times = copies._copy_once, 0

    def copy(folder: Path, box: Path) -> dict[str, Any]:
        nonlocal times
        times += 1
        found = real(folder, box)
        if times == 1:
            for name in ("state.sqlite", "statev2.sqlite"):
                write(folder / name, "create table meanwhile (x)")
        return found

    monkeypatch.setattr(copies, "_copy_once", copy)
    (tmp_path / "a").mkdir()
    answer = copies.copy_set(userdata(host), tmp_path / "a", None)
    assert times == 2
    assert all("meanwhile" in answer["rows"][name] for name in ("state.sqlite", "statev2.sqlite"))
    assert answer["fingerprint"]


@pytest.mark.parametrize("whole_seconds", [False, True])
def test_a_set_that_was_just_written_is_copied_a_tick_later(whole_seconds: bool, tmp_path: Path) -> None:
    """Another write in the same tick has the same time and size; the copy must not count as one of the set after it."""
    folder, box = tmp_path / "userdata", tmp_path / "box"
    folder.mkdir()
    box.mkdir()
    fill(folder, second=False)
    written = time.time_ns() // 10**9 * 10**9 if whole_seconds else time.time_ns()
    os.utime(folder / "environment-id", ns=(written, written))
    made = copies.copy_set(folder, box, None)
    tick = reading.TICK_NS + (10**9 if whole_seconds else 0)
    assert min(each.stat().st_ctime_ns for each in box.iterdir()) >= written + tick
    assert made["fingerprint"] == reading.fingerprint(folder)


def test_a_set_that_is_written_all_the_time_has_no_fingerprint(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = tmp_path / "copies"
    box.mkdir()
    identity = userdata(host) / "environment-id"
    monkeypatch.setattr(reading, "TICK_NS", 60 * 10**9)  # however loaded the machine is
    monkeypatch.setattr(time, "sleep", lambda seconds: os.utime(identity))
    assert copies.copy_set(userdata(host), box, None)["fingerprint"] is None


def test_times_of_the_past_and_the_future_are_settled() -> None:
    now = 1_800_000_000_123_456_789
    for written in (now - 10**11, now - 10**9, now + 10**9, now + 10**12, 10**9):
        assert reading.unsettled_ns({"state.sqlite": [1, 1, written]}, now) == 0


# Putting it in place, and back --------------------------------------------------------------------------------------


def test_going_back_from_the_second_database_moves_it_aside(host: Host) -> None:
    """A newer t3 creates its database from the first one if it has none, so the next bump shows what was written in between."""
    made = take(host)
    fill(userdata(host), second=True, identity=BAD)
    write(userdata(host) / "statev2.sqlite", "create table by_the_newer as select 1 as one")
    aside = Path(restoring.restore(host, "ada", made, "replaced-20260101T000000Z"))
    assert not any(name.startswith("statev2") for name in names(userdata(host)))
    assert (userdata(host) / "environment-id").read_text() == GOOD
    assert content(userdata(host) / "state.sqlite") == content(made.paths["state.sqlite"])
    assert "by_the_newer" in "".join(content(aside / "statev2.sqlite"))
    assert (aside / "environment-id").read_text() == BAD
    assert stat_mode(userdata(host) / "state.sqlite") == 0o600
    [listed] = replaced.list_replaced(host, "ada")
    assert (listed.level, set(listed.files)) == (56, {"state.sqlite", "statev2.sqlite", "environment-id"})
    back = store.take(host, "ada", written_by="2.0.0", version="2.0.0", run="r", replaced=listed.name)
    assert set(back.files) == set(listed.files)
    restoring.restore(host, "ada", back, "replaced-20260101T000001Z")
    assert "by_the_newer" in "".join(content(userdata(host) / "statev2.sqlite"))
    assert (userdata(host) / "environment-id").read_text() == BAD


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_files_that_a_snapshot_does_not_know_stay(host: Host) -> None:
    made = take(host)
    (userdata(host) / "keybindings.json").write_text("mine")
    (userdata(host) / "attachments").mkdir()
    restoring.restore(host, "ada", made, "replaced-1")
    assert (userdata(host) / "keybindings.json").read_text() == "mine"
    assert (userdata(host) / "attachments").is_dir()


def plain(folder: Path) -> dict[str, list[str] | str]:
    """Return the content of a set: its databases including their logs, and its identity files."""
    found: dict[str, list[str] | str] = {}
    for each in sorted(folder.iterdir()):
        if each.name.endswith(".sqlite"):
            found[each.name] = content(each)
        elif each.name == "environment-id":
            found[each.name] = each.read_text()
    return found


class Scene:
    """A set with much of its data in logs alone, as a killed server leaves it, and a snapshot to restore."""

    def __init__(self, top: Path, *, old_has_second: bool, new_has_second: bool) -> None:
        self.folder, self.old, self.new = top / "userdata", top / "old", top / "new"
        for folder in (self.folder, self.old, self.new):
            folder.mkdir()
        fill(self.old, second=old_has_second, identity=BAD)
        for database in self.old.glob("*.sqlite"):
            with closing(sqlite3.connect(database, isolation_level=None)) as connection:
                connection.execute("pragma journal_mode = wal")
                connection.execute("pragma wal_autocheckpoint = 0")
                connection.execute(f"create table precious as select '{database.name}' as word")
                for name in (database.name, f"{database.name}-wal", f"{database.name}-shm"):
                    shutil.copyfile(self.old / name, self.old / f"{name}.copy")
            for name in (database.name, f"{database.name}-wal", f"{database.name}-shm"):
                os.replace(self.old / f"{name}.copy", self.old / name)
        fill(self.new, second=new_has_second)
        self.descriptors = {each.name: os.open(each, os.O_RDONLY) for each in self.new.iterdir()}
        self.reset()
        self.was, self.given = plain(self.folder), plain(self.new)
        self.reset()

    def reset(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self.old, self.folder)

    def close(self) -> None:
        for descriptor in self.descriptors.values():
            os.close(descriptor)

    def restore(self) -> None:
        restore.restore(self.folder, "replaced-1", self.descriptors, None)

    def undo_restore(self) -> None:
        restore.undo_restore(self.folder, "replaced-1")


CHANGES = ("link", "rename", "unlink", "fsync", "rmdir", "mkdir", "open")


def killed_at(number: int, action: Callable[[], None]) -> bool:
    """Run a function in a child that ends before the n-th change of the file system; return whether it got that far."""
    child = os.fork()
    if child == 0:
        calls = 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == number:
                    os._exit(9)
                return real(*arguments, **more)

            return call

        try:
            for name in CHANGES:
                setattr(os, name, counted(getattr(os, name)))
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), f"it failed before change {number}"
    return code == 9


@pytest.fixture(params=[(True, False), (False, True), (True, True), (False, False)], ids=["D→C", "C→D", "D→D", "C→C"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, old_has_second=request.param[0], new_has_second=request.param[1])
    yield made
    made.close()


def nothing_half(folder: Path) -> bool:
    return not [each.name for each in folder.iterdir() if each.name.endswith(".t3flow")]


def test_a_restore_that_is_killed_anywhere_is_repeated_to_the_same_end(scene: Scene) -> None:
    for number in range(1, 100):
        scene.reset()
        died = killed_at(number, scene.restore)
        scene.restore()
        assert not list(scene.folder.glob("*-wal")), number
        assert plain(scene.folder) == scene.given, number
        assert nothing_half(scene.folder), number
        assert plain(scene.folder / "replaced-1") == scene.was, number
        if not died:
            break
    assert 20 < number < 99, "killed before each change, and once not at all"


@pytest.mark.parametrize("cut", ["restore", "undo_restore"])
def test_what_was_replaced_is_put_back_wherever_it_was_cut_off(cut: str, scene: Scene) -> None:
    for number in range(1, 100):
        scene.reset()
        if cut == "restore":
            died = killed_at(number, scene.restore)
        else:
            scene.restore()
            died = killed_at(number, scene.undo_restore)
        scene.undo_restore()
        assert plain(scene.folder) == scene.was, number
        assert nothing_half(scene.folder), number
        assert not (scene.folder / "replaced-1").exists(), number
        if cut == "undo_restore":
            assert plain(scene.folder / "replaced-1-undone") == scene.given, number
        if not died:
            break
    assert 12 < number < 99, "killed before each change, and once not at all"


def test_the_control_notices_a_log_that_is_lost(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is not put back loses the last writes of the killed server; the tests must notice that."""
    real = restore._move
    monkeypatch.setattr(restore, "_move", lambda *paths: None if paths[0].name.endswith("-wal") else real(*paths))
    scene.restore()
    scene.undo_restore()
    assert plain(scene.folder) != scene.was


def killed_amid(database: Path, *statements: str) -> None:
    """Run statements in a process that is killed while the database is open, with what its journal mode leaves beside it."""
    child = os.fork()
    if child == 0:
        connection = sqlite3.connect(database, isolation_level=None)
        for statement in statements:
            connection.execute(statement)
        os._exit(9)
    os.waitpid(child, 0)


def test_a_rollback_journal_goes_with_its_database(scene: Scene) -> None:
    """SQLite would roll it back into whatever database it finds beside it, and it is part of the one that it was written for."""
    database, log = scene.folder / "state.sqlite", scene.folder / "state.sqlite-journal"
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = delete")
        connection.execute(
            "create table large as with recursive n(x) as (select 1 union all select x + 1 from n where x < 999) select * from n"
        )
    scene.was = plain(scene.folder)
    killed_amid(database, "pragma cache_size = 1", "begin immediate", "update large set x = -x")
    assert log.stat().st_size
    scene.restore()
    assert not log.exists()
    assert plain(scene.folder) == scene.given
    scene.undo_restore()
    assert log.stat().st_size
    write(database, "delete from large where x > 999")  # rolls it back
    assert plain(scene.folder) == scene.was


def test_a_replaced_set_with_a_rollback_journal_can_be_read(host: Host) -> None:
    made = take(host)
    database = userdata(host) / "state.sqlite"
    write(
        database,
        "create table large as with recursive n(x) as (select 1 union all select x + 1 from n where x < 999) select * from n",
    )
    was = content(database)
    killed_amid(
        database, "pragma journal_mode = delete", "pragma cache_size = 1", "begin immediate", "update large set x = -x"
    )
    restoring.restore(host, "ada", made, "replaced-1")
    [found] = replaced.list_replaced(host, "ada")
    assert found.level == 52
    again = store.take(host, "ada", written_by="", version="2.0.0", run="r", replaced="replaced-1")
    assert content(again.paths["state.sqlite"]) == was


def test_a_file_that_stays_in_place_is_preserved_as_it_was(tmp_path: Path) -> None:
    """The older version writes to it, and its log comes and goes: with links, a log of the past would be put back beside a later database."""
    scene = Scene(tmp_path, old_has_second=True, new_has_second=False)
    for number in range(1, 100, 3):
        scene.reset()
        died = killed_at(number, lambda: restore.restore(scene.folder, "replaced-1", {}, ["statev2.sqlite"]))
        restore.restore(scene.folder, "replaced-1", {}, ["statev2.sqlite"])
        write(scene.folder / "state.sqlite", "drop table precious")
        killed_amid(scene.folder / "state.sqlite", "pragma journal_mode = wal", "create table later as select 1 as one")
        assert plain(scene.folder / "replaced-1") == scene.was, number
        scene.undo_restore()
        assert plain(scene.folder) == scene.was, number
        assert nothing_half(scene.folder), number
        assert "later" in "".join(content(scene.folder / "replaced-1-undone" / "state.sqlite"))
        if not died:
            break
    assert 12 < number < 99, "killed before each change, and once not at all"
    scene.close()


def test_what_an_earlier_t3flow_kept_is_put_back(scene: Scene) -> None:
    """It preserved the first database alone, without a manifest, and replaced nothing else: this code undoes a run that is in flight over an upgrade."""
    aside = scene.folder / "replaced-1"
    aside.mkdir()
    for suffix in ("", "-wal", "-shm"):
        os.link(scene.folder / f"state.sqlite{suffix}", aside / f"state.sqlite{suffix}")
        (scene.folder / f"state.sqlite{suffix}").unlink()
    shutil.copyfile(scene.new / "state.sqlite", scene.folder / "state.sqlite")
    scene.undo_restore()
    assert plain(scene.folder) == scene.was
    assert not aside.exists()


def test_a_full_disk_changes_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    real, writes = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal writes
        writes += 1
        if writes == 5:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        scene.restore()
    monkeypatch.setattr(os, "fsync", real)
    assert plain(scene.folder) == scene.was
    assert nothing_half(scene.folder)


def test_a_set_whose_folder_was_lost_is_restored(host: Host) -> None:
    made = take(host)
    shutil.rmtree(host.base_dir("ada"))
    restoring.restore(host, "ada", made, "replaced-1")
    assert content(userdata(host) / "state.sqlite") == content(made.paths["state.sqlite"])
    restoring.undo_restore(host, "ada", "replaced-1")
    assert names(userdata(host)) == {"replaced-1-undone"}


def test_a_snapshot_that_is_none_is_refused_before_anything_is_replaced(host: Host) -> None:
    made = take(host)
    fill(userdata(host), second=True, identity=BAD)
    before = plain(userdata(host))
    made.paths["state.sqlite"].write_bytes(b"no database" * 1000)
    with pytest.raises(OwnerProblem, match=r"state.sqlite: file is not a database"):
        restoring.restore(host, "ada", made, "replaced-1")
    assert plain(userdata(host)) == before
    made.paths["environment-id"].unlink()
    with pytest.raises(drop_box.BackupError, match=r"environment-id-prebump.* cannot be read"):
        restoring.restore(host, "ada", made, "replaced-1")


@pytest.mark.parametrize("unchanged", [False, True])
def test_a_snapshot_that_is_killed_anywhere_leaves_no_file_on_no_record(host: Host, unchanged: bool) -> None:
    """The next snapshot removes the files; a set with a record is complete."""
    fill(userdata(host), second=True)
    take(host)
    top = host.settings.paths.backup_dir / "ada"

    def take_anew() -> None:
        store.take(
            open_host(host.settings, open_journal(host.settings)),
            "ada",
            written_by="1.0.0",
            version=f"3.0.{number}",
            run="r",
        )

    for number in range(1, 60):
        if not unchanged:
            write(userdata(host) / "statev2.sqlite", f"create table more{number} (x)")
        died = killed_at(number, take_anew)
        take(host, f"4.0.{number}")
        on_record = catalog.backups(host.journal, "ada")
        assert names(top) == {name for entry in on_record for name in entry.files.values()}, number
        assert all(entry.exists for entry in on_record), number
        if not died:
            break
    assert 5 < number < 59, "killed before each change, and once not at all"


# What a server lost --------------------------------------------------------------------------------------------------


def test_rows_that_are_missing_after_a_restore_are_named(host: Host) -> None:
    made = take(host)
    restoring.restore(host, "ada", made, "replaced-1")
    restoring.check_restored(host, "ada")
    write(userdata(host) / "state.sqlite", "insert into auth_sessions (session_id) select 'x' where false")
    write(userdata(host) / "state.sqlite", "delete from projection_threads")
    with pytest.raises(
        drop_box.BackupError, match=r"rows are missing in state.sqlite of ada .*projection_threads: 0, \d+"
    ):
        restoring.check_restored(host, "ada")
    restoring.undo_restore(host, "ada", "replaced-1")
    restoring.check_restored(host, "ada")


# Snapshots of earlier times ------------------------------------------------------------------------------------------


def old_snapshot(host: Host, wrote: str) -> catalog.Backup:
    """Create a snapshot as an earlier release took and recorded it: the first database and its level."""
    path = host.settings.paths.backup_dir / "ada" / "state-prebump-2.0.0-20260601T000000000000Z.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(C, path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = delete")
    with host.journal.transaction() as connection:
        connection.execute(
            "insert into backups values (?, ?, ?, ?, ?, ?, ?, ?)",
            (str(path), "ada", wrote, "2.0.0", 52, json.dumps([[1, 2, 3], None]), time.time(), "run-0"),
        )
    found = catalog.backup_at(host.journal, str(path))
    assert found is not None
    return found


def test_a_snapshot_of_one_file_still_restores(host: Host) -> None:
    made = old_snapshot(host, "1.0.0")
    assert (made.is_complete, made.fingerprint, made.exists) == (False, None, True)
    fill(userdata(host), second=True, identity=BAD)
    write(userdata(host) / "state.sqlite", "create table since (x)")
    aside = Path(restoring.restore(host, "ada", made, "replaced-1"))
    assert content(userdata(host) / "state.sqlite") == content(made.paths["state.sqlite"])
    assert not (userdata(host) / "statev2.sqlite").exists(), "it belongs to another moment"
    assert (aside / "statev2.sqlite").exists()
    assert (userdata(host) / "environment-id").read_text() == BAD, "the snapshot does not contain it"
    restoring.check_restored(host, "ada")
    restoring.undo_restore(host, "ada", "replaced-1")
    assert (userdata(host) / "statev2.sqlite").exists()


def test_one_of_a_version_that_works_elsewhere_is_refused(host: Host) -> None:
    version_schemas.note_schema(
        host.journal, "1.0.0", {"state.sqlite": [[1, "a"]], "statev2.sqlite": [[1, "a"], [2, "b"]]}
    )
    made = old_snapshot(host, "1.0.0")
    fill(userdata(host), second=True)
    before = plain(userdata(host))
    with pytest.raises(drop_box.BackupError, match=r"1.0.0 keeps its work in statev2.sqlite: .*t3flow backups ada"):
        restoring.restore(host, "ada", made, "replaced-1")
    assert plain(userdata(host)) == before


# What versions know --------------------------------------------------------------------------------------------------


def test_a_reused_number_is_another_schema(host: Host) -> None:
    first = [[number, f"m{number}"] for number in range(1, 47)]
    version_schemas.note_schema(host.journal, "1.0.0", {"state.sqlite": first})
    known = version_schemas.schema_of_version(host.journal, "1.0.0")
    mine: version_schemas.Schemas = {"state.sqlite": [(number, f"m{number}") for number in range(1, 47)]}
    assert compatibility.unknown_migration(known, mine) == ""
    assert mine["state.sqlite"] is not None
    mine["state.sqlite"][-1] = (46, "of a preview")
    assert compatibility.unknown_migration(known, mine) == (
        "state.sqlite has migration 46 of a preview, not m46, which it does not know"
    )
    assert compatibility.unknown_migration(None, mine)
    assert compatibility.unknown_migration(known, {**mine, "state.sqlite": None, "cache.sqlite": None}) == ""
    assert compatibility.unknown_migration(known, {"statev2.sqlite": []}) == "it does not know statev2.sqlite"


def test_a_database_that_lay_there_says_nothing_about_a_version(host: Host) -> None:
    lists = {"state.sqlite": [[1, "a"]], "statev2.sqlite": [[1, "a"], [2, "b"]], "cache.sqlite": None}
    version_schemas.note_schema(host.journal, "older", lists, ["state.sqlite"])
    version_schemas.note_schema(host.journal, "newer", lists, ["statev2.sqlite"])
    assert version_schemas.schema_of_version(host.journal, "older") == {"state.sqlite": [(1, "a")]}
    newer = version_schemas.schema_of_version(host.journal, "newer")
    assert newer == {"state.sqlite": [(1, "a")], "statev2.sqlite": [(1, "a"), (2, "b")]}
    assert compatibility.unknown_migration(newer, {"state.sqlite": [(1, "a"), (2, "b")]}) == "", (
        "it makes the second of the first"
    )


def test_snapshots_say_what_a_version_knows_where_no_trial_did(host: Host) -> None:
    assert version_schemas.schema_of_version(host.journal, "1.0.0") is None
    made = take(host)
    assert version_schemas.schema_of_version(host.journal, "1.0.0") == {"state.sqlite": made.schema["state.sqlite"]}
    old_snapshot(host, "0.9.0")
    assert version_schemas.schema_of_version(host.journal, "0.9.0") is None, "a level alone proves nothing"
    assert version_schemas.schema_of_version(host.journal, "") is None


def test_a_box_without_room_is_named(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(userdata(host), second=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    with pytest.raises(DiskError, match="make room"):
        take(host)
