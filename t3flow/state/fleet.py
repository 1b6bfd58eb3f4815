"""The fleet as people and scripts see it, from what the consumer recorded of it."""

from collections.abc import Mapping

from t3flow import T3flowError
from t3flow.engine.journal import Journal
from t3flow.fleet import known, own, trouble
from t3flow.fleet.known import Known
from t3flow.fleet.members import HTTP, name_of
from t3flow.fleet.own import TURN, WAITING
from t3flow.host.records import facts
from t3flow.settings.load import Settings
from t3flow.state.fleet_documents import Fleet, FleetDropped, FleetHost, FleetSlot, FleetTurn, FleetWaiting
from t3flow.state.fleet_settings import in_force
from t3flow.state.times import rfc3339


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
    silent = trouble.silent_hosts(found, settings, name)
    return Fleet(
        backend="fleetlock" if settings.url.startswith(HTTP) else "redis",
        group=settings.group,
        host=name,
        wave=settings.wave,
        asked=rfc3339(found.at or None),
        problem=found.problem,
        unreachable_since=rfc3339(found.unreachable_since),
        hosts=[_host(found, each, name, silent) for each in found.hosts],
        slots=[_slot(found, number) for number in range(len(found.slots))],
        turn=_turn(noted),
        waiting=_waiting(noted),
        stuck=trouble.stuck(found, settings, name, facts.read(noted, WAITING)),
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


def _host(found: Known, name: str, this: str, silent: Mapping[str, str]) -> FleetHost:
    record = found.records.get(name)
    return FleetHost(
        host=name,
        is_this_host=name == this,
        seen=_moment(found, record.at) if record else None,
        silent=name in silent,
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
    """Return the turn of this host. A run records its turn before it takes a slot, so that one that waits for it has none."""
    turn, waiting = facts.read(noted, TURN), facts.read(noted, WAITING)
    if turn is None or (waiting is not None and waiting["run"] == turn["run"]):
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
