"""Retention: runs that ended long ago are deleted unless something refers to them, and the journal does not grow for ever."""

import threading
import time
from pathlib import Path

import pytest

from t3flow.engine import journal as journals
from t3flow.engine import retention
from t3flow.engine.journal import Journal, append_event
from t3flow.engine.runs import Outcome, end_run, new_run, send_signal

DAY = 86400.0


def make(journal: Journal, run_id: str, *, days_ago: float, events: int = 10, is_ended: bool = True) -> str:
    """Create a run with so many events that ended so long ago."""
    made = new_run(journal, "bump", {}, run_id=run_id)
    assert made == run_id
    with journal.transaction(synced=False) as connection:
        for number in range(events):
            append_event(connection, run_id, "completed", "step", 1, {"result": "x" * 200, "number": number})
    if is_ended:
        end_run(journal, journal.run(run_id), Outcome("done"))
    then = time.time() - days_ago * DAY
    with journal.transaction() as connection:
        connection.execute("update runs set created = ?, updated = ? where id = ?", (then, then, run_id))
    return run_id


def runs(journal: Journal) -> list[str]:
    return [run.id for run in journal.runs()]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    extra = (
        "create table deferrals (user text primary key, run text not null) without rowid;\n"
        "create table facts (key text primary key, value text not null) without rowid;\n"
    )
    return Journal(tmp_path / "journal.db", create=True, extra_schema=extra)


def test_only_what_ended_long_ago_goes(journal: Journal) -> None:
    make(journal, "old", days_ago=100)
    make(journal, "old-running", days_ago=100, is_ended=False)
    make(journal, "young", days_ago=80)
    make(journal, "last", days_ago=1)
    deleted = retention.delete_expired_runs(journal, 90)
    assert (deleted.runs, deleted.events, deleted.is_complete) == (1, 12, True)
    assert runs(journal) == ["old-running", "young", "last"]
    assert journal.events("old") == []
    assert len(journal.events("old-running")) == 11
    assert retention.delete_expired_runs(journal, 90) == retention.Deleted(0, 0, is_complete=True)


def test_what_something_refers_to_stays(journal: Journal) -> None:
    """References count in any table with a column `run`, even of a later t3flow, and as the caller decides."""
    for name in ("of-deferral", "of-later", "of-fact", "of-nothing", "last"):
        make(journal, name, days_ago=100 if name != "last" else 1)
    with journal.transaction() as connection:
        connection.execute("insert into deferrals values ('ada', 'of-deferral')")
        connection.execute("create table later (thing text primary key, run text not null) without rowid")
        connection.execute("insert into later values ('x', 'of-later')")
    retention.delete_expired_runs(journal, 90, lambda run_id: run_id == "of-fact")
    assert sorted(runs(journal)) == ["last", "of-deferral", "of-fact", "of-later"]


def test_the_newest_of_each_workflow_stays(journal: Journal) -> None:
    """`status` shows it, also after months without a bump."""
    make(journal, "older", days_ago=300)
    make(journal, "newest", days_ago=200)
    retention.delete_expired_runs(journal, 90)
    assert runs(journal) == ["newest"]


def test_a_call_is_bounded_and_the_next_goes_on(journal: Journal) -> None:
    make(journal, "long", days_ago=100, events=2500)
    make(journal, "last", days_ago=1)
    counts = []
    while not (deleted := retention.delete_runs_before(journal, time.time() - 90 * DAY, max_events=1000)).is_complete:
        counts.append(deleted.events)
        assert "long" in runs(journal), "the run is deleted with its last event"
    assert counts == [1000, 1000]
    assert runs(journal) == ["last"]


def test_nobody_waits_long_for_it(journal: Journal) -> None:
    """While 20,000 events are deleted, other commits wait no longer than one batch."""
    for number in range(20):
        make(journal, f"old-{number}", days_ago=100, events=1000)
    make(journal, "last", days_ago=1)
    trimming = threading.Thread(target=retention.delete_runs_before, args=(journal, time.time() - 90 * DAY))
    worst = 0.0
    trimming.start()
    while trimming.is_alive():
        began = time.monotonic()
        journal.set_meta("x", began)
        worst = max(worst, time.monotonic() - began)
        time.sleep(0.005)
    trimming.join()
    assert worst < 0.5


def test_space_is_used_again_and_given_back(journal: Journal) -> None:
    """A year of runs takes the space of those that are kept, and the file shrinks when there are fewer."""
    sizes = []
    for month in range(12):
        make(journal, f"run-{month}", days_ago=0, events=1000)
        with journal.transaction() as connection:
            connection.execute("update runs set created = created - ?, updated = updated - ?", (30 * DAY, 30 * DAY))
        retention.delete_expired_runs(journal, 90)
        journal.query("pragma wal_checkpoint(truncate)")
        sizes.append(journal.path.stat().st_size)
    assert sizes[-1] <= sizes[3] * 1.1
    make(journal, "last", days_ago=0)
    retention.delete_expired_runs(journal, 1)
    journal.query("pragma wal_checkpoint(truncate)")
    assert journal.path.stat().st_size < sizes[-1] / 2


def test_a_journal_of_an_earlier_t3flow_uses_its_space_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file cannot shrink, but does not grow."""
    made = Journal(tmp_path / "journal.db", create=True)
    with made.transaction() as connection:
        connection.execute("select 1")
    old = made._connection("NORMAL")
    old.execute("pragma auto_vacuum = none")
    old.execute("vacuum")
    assert made.query("pragma auto_vacuum") == [(0,)]
    sizes = []
    for month in range(8):
        make(made, f"run-{month}", days_ago=0, events=500)
        with made.transaction() as connection:
            connection.execute("update runs set created = created - ?, updated = updated - ?", (30 * DAY, 30 * DAY))
        retention.delete_expired_runs(made, 90)
        made.query("pragma wal_checkpoint(truncate)")
        sizes.append(made.path.stat().st_size)
    assert sizes[-1] <= sizes[3] * 1.1


def test_the_log_is_cut_once_a_reader_lets_it(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long read keeps SQLite from restarting its log, which is truncated afterwards."""
    monkeypatch.setattr(journals, "MAX_LOG_BYTES", 2**20)
    writer = Journal(journal.path)
    reader = Journal(journal.path)
    reading = reader._connection("NORMAL")
    reading.execute("begin")
    reading.execute("select count(*) from runs").fetchall()
    for number in range(6):
        make(writer, f"run-{number}", days_ago=0, events=2000)
    log = journal.path.with_name("journal.db-wal")
    assert log.stat().st_size > 3 * 2**20
    reading.execute("rollback")
    for number in range(6, 9):
        make(writer, f"run-{number}", days_ago=0, events=2000)
    assert log.stat().st_size < 6 * 2**20
    writer.query("pragma wal_checkpoint(restart)")
    writer.set_meta("x", 1)
    assert log.stat().st_size <= 2**20


def test_a_signal_to_a_run_that_has_just_ended(journal: Journal) -> None:
    """It would never be delivered, and the run would stay for ever, because a signal refers to it."""
    run = new_run(journal, "bump", {}) or ""
    send_signal(journal, run, "cancel")
    end_run(journal, journal.run(run), Outcome("done"))
    send_signal(journal, run, "cancel")
    assert journal.query("select run from signals") == []
