"""The engine: takes a hint from the queue, claims the run it names, advances it, and sees that no run is forgotten.

Killed anywhere in here, the journal still says what is pending: a claim of a dead consumer counts for nothing (its incarnation is not ours),
and `recover` puts the missing hints back.
"""

import inspect
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from loguru import logger

from t3flow import T3flowError
from t3flow.engine.errors import HistoryMismatch, Stalled, Suspended, UndoFailed
from t3flow.engine.flow import SHUTDOWN, Flow, next_for_lease
from t3flow.engine.journal import Event, Journal, JournalError, Run, append_event
from t3flow.engine.queue import HintQueue
from t3flow.engine.runs import HOST_LEASE, Abort, Outcome, end_run
from t3flow.engine.step import FORMER_NAMES, STEPS, current_executor, present_name
from t3flow.engine.storages import QueueUnavailable
from t3flow.engine.words import Words

WATCH_SECONDS = 0.5
PROBE_SECONDS = 2.0
URGENT_SECONDS = 1.0
EARLY_SECONDS = 0.5
"""A hint that comes this much before its time is taken; one that comes earlier is a stray copy."""
STALLED_SECONDS = 5.0
URGENT = """
select id from runs where status = 'running' and held is null and priority > 0 and (claim is null or claim not like ?)
and (wake_at <= ? or wake_at is null and not exists (select 1 from locks)) order by priority desc, created"""
"""Runs that go before others, could go on, and that no worker has (claims of this consumer, now)."""
LAST_EVENT = "select step, kind from events where run = ? order by seq desc limit 1"
ROUSE_SECONDS = 10.0


class Engine:
    """Runs `workflows` (name → plain function) from a journal and a queue. `standing_signal` may add signals that stand in no table.

    `on_not_undone` is called before a run ends whose changes could not all be undone, because another version of t3flow had begun it. It must see to
    it that nothing else changes until an operator has looked. Idempotent: it may be called again after a crash. `words` is how the log and reasons
    tell what a run does.
    """

    def __init__(
        self,
        journal: Journal,
        queue: HintQueue,
        workflows: Mapping[str, Callable[..., Outcome]],
        *,
        standing_signal: Callable[[Run], str | None] = lambda run: None,
        on_not_undone: Callable[[Run, str], None] = lambda run, reason: None,
        words: Words | None = None,
    ) -> None:
        self.journal = journal
        self.queue = queue
        self.workflows = workflows
        self.incarnation = secrets.token_hex(8)
        self.stopping = threading.Event()
        self.queue_unavailable = queue.unavailable
        self.other_consumers: list[dict[str, Any]] = []  # consumers that take messages from this one's queue
        self.watchers: list[Callable[[], None]] = []
        self._standing_signal = standing_signal
        self._on_lost = on_not_undone
        self._words = words or Words()
        self._active: dict[str, Flow] = {}
        # Runs that a worker of this process has, from before its claim until after its release; true if a hint came meanwhile.
        self._busy: dict[str, bool] = {}
        self._roused: dict[str, float] = {}  # sleeping runs that were told of a signal, and when
        self._claims = itertools.count(1)
        self._mutex = threading.Lock()
        queue.register(self.advance, [*STEPS, *FORMER_NAMES])
        queue.on_failure = self._note_unavailable

    # Advancing one run ----------------------------------------------------------------------------------------

    def advance(self, run_id: str) -> None:
        """Takes a run as far as it goes. A second copy of the hint, an early or a late one, finds nothing to do.

        A hint that comes while a worker has the run makes that worker look once more, so that none is lost between its last look and its release.
        """
        with self._mutex:
            if self.stopping.is_set():
                return
            if run_id in self._busy:
                self._busy[run_id] = True
                return
            self._busy[run_id] = False
        try:
            while True:
                run = self._claim(run_id)
                if run is not None:
                    self._advance(run)
                with self._mutex:
                    if self.stopping.is_set() or not self._busy[run_id]:
                        del self._busy[run_id]
                        return
                    self._busy[run_id] = False
        except BaseException:
            with self._mutex:
                del self._busy[run_id]
            raise

    def _advance(self, run: Run) -> None:
        flow = Flow(self.journal, run, self._pending_signal, self._progress, self._words)
        self._active[run.id] = flow
        token = current_executor.set(flow)
        try:
            outcome = self._outcome(flow)
            self._progress(run, end_run(self.journal, run, outcome))
        except Suspended as suspended:
            self._suspend(flow, suspended)
        except Stalled as stalled:
            self._stall(flow, stalled)
        finally:
            current_executor.reset(token)
            del self._active[run.id]

    def _claim(self, run_id: str) -> Run | None:
        """Compare-and-swap: one live worker has a run, whatever the queue delivers."""
        claim = f"{self.incarnation}/{next(self._claims)}"
        with self.journal.transaction(synced=False) as connection:
            changed = connection.execute(
                "update runs set claim = ?, message = null where id = ? and status = 'running' and (claim is null or claim not like ?) "
                "and (exists (select 1 from signals where run = runs.id) "
                "or held is null and (wake_at is null or wake_at <= ?))",
                (claim, run_id, f"{self.incarnation}/%", time.time() + EARLY_SECONDS),
            )
        return self.journal.run(run_id) if changed.rowcount == 1 else None

    def _outcome(self, flow: Flow) -> Outcome:
        """Calls the workflow, and undoes what was not settled if its code does not fit the history."""
        try:
            outcome = self._call(flow)
            flow.history.check_end()
            if lost := flow.history.unknown_undos():
                self._on_lost(flow.run, lost[-1].data["reason"])
            return outcome
        except HistoryMismatch as mismatch:
            logger.error("{}", mismatch)
            return self._unwind(flow, mismatch)

    def _call(self, flow: Flow) -> Outcome:
        """Calls the workflow. Whatever it raises becomes an outcome. Raises HistoryMismatch."""
        run = flow.run
        workflow = self.workflows.get(run.workflow)
        if workflow is None:
            raise HistoryMismatch(f"this version of t3flow has no workflow {run.workflow}, which run {run.id} is of")
        try:
            inspect.signature(workflow).bind(**run.args)
        except TypeError as error:
            raise HistoryMismatch(
                f"run {run.id} was begun by another version of t3flow: {run.workflow} takes other arguments ({error})"
            ) from None
        try:
            return workflow(**run.args)
        except Abort as abort:
            return abort.outcome
        except T3flowError as error:
            return Outcome("error", str(error), "failed")
        except Exception as error:
            logger.opt(exception=True).error("internal error in workflow {} of run {}", run.workflow, run.id)
            return Outcome("error", f"internal error: {type(error).__name__}: {error}", "failed")

    def _unwind(self, flow: Flow, mismatch: HistoryMismatch) -> Outcome:
        """Undoes what a run of other code has begun. What cannot be undone is told to `on_not_undone`."""
        try:
            flow.unwind()
        except UndoFailed as failure:
            reason = f"{mismatch}; ROLLBACK FAILED: {failure}"
            self._on_lost(flow.run, reason)
            return Outcome("error", reason, "failed")
        return Outcome("error", f"{mismatch}; it is undone", "failed")

    def _suspend(self, flow: Flow, suspended: Suspended) -> None:
        """Lets the run go and queues its next hint; one that waits for the lock gets it from whoever frees the lock.

        Synced only when something was recorded: a power cut that takes the rest back makes the run ask once more, and earlier.
        """
        run = flow.run
        with self.journal.transaction(synced=not flow.is_synced) as connection:
            connection.execute(
                "update runs set claim = null, wake_at = ?, updated = ? where id = ?",
                (suspended.wake_at, time.time(), run.id),
            )
        if suspended.wake_at is not None:
            self.hint(run.id, suspended.wake_at, suspended.step)

    def _stall(self, flow: Flow, stalled: Stalled) -> None:
        """Lets the run of a journal that cannot be written go, to be tried soon; if that cannot be noted either, `recover` does it, each minute."""
        run = flow.run
        logger.error("run {} stands still until the journal can be written: {}", run.id, stalled)
        with suppress(JournalError):
            if flow.under_way:  # nobody died in that step
                with self.journal.transaction() as connection:
                    append_event(connection, run.id, "stopped", *flow.under_way, {})
            self._drop_claim(self.journal.run(run.id))
            self.hint(run.id, time.time() + STALLED_SECONDS)

    # Hints ----------------------------------------------------------------------------------------------------

    def hint(self, run_id: str, at: float | None = None, step: str | None = None) -> None:
        """Queue "look at this run", now or at a time, in the name of the step that it sleeps in, by the run's priority.

        A message that it replaces is revoked. A queue that is away is no harm: `recover` adds the hint when it is back.
        """
        if self.stopping.is_set() or self.queue_unavailable.is_set():
            return
        for run in self.journal.runs("id = ? and status = 'running'", run_id):
            step = step or self._sleeps_in(run_id)
            user = run.args.get("user")
            try:
                message = self.queue.send(
                    run_id, at, step, priority=run.priority, user=user if isinstance(user, str) else None
                )
            except Exception as error:
                if not self.queue_unavailable.is_set():
                    self._note_unavailable(error)
                return
            with self.journal.transaction(synced=False) as connection:
                connection.execute("update runs set message = ? where id = ? and status = 'running'", (message, run_id))
            if run.message is not None:
                self.queue.revoke_message(run.message)

    def _note_unavailable(self, error: Exception) -> None:
        self.queue_unavailable.set()
        logger.warning("the queue does not answer ({}); what is pending goes on when it is back", error)

    def _sleeps_in(self, run_id: str) -> str | None:
        """The step in which a run waits, if it does."""
        rows = self.journal.query(LAST_EVENT, run_id)
        return present_name(rows[0][0]) if rows and rows[0][1] in ("waiting", "retrying", "stopped") else None

    def recover(self) -> int:
        """Add a hint for every pending run that has neither a worker nor a message that comes in time. Return how many. Adding twice is harmless."""
        due: dict[str, float] = {}
        with suppress(QueueUnavailable):
            due = self.queue.due_times()
        added = 0
        for run in self.journal.runs("status = 'running' and held is null"):
            if run.id in self._busy:
                continue
            if run.message in due and run.wake_at is not None and due[run.message] <= run.wake_at + EARLY_SECONDS:
                continue
            if run.claim is not None and run.claim.startswith(self.incarnation):
                self._drop_claim(run)
            if run.wake_at is not None and not self.queue_unavailable.is_set():
                self.hint(run.id, run.wake_at)
                added += 1
        self._hint_next_for_lease()
        return added

    def watch_queue(self) -> None:
        """Until the engine stops: ask the queue whether it answers, by one call at a time, and put back what one that was away has lost.

        For a thread of its own: a queue may take as long to answer as it likes.
        """
        while not self.stopping.wait(PROBE_SECONDS):
            self.probe_queue()

    def probe_queue(self) -> None:
        """One probe of the queue."""
        was_away = self.queue_unavailable.is_set()
        try:
            self.other_consumers = self.queue.storage.probe()
            if was_away:
                self.recover()
        except Exception as error:
            if not was_away:
                self._note_unavailable(error)
            self.queue_unavailable.set()
            return
        if was_away and not self.queue_unavailable.is_set():
            logger.info("the queue answers again")

    def advance_urgent(self) -> None:
        """Until the engine stops: take the runs that go before others straight from the journal.

        For a thread of its own: a rollback waits neither for a queue that is away nor for a worker, however many runs are due.
        """
        while not self.stopping.wait(URGENT_SECONDS):
            try:
                for (run_id,) in self.journal.query(URGENT, f"{self.incarnation}/%", time.time()):
                    self.advance(run_id)
            except Exception:
                logger.opt(exception=True).error("an urgent run could not be advanced; it is tried again")

    def _drop_claim(self, run: Run) -> None:
        """For a claim of ours that no worker has: its worker died in the engine itself (a full disk, say)."""
        with self.journal.transaction() as connection:
            connection.execute("update runs set claim = null where id = ? and claim = ?", (run.id, run.claim))

    def _hint_next_for_lease(self) -> None:
        with self.journal.transaction(synced=False) as connection:
            run_id = next_for_lease(connection, HOST_LEASE)
        if run_id is not None:
            self.hint(run_id)

    def revoke(self, reasons: Mapping[str, str]) -> None:
        """Revoke the messages of sleeping runs (run → reason) until `restore`. Idempotent. One commit: an urgent run may be waiting to write."""
        messages = []
        with self.journal.transaction() as connection:
            for run_id, reason in reasons.items():
                found = connection.execute("select message from runs where id = ? and message is not null", (run_id,))
                messages += [str(message) for (message,) in found]
                connection.execute(
                    "update runs set held = ?, message = null where id = ? and status = 'running'", (reason, run_id)
                )
        for message in messages:
            self.queue.revoke_message(message)

    def restore(self, run_ids: list[str], wake_at: float | None = None) -> None:
        """Queue the messages of revoked runs again; those that sleep are due at `wake_at`, if given. Idempotent. One commit."""
        with self.journal.transaction() as connection:
            connection.executemany(
                "update runs set held = null, wake_at = case when wake_at is null then null else coalesce(?, wake_at) end where id = ?",
                [(wake_at, run_id) for run_id in run_ids],
            )
        for run_id in run_ids:
            for run in self.journal.runs("id = ? and status = 'running'", run_id):
                self.hint(run.id, run.wake_at)

    # Signals --------------------------------------------------------------------------------------------------

    def _pending_signal(self, run: Run) -> str | None:
        if self.stopping.is_set():
            return SHUTDOWN
        rows: list[tuple[Any, ...]] = self.journal.query("select name from signals where run = ? order by at", run.id)
        return str(rows[0][0]) if rows else self._standing_signal(run)

    def watch(self) -> None:
        """Until the engine stops: hands signals to steps under way and to sleeping runs, and calls the watchers.

        One that fails keeps none of the others from its work.
        """
        while not self.stopping.wait(WATCH_SECONDS):
            for look in (self.deliver_signals, *self.watchers):
                try:
                    look()
                except Exception:
                    logger.opt(exception=True).error("the watcher failed; it goes on")

    def deliver_signals(self) -> None:
        """One round of `watch`: interrupts steps for which a signal waits, wakes sleeping runs that have one."""
        for flow in list(self._active.values()):
            signal = self._pending_signal(flow.run)
            if signal is not None and flow.interruptible and signal not in flow.delivered:
                flow.interrupt.set(signal)
        told, self._roused = self._roused, {}
        for (run_id,) in self.journal.query("select distinct run from signals"):
            self._roused[run_id] = told.get(run_id, -ROUSE_SECONDS)
            if run_id not in self._active and time.monotonic() - self._roused[run_id] >= ROUSE_SECONDS:
                self._roused[run_id] = time.monotonic()
                self.hint(run_id)

    def stop(self) -> None:
        """Asks every worker to let its run go at the next safe point; interruptible steps end at once and run again later."""
        self.stopping.set()
        for flow in list(self._active.values()):
            if flow.interruptible:
                flow.interrupt.set(SHUTDOWN)

    def _progress(self, run: Run, event: Event) -> None:
        if event.kind in ("released", "ended"):
            with suppress(JournalError):  # `recover` does it, too
                self._hint_next_for_lease()
        if event.kind == "ended":
            logger.info("{} ended: {}: {}", run.id, event.data["outcome"], event.data["reason"])
        if told := self._words.happened(run, event):
            logger.log("WARNING" if event.kind in ("failed", "undo_failed") else "INFO", "{}: {}", run.id, told)
