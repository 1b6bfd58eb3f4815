"""Times and durations: short and local for people, RFC 3339 for scripts."""

import time
from datetime import UTC, datetime, timedelta
from typing import overload

SOON_SECONDS = 1.0
UNITS = ((86400.0, "day", "days"), (3600.0, "h", "h"), (60.0, "min", "min"))


@overload
def rfc3339(moment: float) -> str: ...
@overload
def rfc3339(moment: None) -> None: ...
def rfc3339(moment: float | None) -> str | None:
    """Return a time (epoch seconds) for scripts; None stays None."""
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).astimezone().isoformat(timespec="milliseconds")


def epoch(text: str | None) -> float | None:
    """Return the epoch seconds of a time for scripts; None stays None."""
    return datetime.fromisoformat(text).timestamp() if text else None


def duration(seconds: float) -> str:
    """Return a length of time in its largest unit: "0.1 s", "42 s", "4 min", "3 h", "2 days"."""
    for size, one, many in UNITS:
        if seconds >= size:
            count = int(seconds / size)
            return f"{count} {one if count == 1 else many}"
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{max(seconds, 0.0):.1f} s"


def ago(moment: float | None) -> str:
    """Return how long ago a time was: "4 min ago". A time ahead, as a clock that was set back gives it, is "just now"."""
    if moment is None:
        return "-"
    away = time.time() - moment
    return "just now" if away < SOON_SECONDS else f"{_whole(away)} ago"


def ahead(moment: float | None) -> str:
    """Return when a time comes: "in 12 min (04:37)". A time that has passed is "now": what it is set for is due."""
    if moment is None:
        return "-"
    away = moment - time.time()
    return "now" if away < SOON_SECONDS else f"in {_whole(away)} ({clock(moment)})"


def soon(moment: float | None) -> str:
    """Return when a time comes without the clock, for narrow columns: "in 12 min"."""
    return ahead(moment).partition(" (")[0]


def when(moment: float) -> str:
    """Return a time with how far away it is, whichever side of now it lies: "04:37 (4 min ago)", "in 12 min (04:37)"."""
    if moment - time.time() >= SOON_SECONDS:
        return ahead(moment)
    return f"{clock(moment)} ({ago(moment)})"


def clock(moment: float) -> str:
    """Return a local time, with as much of the date as it takes: "04:37", "Fri 04:37", "2026-06-12 04:37"."""
    local, now = datetime.fromtimestamp(moment), datetime.now()
    if local.date() == now.date():
        return f"{local:%H:%M}"
    return f"{local:%a %H:%M}" if abs(local - now) < timedelta(days=6) else f"{local:%Y-%m-%d %H:%M}"


def _whole(seconds: float) -> str:
    """Return a duration without decimals."""
    return f"{seconds:.0f} s" if round(seconds) < 60 else duration(seconds)
