"""When things are due: the bump's schedule, the latest hour of a scheduled run, the window of deferrals. Pure functions of time and settings."""

import os
from datetime import UTC, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim

from t3flow.settings import Settings, window_times

LATE_SECONDS = 120.0
"""A due time that is found later than this is skipped: a missed bump is never caught up."""


def zone(settings: Settings) -> tzinfo:
    """The time zone of the schedule and the window."""
    name = settings.schedule.timezone or os.environ.get("TZ", "").lstrip(":")
    try:
        if name:
            return ZoneInfo(name)
        with open("/etc/localtime", "rb") as rules:  # the host's rules, not only its present offset
            return ZoneInfo.from_file(rules)
    except (LookupError, ValueError, OSError):
        return UTC


def next_due(settings: Settings, after: float) -> float:
    """The first time (epoch seconds) after `after` at which the schedule names a bump, before any jitter.

    An hour that a change of the clocks repeats counts once; one that it skips falls on the next minute that exists.
    """
    moment = datetime.fromtimestamp(after, zone(settings))
    due: datetime = next(CronSim(settings.schedule.bump, moment))
    return due.timestamp()


def deadline(settings: Settings, due: float) -> float | None:
    """Until when (epoch seconds) a scheduled run that was due then may restart users; None without a limit."""
    if not settings.schedule.latest:
        return None
    begun = datetime.fromtimestamp(due, zone(settings))
    return _next_at(begun, time.fromisoformat(settings.schedule.latest)).timestamp()


def window_opens(settings: Settings, now: float) -> float:
    """When deferred users may be migrated: `now` itself within the window, else the start of the next one (epoch seconds)."""
    times = window_times(settings.deferral.window)
    moment = datetime.fromtimestamp(now, zone(settings))
    if times is None or _within(moment.time(), *times):
        return now
    return _next_at(moment, times[0]).timestamp()


def _within(moment: time, start: time, end: time) -> bool:
    return start <= moment < end if start < end else moment >= start or moment < end


def _next_at(after: datetime, clock: time) -> datetime:
    """The first moment after another at which the clock says a time of day."""
    for days in range(3):
        found = datetime.combine(after.date() + timedelta(days=days), clock, after.tzinfo)
        found = found.astimezone(UTC).astimezone(
            after.tzinfo
        )  # a time that a change of the clocks skips becomes one that exists
        if found > after:
            return found
    raise AssertionError("no day has this time")
