"""Due times: the schedule of bumps, the latest hour of a scheduled run, the deferral window. Pure functions of time and settings."""

import os
from datetime import UTC, datetime, time, timedelta, tzinfo

from cronsim import CronSim

from t3flow import T3flowError
from t3flow.settings import timezones
from t3flow.settings.schema import Settings
from t3flow.settings.timezones import UnknownZone, zone_of

LATE_SECONDS = 120.0
"""A due time noticed later than this is skipped: a missed bump is not made up for."""


class ScheduleError(T3flowError):
    """The time zone of the schedule is unknown."""


def zone(settings: Settings) -> tzinfo:
    """Return the time zone of schedule and window: from the settings, else TZ, else the host. Raise ScheduleError."""
    name = settings.schedule.timezone or os.environ.get("TZ")
    try:
        return zone_of(name)
    except UnknownZone as error:
        source = str(timezones.LOCALTIME) if name is None else f"TZ={name}"
        raise ScheduleError(
            f"{source} {error}: correct it, or set schedule.timezone to a name such as Europe/Vienna"
        ) from error


def described(settings: Settings, at: float | None) -> str:
    """Return a due time in the schedule's zone, for people: `Thu 2026-11-26 04:00 +0100 (Europe/Vienna)`. Raise ScheduleError."""
    if at is None:
        return "-"
    where = zone(settings)
    return f"{datetime.fromtimestamp(at, where):%a %Y-%m-%d %H:%M %z} ({where})"


def next_due(settings: Settings, after: float) -> float:
    """Return the first due time of a bump after `after` (epoch seconds), without jitter.

    A local time that a clock change repeats is due once; one that it skips is due at the next minute that exists.
    """
    moment = datetime.fromtimestamp(after, zone(settings))
    due: datetime = next(CronSim(settings.schedule.bump, moment))
    return due.timestamp()


def deadline(settings: Settings, due: float) -> float | None:
    """Return until when (epoch seconds) a scheduled run, due at `due`, may restart users; None: no limit."""
    if not settings.schedule.latest:
        return None
    begun = datetime.fromtimestamp(due, zone(settings))
    return _next_at(begun, time.fromisoformat(settings.schedule.latest)).timestamp()


def window_opens(settings: Settings, now: float) -> float:
    """Return when deferred users may be restarted (epoch seconds): `now` within the window, else the start of the next window."""
    times = window_times(settings.deferral.window)
    moment = datetime.fromtimestamp(now, zone(settings))
    if times is None or _within(moment.time(), *times):
        return now
    return _next_at(moment, times[0]).timestamp()


def window_times(text: str) -> tuple[time, time] | None:
    """Return start and end of a window `HH:MM-HH:MM`, or None for "" (any time). An end before the start is on the next day."""
    start, _, end = text.partition("-")
    return (time.fromisoformat(start), time.fromisoformat(end)) if text else None


def _within(moment: time, start: time, end: time) -> bool:
    return start <= moment < end if start < end else moment >= start or moment < end


def _next_at(after: datetime, clock: time) -> datetime:
    """Return the first moment after `after` at a time of day."""
    for days in range(3):
        found = datetime.combine(after.date() + timedelta(days=days), clock, after.tzinfo)
        found = found.astimezone(UTC).astimezone(
            after.tzinfo
        )  # a local time that a clock change skips becomes one that exists
        if found > after:
            return found
    raise AssertionError("no day has this time")
