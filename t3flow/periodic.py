"""What happens on its own: each minute the schedule and the recovery, each half second a look at the freeze file. None of it needs the queue.

Nothing here is done twice by being late or repeated: a due time is taken by the id of the run that it makes, and recovery only adds what is missing.
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
from t3flow.host.records import deferral_records, facts
from t3flow.host.staging import SCRATCH_PREFIX
from t3flow.settings import schedule

NEXT_BUMP = "next_bump"
CLOCK_STEP_SECONDS = 5.0
LOOK_SECONDS = 5.0
AGAIN_SECONDS = 30.0
WRONGLY_REVOKED = """
select id, wanted from (
  select runs.id, held, claim,
    case when exists (select 1 from locks where run = runs.id) then null when revoked then 'revoked' when ? then 'frozen' end as wanted
  from deferrals join runs on runs.id = deferrals.run where status = 'running'
) where held is not wanted and (claim is null or wanted is null)"""
"""Drains (run, what holds them back or null) of which the journal says otherwise.

One that a worker has is left until it sleeps, and one that sleeps with the host, as over a consumer's end, until it has let the host go: held back,
it would keep everybody else from the host, a rollback too. It asks by itself whether tracking is frozen.
"""


def register(engine: Engine, host: Host) -> "Minute":
    """Add the minute's work to Huey's periodic tasks, and the watches to the engine's watchers. Return that work, for the clock's thread too."""
    minute = Minute(engine, host)

    def every_minute() -> None:
        minute()

    engine.queue.periodic_task(crontab(minute="*"), name="every_minute")(every_minute)
    engine.watchers.append(freeze_watcher(engine, host))
    engine.watchers.append(clock_watcher(host))
    return minute


class Minute:
    """The minute's work. Two call it: Huey's periodic task, and a thread that needs no queue. The first of them in a minute does it.

    So a queue that is away when a bump is due delays the bump's start until it is back, and loses nothing.
    """

    def __init__(self, engine: Engine, host: Host) -> None:
        self._engine = engine
        self._host = host
        self._mutex = threading.Lock()
        self._done = -math.inf  # this clock may begin at the host's boot

    def __call__(self, *, wait: bool = False) -> None:
        if not self._mutex.acquire(blocking=wait):
            return
        try:
            if time.monotonic() - self._done >= AGAIN_SECONDS:
                tick(self._engine, self._host)
                self._done = time.monotonic()
        finally:
            self._mutex.release()

    def keep(self, beat: Callable[[], None]) -> None:
        """Until the engine stops: do the minute's work in each minute. `beat` is told that this thread lives.

        It waits for a worker that does the work, so that one which hangs in it shows here: workers may be silent, this thread may not.
        """
        last = None
        while not self._engine.stopping.wait(LOOK_SECONDS):
            beat()
            if (now := int(time.time() // 60)) != last:
                last = now
                self(wait=True)


def tick(engine: Engine, host: Host) -> None:
    """One minute's work: a bump that is due is begun, and what is pending has its message. What fails keeps nothing else from being done."""
    for work in (start_and_hint_due_bump, revive_drains, requeue_lost_messages, delete_expired_runs):
        try:
            work(engine, host)
        except Exception:
            logger.opt(exception=True).error(
                "the minute's work failed in {}; it is done again in a minute", work.__name__
            )


def start_and_hint_due_bump(engine: Engine, host: Host) -> None:
    """Begin the scheduled bump if it is due: it is in the journal then, whatever becomes of its message."""
    if (run := start_due_bump(host, time.time())) is not None:
        engine.hint(run)


def delete_expired_runs(engine: Engine, host: Host) -> None:
    """Delete runs that ended over `journal.keep_days` ago, except those that a fact names."""

    def is_named_in_a_fact(run_id: str) -> bool:
        return bool(host.journal.query("select 1 from facts where instr(value, ?) limit 1", run_id))

    retention.delete_expired_runs(host.journal, host.settings.journal.keep_days, is_named_in_a_fact)


def requeue_lost_messages(engine: Engine, host: Host) -> None:
    """Put lost messages back into the queue."""
    if added := engine.recover():
        logger.warning("put {} lost messages back into the queue", added)


def start_due_bump(host: Host, now: float) -> str | None:
    """Begins the scheduled bump if its time has come, at most LATE_SECONDS ago, and draws the next time. Returns the run's id or None."""
    planned = facts.read(host.journal, NEXT_BUMP)
    rules: list[str | int | float] = [
        host.settings.schedule.bump,
        host.settings.schedule.jitter_s,
        str(schedule.zone(host.settings)),
    ]
    if not isinstance(planned, dict) or planned.get("rules") != rules:
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
            "the bump due at {} was missed and is not caught up",
            datetime.fromtimestamp(planned["at"], schedule.zone(host.settings)),
        )
    plan_next(host, max(now, planned["due"]), rules)
    return run


def plan_next(host: Host, after: float, rules: list[str | int | float]) -> None:
    """Draws the next bump's time: the schedule's next one and some of the jitter."""
    due = schedule.next_due(host.settings, after)
    at = due + random.uniform(0, host.settings.schedule.jitter_s)
    facts.write(host.journal, NEXT_BUMP, {"due": due, "at": at, "rules": rules})


def freeze_watcher(engine: Engine, host: Host) -> Callable[[], None]:
    """A watcher that takes the drains' messages out of the queue while tracking is frozen, and puts them back after it.

    It compares with what the journal says of each drain, so that a freeze file which came or went while nobody looked counts all the same.
    """

    def watch() -> None:
        is_frozen = freeze.is_frozen(host.settings)
        if not is_frozen and facts.read(host.journal, "freeze") is not None:
            facts.write(host.journal, "freeze", None)  # the file was removed by hand
        wrong = host.journal.query(WRONGLY_REVOKED, is_frozen)
        if reasons := {run: reason for run, reason in wrong if reason is not None}:
            engine.revoke(reasons)
        if free := [run for run, reason in wrong if reason is None]:
            engine.restore(free, time.time())
        if is_frozen:  # a bump that waits for the registry ends now, and not when it would have asked again
            for sleeping in host.journal.runs("status = 'running' and workflow = 'bump' and wake_at > ?", time.time()):
                wake(sleeping.id)

    return watch


def clock_watcher(host: Host) -> Callable[[], None]:
    """A watcher that has every run that sleeps ask anew once the wall clock was set, or the host slept: their times were told by another clock."""
    ahead = [time.time() - time.monotonic()]

    def watch() -> None:
        stepped = time.time() - time.monotonic() - ahead[0]
        if abs(stepped) < CLOCK_STEP_SECONDS:
            return
        ahead[0] += stepped
        logger.warning(
            "the clock went {:+.0f} s at once (set, or the host slept): every deferral is looked at now", stepped
        )
        for run in host.journal.runs("status = 'running' and wake_at > ?", time.time()):
            wake(run.id)
        planned = facts.read(host.journal, NEXT_BUMP)
        if planned and planned["due"] > schedule.next_due(host.settings, time.time()):
            facts.write(host.journal, NEXT_BUMP, None)  # it is days ahead by now

    return watch


def wake_all_drains(host: Host) -> None:
    """Makes every deferral due: what they wait for was told by other settings, or another clock."""
    for pending in deferral_records.deferrals(host.journal):
        wake(pending.run)


def sweep(host: Host) -> None:
    """For a consumer that starts: removes the scratch folders of runs that have ended or were never journaled.

    Anybody may have put something of such a name there: what cannot be removed is no reason not to start.
    """
    live = {f"{SCRATCH_PREFIX}{run.id}" for run in host.journal.runs("status = 'running'")}
    for folder in host.settings.paths.scratch_dir.glob(f"{SCRATCH_PREFIX}*-[0-9]*T[0-9]*-*"):
        if folder.name not in live:
            try:
                remove_tree(folder)
            except DiskError as error:
                logger.warning("{}", error)
