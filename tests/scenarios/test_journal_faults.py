"""A journal that cannot be trusted: the consumer refuses to act, says why and what to do, and changes nothing on the host."""

import gc
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from scenes import NEXT, bump, everybody_is_well, is_busy, tree

from t3flow.sandbox.host import Sandbox


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database at all " * 500)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def one_page_lost(path: Path) -> None:
    """Return the first page of the table of runs."""
    with closing(sqlite3.connect(path)) as connection:
        [page] = connection.execute("select rootpage from sqlite_master where name = 'runs'").fetchone()
        [size] = connection.execute("pragma page_size").fetchone()
    whole = bytearray(path.read_bytes())
    whole[(page - 1) * size : page * size] = bytes(size)
    path.write_bytes(whole)


def another_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table t (x)")


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("pragma user_version = 99")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FAULTS = [garbage, emptied, truncated, one_page_lost, another_database, newer, a_folder]


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__)
def test_a_journal_that_cannot_be_trusted_is_refused(
    make_box: Callable[..., Sandbox], spoil: Callable[[Path], None]
) -> None:
    box = make_box(["ada", "grace"])
    is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    box.end("consumer")
    path = box.settings.paths.state_dir / "journal.db"
    kept = box.top / "log" / "journal.db"
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(kept)) as copy:
        source.backup(copy)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(kept, path)
    gc.collect()  # closes what this process has open
    before = tree(box.top, "log", "home", "state")
    try:
        spoil(path)
        for words in (("consumer",), ("runs",), ("enqueue", "bump"), ("enqueue", "drain", "grace")):
            said = box.t3flow(*words)
            assert said.returncode not in (0, 3), words
            lines = said.stderr.strip().splitlines()
            assert len(lines) == 1, (words, said.stderr)
            assert "journal" in lines[0] or words[0] == "enqueue", words
            assert "nothing was" in lines[0] or words[0] == "runs", words
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(kept, path)
    assert tree(box.top, "log", "home", "state") == before
    box.start_consumer()
    everybody_is_well(box, {"ada": NEXT, "grace": "0.0.24"})
    assert "grace" in {entry["user"] for entry in box.document("deferrals")}


def test_a_journal_that_cannot_be_written_is_refused(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"])
    box.end("consumer")
    state = box.settings.paths.state_dir
    for path in state.glob("journal.db*"):
        path.chmod(0o400)
    try:
        with (state / "journal.db").open("r+b"):
            pytest.skip("this account writes what it may not")
    except PermissionError:
        pass
    before = tree(box.top, "log", "state")
    said = box.t3flow("consumer")
    assert said.returncode not in (0, 3)
    assert len(said.stderr.strip().splitlines()) == 1
    assert "journal" in said.stderr
    assert tree(box.top, "log", "state") == before
