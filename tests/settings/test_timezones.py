"""Each form of TZ means what it means for libc, or is refused by name."""

import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import FIRST

from t3flow import T3flowError
from t3flow.sandbox.host import Sandbox
from t3flow.settings import schedule, timezones
from t3flow.settings.load import Settings, load

MOMENTS = [
    int(datetime(year, month, day, hour, 30, tzinfo=UTC).timestamp())
    for year in (2025, 2026, 2031)
    for month in range(1, 13)
    for day in (1, 8, 15, 25, 28)
    for hour in (0, 1, 2, 7, 13)
]
FORMS = [
    "Europe/Berlin", ":Europe/Berlin", ":/etc/localtime", "/etc/localtime", "/usr/share/zoneinfo/Europe/Berlin", ":/usr/share/zoneinfo/Asia/Kolkata",
    "UTC", "UTC0", ":UTC0", "Etc/GMT-3", "UTC+1", "UTC-05:30", "<+03>-3", "<-0330>3:30", "CET-1CEST,M3.5.0,M10.5.0/3", "CET-1CEST,M3.5.0/2,M10.5.0/3",
    ":CET-1CEST,M3.5.0,M10.5.0/3", "EST5EDT", "AAA5BBB,J60,J300", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0",
    "IST-1GMT0,M10.5.0,M3.5.0/1", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca", "", ":", None,
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_form_means_what_it_means_for_libc(form: str | None) -> None:
    program = "import sys, time; print([time.localtime(int(each)).tm_gmtoff for each in sys.argv[1:]])"
    environment = {name: value for name, value in os.environ.items() if name != "TZ"}
    environment |= {} if form is None else {"TZ": form}
    words = [sys.executable, "-c", program, *map(str, MOMENTS)]
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    zone = timezones.zone_of(form)
    offsets = [datetime.fromtimestamp(each, zone).utcoffset() or timedelta() for each in MOMENTS]
    assert str([int(each.total_seconds()) for each in offsets]) == said.strip()


@pytest.mark.parametrize(
    "form",
    ["Europe/Nowhere", "Mars", ":Mars/Olympus", "/etc/passwd", "/nonexistent/zone", "/usr/share/zoneinfo", "Europe", "CET-1CEST,M3.5.0", "../etc/passwd",
     "CET-1CEST,M13.5.0,M10.5.0", "AAA5BBB,59/1,299/3:30", "AAA5BBB", "x" * 300, "UTC\n"],
)  # fmt: skip
def test_other_forms_are_refused(form: str) -> None:
    """libc takes most of these for UTC, without a word. The last two it takes for what zoneinfo does not."""
    with pytest.raises(timezones.UnknownZone, match="is not a time zone"):
        timezones.zone_of(form)


def settings(tmp_path: Path, **values: str) -> Settings:
    path = tmp_path / "empty.toml"
    path.write_text("")
    return load(path, values)


def test_the_hour_of_a_bump_is_that_of_tz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """04:00 as the clock of the consumer's environment says, in summer and in winter; `schedule.timezone` comes before it."""
    read = settings(tmp_path)
    for form in ("CET-1CEST,M3.5.0,M10.5.0/3", ":Europe/Berlin", "/usr/share/zoneinfo/Europe/Berlin"):
        monkeypatch.setenv("TZ", form)
        for day, hour in ((datetime(2026, 7, 1, tzinfo=UTC), 2), (datetime(2026, 12, 1, tzinfo=UTC), 3)):
            due = datetime.fromtimestamp(schedule.next_due(read, day.timestamp()), UTC)
            assert (due.hour, due.minute) == (hour, 0), form
    other = settings(tmp_path, T3FLOW_SCHEDULE__TIMEZONE="<+03>-3")
    assert datetime.fromtimestamp(schedule.next_due(other, 0.0), UTC).hour == 1


@pytest.mark.parametrize(
    "form", ["CET-1CEST,M3.5.0,M10.5.0/3", "Australia/Lord_Howe", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0", "IST-1GMT0,M10.5.0,M3.5.0/1"]
)  # fmt: skip
@pytest.mark.parametrize("cron", ["30 2 * * *", "10 2 * * *", "0 1 * * *", "45 1 * * *"])
def test_an_hour_that_is_skipped_or_doubled_has_one_bump_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, cron: str
) -> None:
    monkeypatch.setenv("TZ", form)
    read = settings(tmp_path, T3FLOW_SCHEDULE__BUMP=cron)
    zone = schedule.zone(read)
    moment = datetime(2026, 1, 1, tzinfo=zone).timestamp()
    days = []
    while moment < datetime(2027, 1, 1, tzinfo=zone).timestamp():
        due = schedule.next_due(read, moment)
        assert due - moment > 3600 * 20 or not days
        moment = due
        days.append(datetime.fromtimestamp(due, zone).date())
    assert len(days) == len(set(days)) == 366


def test_a_copy_of_the_rules_has_them_and_a_link_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path("/usr/share/zoneinfo/Europe/Berlin")
    copy, link = tmp_path / "copy", tmp_path / "link"
    shutil.copy(source, copy)
    link.symlink_to(source)
    noon = datetime(2026, 7, 1, 12, tzinfo=UTC)
    for path, name in ((copy, str(copy)), (link, "Europe/Berlin")):
        monkeypatch.setattr(timezones, "LOCALTIME", path)
        zone = timezones.zone_of(None)
        assert (str(zone), noon.astimezone(zone).hour) == (name, 14)
    copy.write_text("nonsense")
    monkeypatch.setattr(timezones, "_known", {})
    monkeypatch.setattr(timezones, "LOCALTIME", copy)
    with pytest.raises(timezones.UnknownZone, match="is not a zone file"):
        timezones.zone_of(None)
    monkeypatch.setattr(timezones, "LOCALTIME", tmp_path / "none")
    assert timezones.zone_of(None) is UTC


def test_a_zone_whose_file_goes_away_stays_in_force(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copy("/usr/share/zoneinfo/Europe/Berlin", copy)
    before = timezones.zone_of(str(copy))
    copy.unlink()
    assert timezones.zone_of(str(copy)) is before


def test_a_consumer_does_not_start_with_a_zone_that_it_does_not_know(tmp_path: Path) -> None:
    box = Sandbox(tmp_path, ["ada"])
    environment = {**os.environ, **box.environment, "TZ": "Europe/Nowhere"}
    words = [sys.executable, "-m", "t3flow", "consumer"]
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert said.returncode not in (0, None)
    assert said.stderr.count("\n") == 1, said.stderr
    assert "TZ=Europe/Nowhere is not a time zone" in said.stderr
    assert "schedule.timezone" in said.stderr


def test_the_schedule_in_force_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumer's zone, whatever that of the caller is; with the offset that holds then."""
    monkeypatch.setenv("TZ", "UTC0")
    box = Sandbox(tmp_path, ["ada"])
    box.environment["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    try:
        box.start(FIRST, {}, {"schema_level": 30})
        box.start_consumer()
        box.environment["TZ"] = "UTC0"
        box.until(lambda: box.document("status")["next_bump"], "the next bump is planned")
        shown = box.document("status")["schedule"]
        assert shown["timezone"] == "CET-1CEST,M3.5.0,M10.5.0/3"
        assert shown["bump"] == "0 4 1 1 *"
        due = datetime.fromisoformat(shown["next"])
        assert due.utcoffset() in (timedelta(hours=1), timedelta(hours=2))
        assert due.hour == 4
        text = box.t3flow("status").stdout
        assert "CET-1CEST,M3.5.0,M10.5.0/3" in text
        assert f"{due:%H:%M}" in text
        assert "next bump" in box.t3flow("config", "show").stdout
    finally:
        box.close()


def test_raises_one_kind_of_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Mars")
    with pytest.raises(T3flowError, match=r"TZ=Mars is not a time zone .*schedule.timezone"):
        schedule.next_due(settings(tmp_path), time.time())
