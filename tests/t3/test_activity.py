"""Who is at work, by the tables of whichever generation are there."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from t3flow.t3 import activity
from t3flow.t3.unknown import Unknown

DATA = Path(__file__).parents[1] / "data"


def read(path: Path, *changes: str) -> activity.Activity:
    """Return the activity of a copy of a database after some changes."""
    with closing(sqlite3.connect(path)) as connection:
        for change in changes:
            connection.execute(change)
        return activity.read(connection, path.name)


@pytest.fixture
def level52(tmp_path: Path) -> Path:
    """Return a database of 0.0.42 with a turn under way."""
    return Path(shutil.copyfile(DATA / "state-level52-killed-in-turn.sqlite", tmp_path / "state.sqlite"))


def test_a_table_that_a_preview_left_hides_no_turn(level52: Path) -> None:
    """The tables of later generations lie in databases of earlier ones, empty: a turn is a turn all the same."""
    alone = read(level52)
    assert [work.kind for work in alone.work] == [activity.ACTIVE_TURN]
    runs = "(run_id text, status text, requested_at text, completed_at text, payload_json text)"
    assert read(level52, f"create table {activity.RUNS} {runs}") == alone


def test_the_work_of_both_is_seen(tmp_path: Path) -> None:
    """A second database keeps the sessions of the first, whose turns are dated: those older than the server are dead for whoever asks."""
    path = Path(shutil.copyfile(DATA / "statev2-level56-run-in-flight.sqlite", tmp_path / "statev2.sqlite"))
    before = read(path)
    session = (
        f"update {activity.SESSIONS} set active_turn_id = 'x', updated_at = '2026-01-01T00:00:00.000Z' where rowid = 1"
    )
    after = read(path, session)
    assert len(after.work) == len(before.work) + 1
    assert after.work[-1].since == 1767225600.0
    assert all(work.since is None for work in before.work)


def test_without_any_of_them_nobody_is_called_idle(level52: Path) -> None:
    """That is no answer."""
    with pytest.raises(Unknown, match="does not know"):
        read(level52, f"drop table {activity.SESSIONS}")


def test_the_payload_of_a_run_that_ended_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A year has tens of thousands of them, and parsing all took longer than a suspended server may wait, so that its user was never idle."""
    path = Path(shutil.copyfile(DATA / "statev2-level56.sqlite", tmp_path / "statev2.sqlite"))
    parsed: list[str] = []
    real = activity._payload
    monkeypatch.setattr(activity, "_payload", lambda text: parsed.append(text) or real(text))
    found = read(path, f"update {activity.RUNS} set completed_at = '2026-11-26T01:02:03.000Z', payload_json = 'x'")
    assert (found.work, found.newest, parsed) == ([], activity.seconds("2026-11-26T01:02:03.000Z"), [])
    still = f'update {activity.RUNS} set completed_at = null, payload_json = \'{{"startedAt": "2026-11-26T01:02:04.000Z"}}\''
    assert read(path, still).newest == activity.seconds("2026-11-26T01:02:04.000Z"), (
        "a run without an end is read whole"
    )
    assert len(parsed) == 1
    with pytest.raises(Unknown):
        read(path, f"update {activity.RUNS} set status = 'running', payload_json = 'x'")
