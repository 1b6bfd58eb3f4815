"""Whether this host may start a version on its users now: no host rejected it, earlier waves verified it, and a slot is free.

Anything that goes wrong means "not now". Taking a turn is idempotent: a host that holds a slot already has its turn.
"""

import time
from typing import NamedTuple

from loguru import logger

from t3flow.fleet import known, looking, own
from t3flow.fleet.errors import FleetError, FleetUnreachable
from t3flow.fleet.known import Known
from t3flow.fleet.members import Fleet, open_fleet
from t3flow.fleet.own import SEQ, TURN, Turn
from t3flow.fleet.records import CLAIM, Claim
from t3flow.host.host import Host
from t3flow.host.records import facts, rejections


class Answer(NamedTuple):
    """Whether it is this host's turn. `rejected`: why the version is not to be started at all, "" if it is not rejected; `reason`: why not now."""

    is_granted: bool
    rejected: str = ""
    reason: str = ""


def ask(host: Host, version: str, run: str, *, is_bump: bool, again: bool = False) -> Answer:
    """Take this host's turn for a version, if it is. `again`: an operator has it tried although it was rejected.

    The intention is recorded before a slot is taken, so that a slot taken by a run that was killed is given back.
    """
    fleet = open_fleet(host.settings)
    if fleet is None:
        return Answer(True)
    try:
        with known.LOCK:
            return _ask(host, fleet, version, run, is_bump=is_bump, again=again)
    except FleetUnreachable as error:
        return _alone(host, fleet, version, run, str(error), is_bump=is_bump, again=again)
    except FleetError as error:
        known.note_unreachable(host.journal, str(error), None)
        return Answer(False, reason=str(error))


def _ask(host: Host, fleet: Fleet, version: str, run: str, *, is_bump: bool, again: bool) -> Answer:
    """Take this host's turn, if it is. Raises FleetError."""
    if fleet.lock is not None:
        return _ask_lock(host, fleet, version, run, is_bump=is_bump)
    found = looking.look(host.journal, fleet)
    if not again and (reason := rejected_elsewhere(host, version)):
        return Answer(False, rejected=reason)
    reason = unpublished(host, fleet, found) or unverified_by(found, fleet, version)
    reason = reason or _take(host, fleet, found, version, run, is_bump=is_bump)
    return Answer(not reason, reason=reason)


def rejected_elsewhere(host: Host, version: str) -> str:
    """Return that another host rejected a version, with its name; "" if none did, as far as this host knows."""
    return rejections.rejected_by_others(host.journal).get(version, "")


def unpublished(host: Host, fleet: Fleet, found: Known) -> str:
    """Return that the others do not see this host's present record, "" if they do. They could not learn what it rejects."""
    record = found.records.get(fleet.name)
    if found.is_published and record is not None and record.seq >= (facts.read(host.journal, SEQ) or 0):
        return ""
    return "the record of this host is not in the fleet's Redis yet: t3flow doctor"


def unverified_by(found: Known, fleet: Fleet, version: str) -> str:
    """Return which host of an earlier wave has not verified a version yet, "" for none. A host whose wave is not known counts as earlier."""
    wave, silent_seconds = fleet.settings.wave, fleet.settings.silent_hours * 3600
    if wave == 0:
        return ""
    for name in found.hosts:
        record = found.records.get(name)
        if name == fleet.name:
            continue
        if record is None:
            return f"the host {name} has published no record: start t3flow there, or remove its key from fleet.peers"
        if record.wave >= wave:
            continue
        if found.is_silent(name, silent_seconds):
            return f"the host {name} of wave {record.wave} is silent: start t3flow there, or remove its key from fleet.peers"
        if version not in record.verified:
            state = "is watching pairings on" if version in record.accepted else "has not accepted"
            frozen = f" and is frozen: {record.frozen}" if record.frozen else ""
            return f"the host {name} of wave {record.wave} {state} {version}{frozen}"
    return ""


def _take(host: Host, fleet: Fleet, found: Known, version: str, run: str, *, is_bump: bool) -> str:
    """Take a slot; return "" if this host holds one then, else which hosts hold them all. Raises FleetError."""
    assert fleet.store is not None
    claims = [slot.claim for slot in found.slots if slot.claim and slot.claim.host == fleet.name]
    if claims and not any(own.is_own(host.journal, claim.run) for claim in claims):
        return (
            f"a run that is none of this host's ({claims[0].run}) holds its slot: another machine has its key, or its journal was lost; "
            f"once that is looked into: t3flow fleet release {fleet.name}"
        )
    if claims:
        _note_turn(host, version, run, is_bump=is_bump)
        return ""
    content = fleet.keys().sign(CLAIM, Claim(fleet.name, run, version, found.now).body())
    for number, slot in enumerate(found.slots):
        if slot.is_free:
            _note_turn(host, version, run, is_bump=is_bump)
            if fleet.store.take(number, content):
                logger.info("took slot {} of the fleet for {}", number, version)
                looking.look(host.journal, fleet)  # so that this host can put its claim back if Redis loses it
                return ""
    if any(slot.is_free for slot in found.slots):
        return "another host took the slot just now"
    holders = [slot.claim.host if slot.claim else f"an unreadable claim ({slot.problem})" for slot in found.slots]
    return (
        f"{'the slot is' if len(holders) == 1 else 'all slots are'} held by {', '.join(holders)}: t3flow fleet status"
    )


def _note_turn(host: Host, version: str, run: str, *, is_bump: bool, is_alone: bool = False) -> None:
    """Record the turn of a run. Former turns for which this host must keep its slot stay on record with it."""
    former: Turn | None = facts.read(host.journal, TURN)
    earlier = own.outstanding(host, former) if former is not None else []
    since = former["since"] if former is not None and former["run"] == run else time.time()
    turn = Turn(
        run=run,
        version=version,
        is_bump=is_bump,
        since=since,
        is_alone=is_alone,
        earlier=[each for each in earlier if (each["run"], each["version"]) != (run, version)],
    )
    facts.write(host.journal, TURN, turn)


def _ask_lock(host: Host, fleet: Fleet, version: str, run: str, *, is_bump: bool) -> Answer:
    """Take a slot of a FleetLock server, which knows neither rejections nor waves."""
    assert fleet.lock is not None
    _note_turn(host, version, run, is_bump=is_bump)
    reason = fleet.lock.lock(fleet.name)
    note_answer(host)
    return Answer(not reason, reason=f"the FleetLock server gives no slot: {reason}" if reason else "")


def note_answer(host: Host) -> None:
    """Record that a FleetLock server answered."""
    facts.write(host.journal, known.FLEET, known.as_fact(Known(at=time.time())), synced=False)


def _alone(host: Host, fleet: Fleet, version: str, run: str, problem: str, *, is_bump: bool, again: bool) -> Answer:
    """Answer without the fleet: not now, unless it has not answered for `fleet.alone_after_hours`."""
    found = known.note_unreachable(host.journal, problem, 0.0)
    hours = fleet.settings.alone_after_hours
    if not looking.lasting(found, hours):
        return Answer(False, reason=problem)
    if not again and (reason := rejected_elsewhere(host, version)):
        return Answer(False, rejected=reason)
    _note_turn(host, version, run, is_bump=is_bump, is_alone=True)
    logger.warning(
        "starting {} without the fleet, which has not answered for {:g} h (fleet.alone_after_hours): {}",
        version,
        hours,
        problem,
    )
    return Answer(True)
