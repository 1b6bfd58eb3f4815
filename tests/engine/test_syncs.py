"""What counts as synced: a commit that changes nothing does not sync, and so syncs no earlier commit."""

from collections.abc import Callable
from pathlib import Path

import pytest

from t3flow.engine.journal import Journal, append_event
from t3flow.engine.runs import new_run


def _nothing(journal: Journal) -> None:
    with journal.transaction():
        pass


def _same_again(journal: Journal) -> None:
    """SQLite counts the row as changed but does not write its page."""
    with journal.transaction() as connection:
        connection.execute("update runs set held = null")


def _taken_id(journal: Journal) -> None:
    assert new_run(journal, "bump", {}, run_id="bump-1") is None


@pytest.mark.parametrize("commit", [_nothing, _same_again, _taken_id])
def test_a_commit_that_writes_nothing_syncs_nothing(tmp_path: Path, commit: Callable[[Journal], None]) -> None:
    """Counted as a sync, it would let a step change the host while a power cut could still lose earlier results."""
    journal = Journal(tmp_path / "journal.db", create=True)
    new_run(journal, "bump", {}, run_id="bump-1")
    log = tmp_path / "journal.db-wal"
    with journal.transaction(synced=False) as connection:
        append_event(connection, "bump-1", "completed", "plan_rollback")
    number, written = journal.last_commit, log.read_bytes()
    commit(journal)
    assert log.read_bytes() == written, "control: SQLite had nothing to sync"
    assert journal.last_synced < number
    with journal.transaction() as connection:
        append_event(connection, "bump-1", "started", "roll_back_user")
    assert journal.last_synced > number
