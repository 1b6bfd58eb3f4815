"""Dates that people type."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from t3flow.settings.dates import BadDate, future_moment
from t3flow.settings.load import Settings

VIENNA = Settings()._replace(schedule=Settings().schedule._replace(timezone="Europe/Vienna"))
NEXT_YEAR = datetime.now(UTC).year + 1


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (f"{NEXT_YEAR}-12-24", datetime(NEXT_YEAR, 12, 23, 23, tzinfo=UTC)),
        (f"{NEXT_YEAR}-07-01 18:00", datetime(NEXT_YEAR, 7, 1, 16, tzinfo=UTC)),
        (f" {NEXT_YEAR}-07-01T18:00:00Z ", datetime(NEXT_YEAR, 7, 1, 18, tzinfo=UTC)),
        (f"{NEXT_YEAR}-07-01T18:00:00-05:00", datetime(NEXT_YEAR, 7, 1, 23, tzinfo=UTC)),
    ],
)
def test_a_date_means_its_first_moment_in_the_schedules_zone(text: str, moment: datetime) -> None:
    assert future_moment(VIENNA, text) == moment.timestamp()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "12-24",
        "2026-13-01",
        "0001-01-01",
        "9999-12-31",
        "2020-01-01",
        "2026-12-24; rm",
        "x" * 10_000,
        "\x00",
    ],
)
def test_anything_else_is_one_line(text: str) -> None:
    with pytest.raises(BadDate) as raised:
        future_moment(VIENNA, text)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 200


def test_this_moment_has_passed() -> None:
    with pytest.raises(BadDate, match="has passed"):
        future_moment(VIENNA, datetime.fromtimestamp(time.time(), UTC).isoformat())
    soon = datetime.now(UTC) + timedelta(seconds=5)
    assert future_moment(VIENNA, soon.isoformat()) == pytest.approx(soon.timestamp())
