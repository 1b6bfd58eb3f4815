"""Times for people: short, local, and never a past time told as one to come."""

import re
import time

import pytest

from t3flow.state import times

NOW = float(int(time.time()))


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return the clock stands still."""
    monkeypatch.setattr(time, "time", lambda: NOW)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        *((0.0, "0.0 s"), (0.14, "0.1 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (60, "1 min")),
        *((3599, "59 min"), (3600, "1 h"), (86399, "23 h"), (86400, "1 day"), (3 * 86400 + 5, "3 days")),
    ],
)
def test_a_duration_has_one_form(seconds: float, told: str) -> None:
    assert times.duration(seconds) == told


def test_what_is_past_is_never_told_as_to_come() -> None:
    """A time that is set and has passed is due now; one that a clock that was set back shows as ahead is just now."""
    assert times.ahead(NOW - 40) == "now"
    assert times.soon(NOW - 40) == "now"
    assert times.ago(NOW + 40) == "just now"
    assert times.ago(NOW - 40) == "40 s ago"
    assert times.ago(NOW - 3 * 86400) == "3 days ago"
    assert (times.ago(None), times.ahead(None)) == ("-", "-")


def test_what_is_to_come_has_its_clock() -> None:
    """In hours and minutes, local; with the day where it is another one."""
    assert re.fullmatch(r"in 12 min \((\w{3} )?\d\d:\d\d\)", times.ahead(NOW + 12 * 60 + 1))
    assert re.fullmatch(r"in 30 days \(\d{4}-\d\d-\d\d \d\d:\d\d\)", times.ahead(NOW + 30 * 86400 + 5))
    assert times.soon(NOW + 12 * 60 + 1) == "in 12 min"
    assert re.fullmatch(r"(\w{3} |\d{4}-\d\d-\d\d )?\d\d:\d\d \(4 min ago\)", times.when(NOW - 241))


def test_what_scripts_read_goes_there_and_back() -> None:
    shown = times.rfc3339(NOW)
    assert shown is not None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", shown)
    assert times.epoch(shown) == NOW
    assert (times.rfc3339(None), times.epoch(None)) == (None, None)
