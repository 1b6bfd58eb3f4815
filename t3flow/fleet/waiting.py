"""The durable wait of a bump for the turn of its host, as a delayed task that holds nothing of the host.

The consumer's thread `fleet` wakes it when another host publishes something, so that the polls are rare. A freeze, a cancel or a crash finds it
asleep.
"""

import time
from typing import TypedDict

from loguru import logger

from t3flow.engine.errors import NotYet
from t3flow.engine.step import current_run, step
from t3flow.fleet import turn
from t3flow.fleet.members import open_fleet
from t3flow.fleet.own import WAITING
from t3flow.host import pinning, slots
from t3flow.host.host import Host, current_host
from t3flow.host.records import facts, rejections
from t3flow.settings import schedule

POLL_FACTOR = 4
"""With Redis, a wait polls after this many times `schedule.retry_s`: messages wake the run, and the polls only cover those that were lost."""
LOCK_POLL_SECONDS = 30.0
"""A FleetLock server wakes no run, so that a run asks it this often at least."""
TOTAL_WAIT_FACTOR = 12
"""A run without a latest hour waits for this many times `schedule.retry_s`: an hour by default."""


class Turn(TypedDict):
    """How a wait ended: with an outcome and its reason, or with the host's turn (both empty)."""

    outcome: str
    reason: str


@step()
def await_turn(version: str, due: float | None, again: bool) -> Turn:
    """Wait until this host may start a version. A repeat finds the slot its own.

    `due`: when the schedule started the run, which waits until `schedule.latest`; others wait for an hour. `again`: as in the bump.
    """
    host, run = current_host(), current_run()
    answer = turn.ask(host, version, run, is_bump=True, again=again)
    if answer.is_granted:
        facts.write(host.journal, WAITING, None)
        return {"outcome": "", "reason": ""}
    if answer.rejected:
        facts.write(host.journal, WAITING, None)
        hint = f"to try it here anyway: t3flow enqueue bump --target {version} --again"
        return {"outcome": "refused_rejected", "reason": f"{version} was {answer.rejected}; {hint}"}
    note_waiting(host, run, version, answer.reason)
    now, pause = time.time(), float(host.settings.schedule.retry_s)
    until = schedule.deadline(host.settings, due) if due is not None else None
    until = until if until is not None else min(_begun(host, run), now) + TOTAL_WAIT_FACTOR * pause
    if now >= until or not pause:
        logger.warning("FLEET WAIT: {} was not started: {}", version, answer.reason)
        return {"outcome": "fleet_wait", "reason": f"{version} was not started: {answer.reason}"}
    fleet = open_fleet(host.settings)
    is_woken = fleet is not None and fleet.store is not None
    raise NotYet(min(now + (POLL_FACTOR * pause if is_woken else min(pause, LOCK_POLL_SECONDS)), until), answer.reason)


@step()
def recheck_version(version: str, default: str, again: bool) -> Turn:
    """Return why a version that passed the gate is not started after the wait, if so. `default`: as it was before the wait. Only reads."""
    host = current_host()
    present = slots.default_version(host.settings.paths.versions_dir)
    if present == version:
        return {"outcome": "up_to_date", "reason": f"{version} became the default while this run waited for its turn"}
    if present != default:
        moved = f"the default moved from {default} to {present or 'no version'} while this run waited for its turn"
        return {"outcome": "gate_inconclusive", "reason": f"{moved}; the next bump tries {version} again"}
    if not slots.has_slot(host.settings.paths.versions_dir, version):
        return {"outcome": "gate_inconclusive", "reason": f"the slot of {version} is gone; the next bump installs it"}
    if not again and (reason := rejections.rejected(host.journal).get(version)):
        return {"outcome": "refused_rejected", "reason": f"{version} was rejected meanwhile: {reason}"}
    pinned = pinning.pin(host)
    if pinned not in ("", version) and not host.journal.run(current_run()).args.get("target"):
        reason = f"{version} was not started: the host was pinned to {pinned} while this run waited for its turn"
        return {"outcome": "cancelled", "reason": reason}
    return {"outcome": "", "reason": ""}


class Waiting(TypedDict):
    """A wait. `since`: since when this host has had no turn, in this run or an earlier one (epoch seconds)."""

    run: str
    version: str
    reason: str
    since: float


def note_waiting(host: Host, run: str, version: str, reason: str) -> None:
    """Record that a run waits, and why."""

    def change(former: Waiting | None) -> Waiting:
        since = former["since"] if former else time.time()
        return {"run": run, "version": version, "reason": reason, "since": since}

    facts.change(host.journal, WAITING, change)


def _begun(host: Host, run: str) -> float:
    """Return when a run began to wait: it released the host then."""
    rows = host.journal.query(
        "select at from events where run = ? and kind = 'released' order by seq desc limit 1", run
    )
    return float(rows[0][0]) if rows else host.journal.run(run).created
