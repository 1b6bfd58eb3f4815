"""Dates that people type: `2026-12-24` (its first moment), `2026-12-24 18:00`, or RFC 3339, in the schedule's time zone where they name none."""

import time
from datetime import datetime

from t3flow import T3flowError
from t3flow.settings import schedule
from t3flow.settings.schema import Settings

LONGEST = 40
FURTHEST_SECONDS = 10 * 366 * 86400.0


class BadDate(T3flowError):
    """A date that cannot be read, or that is not ahead."""

    exit_code = 2


def future_moment(settings: Settings, text: str) -> float:
    """Return the moment (epoch seconds) that a date means. Raises BadDate, also for one that has passed."""
    example = "write for example 2026-12-24 or '2026-12-24 18:00'"
    try:
        if len(text) > LONGEST:
            raise ValueError
        moment = datetime.fromisoformat(text.strip())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=schedule.zone(settings))
        at = moment.timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise BadDate(f"{text[:LONGEST]!a} is no date: {example}") from error
    now = time.time()
    if at <= now:
        raise BadDate(f"{text} has passed: {example}")
    if at > now + FURTHEST_SECONDS:
        raise BadDate(f"{text} is more than ten years ahead: {example}")
    return at
