"""Snapshots and restores: consistent while the server writes, stored out of the user's reach, and nothing is lost."""

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from scenes import content, write

from t3flow.engine.files import DiskError
from t3flow.host import pruning
from t3flow.host.backups import restoring, store
from t3flow.host.host import Host
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.records import catalog, facts


def take(host: Host, target: str = "2.0.0") -> catalog.Backup:
    return store.take(host, "ada", written_by="1.0.0", version=target, run="run-1")


def test_a_snapshot_is_the_database(bare: Callable[..., Host]) -> None:
    host = bare()
    made = take(host)
    assert content(Path(made.path)) == content(store.database_path(host, "ada"))
    assert (made.level, made.written_by, made.version) == (30, "1.0.0", "2.0.0")
    path = Path(made.path)
    assert path.parent == host.settings.paths.backup_dir / "ada"
    assert path.name.startswith("state-prebump-2.0.0-")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert not any((host.settings.paths.backup_dir / ".incoming").iterdir())


def test_an_unchanged_database_keeps_its_snapshot(bare: Callable[..., Host]) -> None:
    host = bare()
    first = take(host)
    assert take(host).path == first.path
    other = take(host, "3.0.0")
    assert other.path != first.path
    assert os.stat(other.path).st_ino == os.stat(first.path).st_ino, "it is a link, not a copy"
    write(store.database_path(host, "ada"), "create table more (x)")
    changed = take(host)
    assert changed.path != first.path
    assert os.stat(changed.path).st_ino != os.stat(first.path).st_ino


def test_a_snapshot_that_it_was_killed_over_goes_with_the_next(
    bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no record, so nothing else would ever drop it. A file that no TAKING fact names stays, because a journal may be lost."""
    host = bare()
    first = take(host)
    stranger = Path(first.path).with_name("state-prebump-2.0.0-20260101T000000000000Z.sqlite")
    shutil.copy(first.path, stranger)
    write(store.database_path(host, "ada"), "create table more (x)")

    def die(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as killed:
        killed.setattr(catalog, "put_backup", die)
        with pytest.raises(SystemExit):
            take(host)
    assert len(list(stranger.parent.iterdir())) == 3
    second = take(host)
    assert set(stranger.parent.iterdir()) == {Path(first.path), stranger, Path(second.path)}
    assert [entry.path for entry in catalog.backups(host.journal, "ada")] == [first.path, second.path]


def test_a_snapshot_is_consistent_while_the_server_writes(bare: Callable[..., Host]) -> None:
    host = bare()
    database = store.database_path(host, "ada")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table pair (a, b)")
    stop = threading.Event()

    def work() -> None:
        with closing(sqlite3.connect(database, timeout=10)) as connection:
            number = 0
            while not stop.is_set():
                with connection:
                    connection.execute("insert into pair values (?, 0)", (number,))
                    connection.execute("update pair set b = a where a = ?", (number,))
                number += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        made = [take(host) for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    for snapshot in made:
        with closing(sqlite3.connect(snapshot.path)) as connection:
            assert connection.execute("select count(*) from pair where a is not b").fetchone() == (0,)
            assert connection.execute("pragma integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda path: path.unlink(), "no database"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"garbage" * 999), "not a database"),
        (lambda path: path.write_bytes(path.read_bytes()[:20_000]), "malformed"),
    ],
    ids=["missing", "empty", "garbage", "truncated"],
)
def test_a_bad_database_gives_no_snapshot(
    bare: Callable[..., Host], spoil: Callable[[Path], object], word: str
) -> None:
    host = bare()
    spoil(store.database_path(host, "ada"))
    with pytest.raises(OwnerProblem, match=word):
        take(host)
    assert catalog.backups(host.journal) == []
    assert not any((host.settings.paths.backup_dir / ".incoming").iterdir())


def test_a_disk_without_room_is_named(bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    host = bare()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    with pytest.raises(DiskError, match=r"backup of ada needs .* make room"):
        take(host)


def test_a_restore_puts_back_and_keeps_what_was_there(bare: Callable[..., Host]) -> None:
    host = bare()
    database = store.database_path(host, "ada")
    before = content(database)
    made = take(host)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table written_since (x)")
        connection.commit()
        assert Path(f"{database}-wal").stat().st_size > 0
        connection.execute("pragma wal_autocheckpoint = 0")
        kept = restoring.restore(host, "ada", made, "replaced-1")  # the connection stays open: its log stays
    assert content(database) == before
    assert "written_since" in "".join(content(Path(kept) / "state.sqlite")), "with what was in its log alone"
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)


def test_a_restore_that_is_repeated_ends_the_same(bare: Callable[..., Host]) -> None:
    host = bare()
    database = store.database_path(host, "ada")
    made = take(host)
    before = content(database)
    write(database, "create table written_since (x)")
    for _ in range(3):
        kept = restoring.restore(host, "ada", made, "replaced-1")
        assert content(database) == before
        assert "written_since" in "".join(content(Path(kept) / "state.sqlite"))


def test_old_snapshots_go_the_last_of_the_former_version_stays(bare: Callable[..., Host]) -> None:
    host = bare()
    made = []
    for number in range(12):
        write(store.database_path(host, "ada"), f"create table t{number} (x)")
        made.append(store.take(host, "ada", written_by=f"1.0.{number}", version=f"1.0.{number + 1}", run="r").path)
    facts.write(host.journal, pruning.ACCEPTED, [f"1.0.{number}" for number in range(13)])
    pruning.prune(host)
    left = {Path(entry.path).name for entry in catalog.backups(host.journal)}
    assert {path.name for path in (host.settings.paths.backup_dir / "ada").iterdir()} == left
    assert Path(made[-1]).name in left
    assert len(left) <= host.settings.backup.keep + 1
