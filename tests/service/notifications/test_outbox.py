"""The outbox: news without loss, retries with backoff, bounds, and journals of earlier releases."""

import json
import time
from pathlib import Path

import pytest

from t3flow.engine import retention
from t3flow.engine.journal import Journal
from t3flow.engine.runs import Outcome, end_run, new_run
from t3flow.host.records import outbox, tables
from t3flow.host.records.outbox import KEEP_TRYING_SECONDS, LONGEST_RETRY_SECONDS, MAX_DEAD, MAX_WAITING

HOOK = "webhook"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "journal.db", create=True, extra_schema=tables.SCHEMA)
    outbox.keep_channels(made, {HOOK: "notify.webhook_url (http://h/***)"})
    return made


def put(journal: Journal, *keys: str, at: float | None = None) -> None:
    for key in keys:
        with journal.transaction() as connection:
            outbox.put(connection, key, [HOOK], {"key": key}, time.time() if at is None else at)


def due(journal: Journal, later: float = 0.0) -> str | None:
    letter = outbox.due(journal, HOOK, time.time() + later)
    return letter.key if letter else None


def fail(journal: Journal, later: float = 0.0) -> None:
    letter = outbox.due(journal, HOOK, time.time() + later)
    assert letter is not None
    outbox.note_failure(journal, HOOK, "shown", "answered 500", letter)


def test_the_end_of_each_run_is_news_in_the_commit_that_ends_it(journal: Journal) -> None:
    """Also of runs that a release without the table has begun, and not of a commit that is rolled back."""
    run, drain = new_run(journal, "bump", {}), new_run(journal, "drain", {"user": "ada"})
    assert run is not None
    assert drain is not None
    assert [(item.run, item.what) for item in outbox.news(journal)] == [(run, "began")]
    with pytest.raises(RuntimeError), journal.transaction() as connection:  # noqa: PT012
        connection.execute("update runs set status = 'failed' where id = ?", (drain,))
        raise RuntimeError("killed before the commit")
    assert len(outbox.news(journal)) == 1
    end_run(journal, journal.run(drain), Outcome("updated"))
    end_run(journal, journal.run(run), Outcome("error", status="failed"))
    assert [(item.run, item.what) for item in outbox.news(journal)] == [
        (run, "began"),
        (drain, "ended"),
        (run, "ended"),
    ]
    with journal.transaction() as connection:
        assert [outbox.forget_news(connection, item) for item in outbox.news(journal)] == [True] * 3
    assert outbox.news(journal) == []


def test_a_journal_of_an_earlier_release_gets_the_tables_and_no_old_news(tmp_path: Path) -> None:
    extra = tables.SCHEMA.replace(tables.OUTBOX_TABLES.lstrip(), "")
    journal = Journal(tmp_path / "journal.db", create=True, extra_schema=extra)
    ended, running = new_run(journal, "bump", {}), new_run(journal, "bump", {})
    assert ended is not None
    assert running is not None
    end_run(journal, journal.run(ended), Outcome("updated"))
    assert (outbox.channels(journal), outbox.waiting(journal)) == ([], {})
    tables.migrate_facts(journal)
    tables.migrate_facts(journal)
    assert outbox.news(journal) == []
    end_run(journal, journal.run(running), Outcome("updated"))
    assert [item.run for item in outbox.news(journal)] == [running]


def test_news_keeps_no_run_from_being_deleted(journal: Journal) -> None:
    """As after a downgrade, when nothing derives messages."""
    for _ in range(2):
        run = new_run(journal, "bump", {})
        assert run is not None
        end_run(journal, journal.run(run), Outcome("updated"))
    assert retention.delete_runs_before(journal, time.time() + 9).runs == 1, "all but the newest"


def test_a_message_is_put_once_and_deleted_when_it_was_sent(journal: Journal) -> None:
    put(journal, "a", "a")
    letter = outbox.due(journal, HOOK, time.time())
    assert letter is not None
    assert letter.document == {"key": "a"}
    outbox.note_sent(journal, HOOK, "shown", letter)
    outbox.note_sent(journal, HOOK, "shown", letter)
    assert due(journal) is None
    assert outbox.waiting(journal) == {}


def test_a_failure_backs_off_and_lets_others_pass(journal: Journal) -> None:
    """5 s, 10 s, 20 s and so on, to an hour; a success makes all that waits due."""
    put(journal, "poisoned", "next")
    fail(journal)
    assert due(journal) == "next"
    letter = outbox.due(journal, HOOK, time.time())
    assert letter is not None
    outbox.drop(journal, letter)
    pauses = []
    for _ in range(14):
        rows = journal.query("select next_try from outbox")
        pauses.append(rows[0][0] - time.time())
        assert due(journal, rows[0][0] - time.time() - 1) is None
        fail(journal, rows[0][0] - time.time() + 0.1)
    assert [round(pause) for pause in pauses[:4]] == [5, 10, 20, 40]
    assert round(pauses[-1]) == LONGEST_RETRY_SECONDS
    [state] = outbox.channels(journal)
    assert (state.cause, state.failed, state.sent) == ("answered 500", 15, 0)
    assert state.failing_since is not None
    outbox.note_sent(journal, HOOK, "shown")
    assert due(journal) == "poisoned"
    assert outbox.channels(journal)[0].failing_since is None


def test_a_clock_that_was_ahead_delays_nothing(journal: Journal) -> None:
    put(journal, "a")
    with journal.transaction() as connection:
        connection.execute("update outbox set next_try = ?", (time.time() + 1e6,))
    assert due(journal) == "a"


def test_a_message_that_no_channel_takes_becomes_a_dead_letter(journal: Journal) -> None:
    put(journal, "old", at=time.time() - KEEP_TRYING_SECONDS - 1)
    assert due(journal) == "old", "a last attempt"
    fail(journal)
    assert due(journal, 1e5) is None
    assert outbox.channels(journal)[0].dead == 1
    assert outbox.waiting(journal) == {}


def test_the_outbox_is_bounded(journal: Journal) -> None:
    """The newest messages stay, and the newest dead letters."""
    put(journal, *(str(number) for number in range(MAX_WAITING + MAX_DEAD + 30)))
    assert outbox.waiting(journal) == {HOOK: MAX_WAITING}
    assert journal.query("select count(*) from outbox where dead is not null") == [(MAX_DEAD,)]
    assert due(journal) == str(MAX_DEAD + 30)


def test_channels_that_are_no_longer_set_are_dropped(journal: Journal) -> None:
    put(journal, "a")
    fail(journal)
    outbox.keep_channels(journal, {"urls 1": "notify.urls 1 (slack://***)"})
    assert [each.name for each in outbox.channels(journal)] == ["urls 1"]
    assert journal.query("select count(*) from outbox") == [(0,)]
    outbox.keep_channels(journal, {})
    assert outbox.channels(journal) == []


def test_the_document_is_kept_as_it_was_derived(journal: Journal) -> None:
    put(journal, "a")
    assert json.loads(journal.query("select document from outbox")[0][0]) == {"key": "a"}
