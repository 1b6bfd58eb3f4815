"""The fleet as people and scripts see it, from what the consumer recorded of it."""

import json
import time
from contextlib import suppress
from typing import Any

from t3flow import T3flowError
from t3flow.engine.journal import Journal
from t3flow.fleet import known, own
from t3flow.fleet.known import Known
from t3flow.fleet.members import HTTP, name_of
from t3flow.fleet.own import TURN, WAITING
from t3flow.host.records import facts
from t3flow.settings.load import Settings
from t3flow.settings.schema import Fleet as FleetSettings
from t3flow.state.fleet_documents import Fleet, FleetDropped, FleetHost, FleetSlot, FleetTurn, FleetWaiting
from t3flow.state.short import shortened
from t3flow.state.times import ago, epoch, rfc3339

FLEET_FILE = "fleet.json"
"""The file with the fleet's settings that the consumer uses, as the URL may have a password."""
HELD_SECONDS = 12 * 3600.0
"""A slot that is held for longer than a bump and its bake take needs a person."""
WAITED_SECONDS = 48 * 3600.0
"""A host that had no turn for so long needs a person: it waited in two nights."""


def in_force(read: Settings, noted: Journal | None = None) -> Settings:
    """Return the settings with the fleet's as the consumer uses them.

    Where this account may not read those, they are as the journal has them, with the password of the URL masked: enough to show.
    """
    found: dict[str, Any] | None = None
    with suppress(OSError, ValueError):
        found = json.loads((read.paths.state_dir / FLEET_FILE).read_text())
    if found is None and noted is not None:
        described = (facts.read(noted, "consumer") or {}).get("settings") or []
        found = {key.removeprefix("fleet."): value for key, value, _ in described if key.startswith("fleet.")}
    with suppress(TypeError, ValueError, AttributeError):
        if found:
            values = {key: type(getattr(read.fleet, key))(value) for key, value in found.items()}
            return read._replace(fleet=FleetSettings(**values))
    return read


def as_text(settings: Settings) -> str:
    """Return the fleet's settings as the file has them."""
    return json.dumps(settings.fleet._asdict(), default=str)


def fleet(read: Settings, noted: Journal | None) -> Fleet | None:
    """Return the fleet as this host knows it; None if it belongs to none."""
    settings = in_force(read, noted).fleet
    if not settings.url or noted is None:
        return None
    found = known.read(noted)
    try:
        name = name_of(settings)
    except T3flowError as error:
        name, found = "", found._replace(problem=str(error))
    hosts = [_host(found, each, settings, name) for each in found.hosts]
    slots = [_slot(found, number) for number in range(len(found.slots))]
    waiting = _waiting(noted)
    return Fleet(
        backend="fleetlock" if settings.url.startswith(HTTP) else "redis",
        group=settings.group,
        host=name,
        wave=settings.wave,
        asked=rfc3339(found.at or None),
        problem=found.problem,
        unreachable_since=rfc3339(found.unreachable_since),
        hosts=hosts,
        slots=slots,
        turn=_turn(noted),
        waiting=waiting,
        stuck=_stuck(hosts, slots, waiting, name),
        dropped=[
            FleetDropped(
                place=place,
                reason=each["reason"],
                count=each["count"],
                last=rfc3339(each["at"]),
                is_current=each["is_current"],
            )
            for place, each in sorted(found.dropped.items())
        ],
    )


def _moment(found: Known, at: float) -> str | None:
    """Return a time of the fleet's clock as one of this host's; None for 0."""
    return rfc3339(found.at - max(0.0, found.now - at)) if at else None


def _host(found: Known, name: str, settings: FleetSettings, this: str) -> FleetHost:
    record = found.records.get(name)
    since_asked = max(0.0, time.time() - found.at)
    age = found.age(name)
    silent = age is None or age + since_asked > settings.silent_hours * 3600
    return FleetHost(
        host=name,
        is_this_host=name == this,
        seen=_moment(found, record.at) if record else None,
        silent=silent and not found.problem and name != this,
        wave=record.wave if record else None,
        default_version=record.default if record else "",
        last_good=record.last_good if record else "",
        frozen=record.frozen if record else "",
        verified=list(record.verified) if record else [],
        rejected=record.rejected if record else {},
        target=record.target if record else "",
        waiting=record.waiting if record else "",
        waiting_since=_moment(found, record.waiting_since) if record else None,
    )


def _slot(found: Known, number: int) -> FleetSlot:
    slot = found.slots[number]
    claim = slot.claim
    return FleetSlot(
        slot=number,
        host=claim.host if claim else None,
        version=claim.version if claim else None,
        run=claim.run if claim else None,
        since=_moment(found, claim.since) if claim else None,
        problem=slot.problem,
    )


def _turn(noted: Journal) -> FleetTurn | None:
    turn = facts.read(noted, TURN)
    if turn is None:
        return None
    return FleetTurn(run=turn["run"], version=turn["version"], since=rfc3339(turn["since"]), is_alone=turn["is_alone"])


def _waiting(noted: Journal) -> FleetWaiting | None:
    waiting = facts.read(noted, WAITING)
    if waiting is None:
        return None
    return FleetWaiting(
        run=waiting["run"],
        version=waiting["version"],
        reason=waiting["reason"],
        since=rfc3339(waiting["since"]),
        is_over=not own.is_running(noted, waiting["run"]),
    )


def _stuck(hosts: list[FleetHost], slots: list[FleetSlot], waiting: FleetWaiting | None, this: str) -> list[str]:
    """Return why the fleet does not go on without a person, each line with the command to run."""
    lines = []
    by_name = {each["host"]: each for each in hosts}
    for slot in slots:
        if slot["problem"]:
            text = f"Slot {slot['slot']} of the fleet has an unreadable claim: {slot['problem']}"
            lines.append(f"{text}; free it with: t3flow fleet release --slot {slot['slot']}")
        if (holder := slot["host"]) is None:
            continue
        cause = _why_stuck(by_name.get(holder), slot)
        if cause:
            text = f"{holder} holds a slot of the fleet for {shortened(slot['version'] or '')} and {cause}"
            remedy = "resume with: t3flow unfreeze" if holder == this else "once it is in order, or gone"
            lines.append(f"{text}; {remedy}, or free the slot with: t3flow fleet release {holder}")
    if waiting and time.time() - (epoch(waiting["since"]) or 0.0) > WAITED_SECONDS:
        text = f"This host has had no turn in the fleet, first {ago(epoch(waiting['since']))}: {waiting['reason']}"
        lines.append(f"{text}; see t3flow fleet status")
    return lines


def _why_stuck(host: FleetHost | None, slot: FleetSlot) -> str:
    """Return what keeps the holder of a slot from freeing it by itself, "" for nothing."""
    if host is not None and host["silent"]:
        return f"is silent, seen {ago(epoch(host['seen']))}"
    if host is not None and host["frozen"]:
        return f"is frozen: {host['frozen']}"
    if host is not None and slot["version"] in host["rejected"]:
        return f"rejected it: {host['rejected'][str(slot['version'])]}"
    since = epoch(slot["since"])
    if since is not None and time.time() - since > HELD_SECONDS:
        return f"has held it since {ago(since)}"
    return ""
