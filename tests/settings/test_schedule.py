"""Due times, windows and the latest hour, across changes of the clocks."""

import time
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from t3flow.settings import schedule
from t3flow.settings.load import Settings, load

ZONE = "Europe/Berlin"  # 2026-03-29 02:00 → 03:00, 2026-10-25 03:00 → 02:00


def settings(tmp_path: Path, **values: str) -> Settings:
    return (
        load(None, {"T3FLOW_SCHEDULE__TIMEZONE": ZONE, **values})
        if False
        else load(_empty(tmp_path), {"T3FLOW_SCHEDULE__TIMEZONE": ZONE, **values})
    )


def _empty(tmp_path: Path) -> Path:
    path = tmp_path / "empty.toml"
    path.write_text("")
    return path


def at(text: str, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(ZONE), fold=fold).timestamp()


def wall(moment: float) -> str:
    return datetime.fromtimestamp(moment, ZoneInfo(ZONE)).isoformat(timespec="minutes")


def test_each_day_has_one_bump(tmp_path: Path) -> None:
    """A whole year, minute marks across both changes of the clocks."""
    read = settings(tmp_path)
    moment, seen = at("2026-01-01T00:00"), []
    while moment < at("2027-01-01T00:00"):
        moment = schedule.next_due(read, moment)
        seen.append(wall(moment)[:16])
    assert len(seen) == len(set(seen)) == 366
    assert all(text.endswith("T04:00") for text in seen)


def test_a_skipped_hour_falls_on_the_next_minute_that_exists(tmp_path: Path) -> None:
    read = settings(tmp_path, T3FLOW_SCHEDULE__BUMP="30 2 * * *")
    due = schedule.next_due(read, at("2026-03-29T00:00"))
    assert wall(due)[:16] in ("2026-03-29T03:00", "2026-03-29T03:30")
    assert wall(schedule.next_due(read, due))[:16] == "2026-03-30T02:30"


def test_a_repeated_hour_counts_once(tmp_path: Path) -> None:
    read = settings(tmp_path, T3FLOW_SCHEDULE__BUMP="30 2 * * *")
    due = schedule.next_due(read, at("2026-10-25T00:00"))
    assert wall(due)[:16] == "2026-10-25T02:30"
    assert wall(schedule.next_due(read, due))[:16] == "2026-10-26T02:30"


@pytest.mark.parametrize(
    ("window", "now", "opens"),
    [
        ("01:00-05:40", "2026-06-10T00:59", "2026-06-10T01:00"),
        ("01:00-05:40", "2026-06-10T01:00", "2026-06-10T01:00"),
        ("01:00-05:40", "2026-06-10T05:39", "2026-06-10T05:39"),
        ("01:00-05:40", "2026-06-10T05:40", "2026-06-11T01:00"),
        ("22:00-04:00", "2026-06-10T23:30", "2026-06-10T23:30"),
        ("22:00-04:00", "2026-06-10T03:59", "2026-06-10T03:59"),
        ("22:00-04:00", "2026-06-10T12:00", "2026-06-10T22:00"),
        ("", "2026-06-10T12:00", "2026-06-10T12:00"),
        ("02:15-05:40", "2026-03-29T01:30", "2026-03-29T03:15"),
    ],
)
def test_windows(tmp_path: Path, window: str, now: str, opens: str) -> None:
    read = settings(tmp_path, T3FLOW_DEFERRAL__WINDOW=window)
    assert wall(schedule.window_opens(read, at(now)))[:16] == opens


def test_the_latest_hour_is_the_next_one_after_the_due_time(tmp_path: Path) -> None:
    read = settings(tmp_path)
    assert wall(schedule.deadline(read, at("2026-06-10T04:00")) or 0)[:16] == "2026-06-10T07:00"
    assert wall(schedule.deadline(read, at("2026-06-10T23:00")) or 0)[:16] == "2026-06-11T07:00"
    assert schedule.deadline(settings(tmp_path, T3FLOW_SCHEDULE__LATEST=""), time.time()) is None
