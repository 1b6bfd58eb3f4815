"""Periodic work: the schedule and the recovery each minute, the freeze file and the clock each half second. None of it needs the queue.

Late or repeated calls are harmless: the id of a scheduled run contains its due time, so it is created once, and recovery only adds what is missing.
"""

import math
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from huey import crontab
from loguru import logger

from t3flow.deferrals.deferral import wake
from t3flow.deferrals.recovery import revive_drains
from t3flow.engine import retention
from t3flow.engine.engine import Engine
from t3flow.engine.files import DiskError, remove_tree
from t3flow.engine.runs import new_run
from t3flow.host import freeze
from t3flow.host.host import Host
from t3flow.host.npm.staging import stale_scratch
from t3flow.host.records import actions, deferral_records, facts
from t3flow.settings import schedule

NEXT_BUMP = "next_bump"
HEARTBEAT = "heartbeat"
"""Fact: when the consumer last did the work of a minute (epoch seconds)."""
MIN_CLOCK_JUMP_SECONDS = 5.0
POLL_SECONDS = 5.0
MIN_INTERVAL_SECONDS = 30.0
WRONGLY_REVOKED = """
select id, reason from (
  select runs.id, held, claim,
    case when exists (select 1 from locks where run = runs.id) then null when revoked then 'revoked' when ? then 'frozen' end as reason
  from deferrals join runs on runs.id = deferrals.run where status = 'running'
  union all
  select id, held, claim, null from runs
  where status = 'running' and held in ('frozen', 'revoked') and id not in (select run from deferrals)
) where held is not reason and held is not 'newer' and (claim is null or reason is null)"""
"""Drains (run, reason to revoke its message or null) whose message the journal does not have revoked for that reason. Parameter: is frozen.

A drain that a worker has is left alone until it sleeps. One that sleeps with the lease, after a consumer stopped, is never revoked: it would block
all other runs, even a rollback. It checks for a freeze by itself. One of a newer t3flow stays as it is. One without a deferral is restored, so that
it ends: a kill or this watcher may have met the end of the deferral halfway.
"""
WAITING_BUMPS = """
select id from runs where status = 'running' and workflow = 'bump' and wake_at > ?
and (select kind from events where run = runs.id order by seq desc limit 1) = 'waiting'"""
"""Bumps that sleep in a step that polls. Parameter: now. One that retries a step keeps its pause: a freeze may not end it there."""


def register(engine: Engine, host: Host) -> "Minute":
    """Register the work of each minute as a Huey task, and the watchers with the engine. Return that work, for the clock thread."""
    minute = Minute(engine, host)

    def every_minute() -> None:
        minute()

    engine.queue.periodic_task(crontab(minute="*"), name="every_minute")(every_minute)
    engine.watchers.append(freeze_watcher(engine, host))
    engine.watchers.append(clock_watcher(host))
    return minute


class Minute:
    """The work of each minute, called by Huey's periodic task and by a thread that needs no queue. The first call in a minute does it.

    If the queue is unavailable when a bump is due, the bump is journaled on time and starts when the queue answers again.
    """

    def __init__(self, engine: Engine, host: Host) -> None:
        self._engine = engine
        self._host = host
        self._mutex = threading.Lock()
        self._done_at = -math.inf  # the monotonic clock may start at 0 at boot

    def __call__(self, *, wait: bool = False) -> None:
        """Do the work of this minute unless it is done; `wait` for another thread that does it."""
        if not self._mutex.acquire(blocking=wait):
            return
        try:
            if time.monotonic() - self._done_at >= MIN_INTERVAL_SECONDS:
                # Its begin counts, so that work of half a minute does not cost the next minute.
                self._done_at = time.monotonic()
                tick(self._engine, self._host)
        finally:
            self._mutex.release()

    def repeat(self, heartbeat: Callable[[], None]) -> None:
        """Do the work in each minute, until the engine stops. Calls `heartbeat` while this thread is alive.

        Waits for a worker that does the work at the time, so that a hang there stops the heartbeats: workers may be silent, this thread may not.
        """
        last = None
        while not self._engine.stopping.wait(POLL_SECONDS):
            heartbeat()
            if (now := int(time.time() // 60)) != last:
                last = now
                self(wait=True)


def tick(engine: Engine, host: Host) -> None:
    """Do the work of one minute: start a due bump, and restore what is lost. A part that fails does not prevent the others."""
    for work in (
        start_and_hint_due_bump,
        revive_drains,
        requeue_lost_messages,
        delete_expired_runs,
        delete_old_actions,
        note_heartbeat,
    ):
        try:
            work(engine, host)
        except Exception:
            logger.opt(exception=True).error("periodic work failed in {}; retrying in a minute", work.__name__)


def start_and_hint_due_bump(engine: Engine, host: Host) -> None:
    """Start the scheduled bump if it is due. It is journaled first, so a lost message does not matter."""
    if (run := start_due_bump(host, time.time())) is not None:
        engine.hint(run)


def delete_expired_runs(engine: Engine, host: Host) -> None:
    """Delete runs that ended over `journal.keep_days` ago, except those that a fact names."""

    def is_named_in_a_fact(run_id: str) -> bool:
        return bool(host.journal.query("select 1 from facts where instr(value, ?) limit 1", run_id))

    retention.delete_expired_runs(host.journal, host.settings.journal.keep_days, is_named_in_a_fact)


def note_heartbeat(engine: Engine, host: Host) -> None:
    """Record when the work of a minute was last done. Not synced: the next minute records it again."""
    facts.write(host.journal, HEARTBEAT, time.time(), synced=False)


def delete_old_actions(engine: Engine, host: Host) -> None:
    """Delete records of what people asked for that are over `journal.keep_days` old, and what exceeds their bounds."""
    actions.delete_old(host.journal, host.settings.journal.keep_days)


def requeue_lost_messages(engine: Engine, host: Host) -> None:
    """Restore messages that the queue has lost."""
    if added := engine.recover():
        logger.warning("restored {} lost messages to the queue", added)


def start_due_bump(host: Host, now: float) -> str | None:
    """Create the run of the scheduled bump if it is due, at most LATE_SECONDS ago, and plan the next one. Return the run's id or None."""
    planned = facts.read(host.journal, NEXT_BUMP)
    rules: list[str | int | float] = [
        host.settings.schedule.bump,
        host.settings.schedule.jitter_s,
        str(schedule.zone(host.settings)),
    ]
    is_planned = isinstance(planned, dict) and planned.get("rules") == rules
    if not is_planned or planned.get("after", 0.0) > now:  # the clock was set back since
        plan_next(host, now, rules)
        return None
    if now < planned["at"]:
        return None
    run = None
    if now - planned["at"] <= schedule.LATE_SECONDS:
        stamp = f"{datetime.fromtimestamp(planned['due'], UTC):%Y%m%dT%H%M}"
        run = new_run(host.journal, "bump", {"due": planned["due"]}, run_id=f"bump-{stamp}-scheduled")
    else:
        logger.warning(
            "skipped the bump that was due at {}: the consumer was down or the clock was set",
            datetime.fromtimestamp(planned["at"], schedule.zone(host.settings)),
        )
    plan_next(host, max(now, planned["due"]), rules)
    return run


def plan_next(host: Host, after: float, rules: list[str | int | float]) -> None:
    """Plan the next bump: the next time of the schedule plus random jitter."""
    due = schedule.next_due(host.settings, after)
    at = due + random.uniform(0, host.settings.schedule.jitter_s)
    facts.write(host.journal, NEXT_BUMP, {"due": due, "at": at, "after": after, "rules": rules})


def freeze_watcher(engine: Engine, host: Host) -> Callable[[], None]:
    """Return a watcher that revokes the drains' messages while tracking is frozen, and restores them afterwards.

    It compares the freeze file with the journal, so a change of the file while the consumer was down takes effect too.
    """

    def watch() -> None:
        is_frozen = freeze.is_frozen(host.settings)
        if not is_frozen and facts.read(host.journal, "freeze") is not None:
            # An operator removed the file. It is looked at again, as a freeze writes it before the record.
            facts.change(host.journal, "freeze", lambda known: known if freeze.is_frozen(host.settings) else None)
        wrong = host.journal.query(WRONGLY_REVOKED, is_frozen)
        if reasons := {run: reason for run, reason in wrong if reason is not None}:
            engine.revoke(reasons)
        if free := [run for run, reason in wrong if reason is None]:
            engine.restore(free, time.time())
        if is_frozen:  # end a bump that waits for the registry or its turn now, not at its next attempt
            for (run,) in host.journal.query(WAITING_BUMPS, time.time()):
                wake(run)

    return watch


def clock_watcher(host: Host) -> Callable[[], None]:
    """Return a watcher that wakes every sleeping run after the wall clock was set or the host was suspended: wake times are stale then.

    A last heartbeat that is ahead of the clock shows that it was set back while no consumer was running: the runs are woken at once then.
    """
    offset = max(time.time(), facts.read(host.journal, HEARTBEAT) or 0.0) - time.monotonic()

    def watch() -> None:
        nonlocal offset
        jump = time.time() - time.monotonic() - offset
        if abs(jump) < MIN_CLOCK_JUMP_SECONDS:
            return
        for run in host.journal.runs("status = 'running' and wake_at > ?", time.time()):
            wake(run.id)
        offset += jump
        logger.warning(
            "the clock jumped by {:+.0f} s (it was set, or the host was suspended); every deferral is checked now", jump
        )

    watch()
    return watch


def wake_all_drains(host: Host) -> None:
    """Make every deferral due, because the settings that decided how long it waits have changed."""
    for pending in deferral_records.deferrals(host.journal):
        wake(pending.run)


def remove_stale_scratch(host: Host) -> None:
    """Remove the scratch folders of runs that ended or were never journaled. Call it when the consumer starts.

    A failed removal is logged and does not stop the consumer.
    """
    for folder in stale_scratch(host):
        try:
            remove_tree(folder)
        except DiskError as error:
            logger.warning("{}", error)
