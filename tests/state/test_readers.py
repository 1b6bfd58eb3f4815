"""Reading the host without rights: the journal of another account, with a writer and after one that closed it cleanly."""

import gc
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from scenes import FIRST

from t3flow.engine.journal import Journal, JournalError
from t3flow.engine.reader import ReadOnlyJournal
from t3flow.engine.runs import new_run
from t3flow.sandbox.host import Sandbox
from t3flow.settings.load import load
from t3flow.state.host import collect

pytestmark = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Return the path of a journal with one run, closed cleanly, in a folder that may not be written."""
    path = tmp_path / "state" / "journal.db"
    path.parent.mkdir()
    write(path, "bump-1")
    path.chmod(0o444)
    path.parent.chmod(0o555)
    yield path
    path.parent.chmod(0o755)


def write(path: Path, run: str) -> None:
    """Add a run as the consumer would, and close the journal."""
    journal = Journal(path, create=True)
    new_run(journal, "bump", {}, run_id=run)
    del journal
    gc.collect()


def ids(journal: Journal) -> list[str]:
    """Return the ids of all runs."""
    return [run.id for run in journal.runs()]


def test_a_journal_that_was_closed_cleanly_is_read(path: Path) -> None:
    """There is no log any more, and none can be created; nothing is left in the folder."""
    assert [each.name for each in path.parent.iterdir()] == ["journal.db"]
    with (
        pytest.raises(sqlite3.OperationalError),
        closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as plain,
    ):
        plain.execute("select * from runs")
    assert ids(ReadOnlyJournal(path)) == ["bump-1"]
    assert [each.name for each in path.parent.iterdir()] == ["journal.db"]


def test_a_reader_follows_writers_that_come_and_go(path: Path) -> None:
    """What a later writer committed is seen at the next query, while it has the journal open and after it closed it."""
    reader = ReadOnlyJournal(path)
    assert ids(reader) == ["bump-1"]
    path.parent.chmod(0o755)
    path.chmod(0o644)
    writer = Journal(path)
    new_run(writer, "bump", {}, run_id="bump-2")
    path.parent.chmod(0o555)
    assert ids(reader) == ["bump-1", "bump-2"]
    path.parent.chmod(0o755)
    del writer
    gc.collect()
    write(path, "bump-3")
    assert ids(reader) == ["bump-1", "bump-2", "bump-3"]


def test_a_reader_may_change_nothing(path: Path) -> None:
    """A change is refused in one line."""
    with pytest.raises(JournalError, match="may only read"):
        ReadOnlyJournal(path).set_meta("a", 1)


@pytest.mark.parametrize("content", [b"", b"rubbish" * 1000])
def test_what_is_no_journal_is_refused(path: Path, content: bytes) -> None:
    """An empty file and rubbish: one line, with what to do."""
    path.parent.chmod(0o755)
    path.chmod(0o644)
    path.write_bytes(content)
    with pytest.raises(JournalError, match=str(path)):
        ReadOnlyJournal(path)


def test_a_reader_without_rights_sees_what_the_consumer_observed(make_box: Callable[..., Sandbox]) -> None:
    """The same users, versions and problems as root sees, with a consumer and after its end."""
    box = make_box(["ada", "grace"])
    box.until(lambda: len(collect(load(box.config, {}), is_live=False)["users"]) == 2, "the host was observed")
    state = box.journal.path.parent
    modes = {each: each.stat().st_mode & 0o777 for each in [state, *state.iterdir()]}
    seen = []
    for is_alive in (True, False):
        if not is_alive:
            box.end("consumer")
            modes = {each: each.stat().st_mode & 0o777 for each in [state, *state.iterdir()]}
        live = collect(load(box.config, {}))
        for each in modes:
            each.chmod(0o555 if each.is_dir() else 0o444 if "journal" in each.name else 0)
        try:
            found = collect(load(box.config, {}))
        finally:
            for each, mode in modes.items():
                each.chmod(mode)
        assert found["users"] == live["users"]
        assert found["consumer"] == live["consumer"]
        assert found["consumer"]["alive"] == is_alive
        assert [each["key"] for each in found["problems"]] == ([] if is_alive else ["consumer_down"])
        seen.append(found["users"]["ada"]["running_version"])
    assert seen == [FIRST, FIRST]
