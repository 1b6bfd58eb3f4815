"""What keeps the fleet from going on without a person: which host is silent, and which does not free its slot by itself.

Durations are differences of one clock each: the fleet's for the records, this host's for its own waits and since it asked last.
"""

import time
from collections.abc import Mapping
from typing import Any

from t3flow.fleet.known import Known, Slot
from t3flow.settings.schema import Fleet as FleetSettings

HELD_SECONDS = 12 * 3600.0
"""A slot that is held for longer than a bump and its bake take needs a person."""
WAITED_SECONDS = 48 * 3600.0
"""A host that had no turn for so long needs a person: it waited in two nights."""


def seconds_since(found: Known, moment: float) -> float:
    """Return how long ago a moment of the fleet's clock was: until the fleet answered last, and since then."""
    return max(0.0, found.now - moment) + max(0.0, time.time() - found.at)


def silent_hosts(found: Known, settings: FleetSettings, name: str) -> dict[str, str]:
    """Return silent host → what is known of it. Empty while the fleet does not answer: nothing is known of any host then."""
    if found.problem:
        return {}
    silent = {}
    for host in found.hosts:
        record = found.records.get(host)
        if host == name:
            continue
        if record is None:
            silent[host] = "it has published no record"
        elif (age := seconds_since(found, record.at)) > settings.silent_hours * 3600:
            silent[host] = f"it was seen {_hours(age)} ago"
    return silent


def stuck(found: Known, settings: FleetSettings, name: str, waiting: Mapping[str, Any] | None) -> list[str]:
    """Return why the fleet does not go on without a person, each line with the command to run."""
    lines = []
    silent = silent_hosts(found, settings, name)
    for number, slot in enumerate(found.slots):
        if slot.problem:
            text = f"Slot {number} of the fleet has an unreadable claim, which counts as held: {slot.problem}"
            lines.append(f"{text}; free it with: t3flow fleet release --slot {number}")
        if slot.claim is None:
            continue
        holder = slot.claim.host
        if cause := _why_held(found, slot, silent.get(holder, "")):
            text = f"{holder} holds a slot of the fleet for {slot.claim.version} and {cause}"
            remedy = f"once that is looked into, free the slot with: t3flow fleet release {holder}"
            lines.append(f"{text}; {remedy}")
    if waiting is not None and (age := time.time() - waiting["since"]) > WAITED_SECONDS:
        text = f"This host has had no turn in the fleet for {_hours(age)}: {waiting['reason']}"
        lines.append(f"{text.partition(': t3flow ')[0]}; see t3flow fleet status")
    return lines


def _why_held(found: Known, slot: Slot, silent: str) -> str:
    """Return what keeps the holder of a slot from freeing it by itself, "" for nothing."""
    assert slot.claim is not None
    record = found.records.get(slot.claim.host)
    if silent:
        return f"is silent: {silent}"
    if record is not None and slot.claim.version in record.rejected:
        return f"has rejected it: {record.rejected[slot.claim.version]}"
    if record is not None and record.frozen:
        return f"is frozen: {record.frozen}"
    if (age := seconds_since(found, slot.claim.since)) > HELD_SECONDS:
        return f"has held it for {_hours(age)}"
    return ""


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
