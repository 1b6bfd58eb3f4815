"""When things are due: the bump's schedule, the latest hour of a scheduled run, the window of deferrals. Pure functions of time and settings."""

import os
from datetime import UTC, datetime, time, timedelta, tzinfo

from cronsim import CronSim

from t3flow import T3flowError
from t3flow.settings import timezones
from t3flow.settings.load import Settings, window_times
from t3flow.settings.timezones import UnknownZone, zone_of

LATE_SECONDS = 120.0
"""A due time that is found later than this is skipped: a missed bump is never caught up."""


class ScheduleError(T3flowError):
    """It is not known by which clock things are due."""


def zone(settings: Settings) -> tzinfo:
    """Return the time zone of the schedule and the window: of the settings, else of TZ, else of the host. Raises ScheduleError."""
    name = settings.schedule.timezone or os.environ.get("TZ")
    try:
        return zone_of(name)
    except UnknownZone as error:
        source = str(timezones.LOCALTIME) if name is None else f"TZ={name}"
        raise ScheduleError(
            f"{source} {error}: set schedule.timezone to a name such as Europe/Vienna, or mend it"
        ) from error


def described(settings: Settings, at: float | None) -> str:
    """Return a due time for people, by the schedule's own clock: `Thu 2026-11-26 04:00 +0100 (Europe/Vienna)`. Raises ScheduleError."""
    if at is None:
        return "-"
    where = zone(settings)
    return f"{datetime.fromtimestamp(at, where):%a %Y-%m-%d %H:%M %z} ({where})"


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
