"""Whether a version is old enough for `track.min_age_hours`, by the registry's publication times."""

import time
from contextlib import suppress
from datetime import datetime
from typing import Any

from t3flow.host.host import Host
from t3flow.host.npm.parts import this_platform
from t3flow.host.npm.registry import view
from t3flow.settings.schedule import zone


def too_young(host: Host, version: str) -> str:
    """Return why a version is not yet old enough for `track.min_age_hours`, or "". It is as old as the youngest of its parts for this platform.

    A version without a publication time is not old enough. Raises RegistryUnreachable.
    """
    hours = host.settings.track.min_age_hours
    if not hours:
        return ""
    package = host.settings.track.package
    parts = view(host, [f"{package}@{version}", "optionalDependencies"])
    reasons = [_too_young(host, package, version, version)]
    platform = this_platform()
    for name, part_version in parts.items() if isinstance(parts, dict) else ():
        if platform.may_support(name):
            reasons.append(_too_young(host, name, part_version, version))
    return next((reason for reason in reasons if reason), "")


def _too_young(host: Host, package: str, part_version: str, version: str) -> str:
    """Return why one part of a version is not yet old enough, or ""."""
    hours = host.settings.track.min_age_hours
    rule = f"track.min_age_hours requires {hours:g} h"
    is_part = package != host.settings.track.package
    subject = f"{package}@{part_version}, a part of {version}," if is_part else version
    override = f"to take it now: t3flow enqueue bump --target {version}"
    times = view(host, [f"{package}@{part_version}", "time"])
    if times is None and is_part:
        return f"{subject} is not in the registry yet, and {rule}; {override}"
    given = times.get(part_version) if isinstance(times, dict) else None
    published = _epoch(given)
    if published is None:
        reason = f"gives it the time {str(given)[:40]!r}" if given else "does not say when it was published"
        return f"the age of {subject.rstrip(',')} is unknown: the registry {reason}, and {rule}; {override}"
    age_seconds = time.time() - published
    if age_seconds >= hours * 3600:
        return ""
    if age_seconds < 0:
        return f"{subject} was published in the future according to the registry: check this host's clock; {rule}; {override}"
    due = f"{datetime.fromtimestamp(published + hours * 3600, zone(host.settings)):%Y-%m-%d %H:%M %z}"
    return f"{subject} is {age_seconds / 3600:.1f} h old and {rule}: it is old enough at {due}; {override}"


def _epoch(text: Any) -> float | None:
    """Return a time from the registry in epoch seconds, or None if it is not a time."""
    with suppress(ValueError, TypeError, OverflowError):
        moment = datetime.fromisoformat(text)
        return moment.timestamp() if moment.tzinfo is not None else None
    return None
