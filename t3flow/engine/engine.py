"""The engine: takes a hint from the queue, claims the run that it names, advances the run, and restores hints that were lost.

A kill at any point is harmless, because the journal says what is pending: a claim with the incarnation of a dead consumer is ignored, and `recover`
queues the missing hints.
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
from t3flow.engine.downgrades import LeftAlone, leave_alone, newer_program
from t3flow.engine.errors import HistoryMismatch, Stalled, Suspended, UndoFailed
from t3flow.engine.flow import SHUTDOWN, Flow, next_for_lease
from t3flow.engine.journal import Event, Journal, JournalError, Run, append_event
from t3flow.engine.queue import HintQueue
from t3flow.engine.queue_faults import QueueFault
from t3flow.engine.runs import HOST_LEASE, Abort, Outcome, end_run
from t3flow.engine.step import FORMER_NAMES, STEPS, current_executor, present_name
from t3flow.engine.words import Words

WATCH_INTERVAL_SECONDS = 0.5
PROBE_INTERVAL_SECONDS = 2.0
URGENT_POLL_SECONDS = 1.0
MAX_EARLY_SECONDS = 0.5
"""A hint may arrive this early; an earlier one is a stray copy and a no-op."""
STALLED_RETRY_SECONDS = 5.0
URGENT = """
select id from runs where status = 'running' and held is null and priority > 0 and (claim is null or claim not like ?)
and (wake_at <= ? or wake_at is null and not exists (select 1 from locks)) order by priority desc, created"""
"""Runs with priority that could advance and that no worker has. Parameters: the claims of this consumer, now."""
LAST_EVENT = "select step, kind from events where run = ? order by seq desc limit 1"
CANCELED = "select 1 from signals where run = ? and name = 'cancel'"
SIGNAL_HINT_SECONDS = 10.0
"""A sleeping run with a pending signal is hinted at this often."""


class Engine:
    """Runs `workflows` (name → plain function) from a journal and a queue. `standing_signal` returns a signal that no table holds, such as a freeze.

    `on_not_undone` is called before a run ends if another version of t3flow started it and some of its changes could not be undone. It must prevent
    further changes until an operator has looked, and be idempotent: it may be called again after a crash. `words` are those of log lines and reasons.
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
        self.queue_fault: QueueFault | None = None
        self.newer_program = newer_program(journal)
        self.other_consumers: list[dict[str, Any]] = []  # that take messages from the same queue
        self.watchers: list[Callable[[], None]] = []
        self._standing_signal = standing_signal
        self._on_not_undone = on_not_undone
        self._words = words or Words()
        self._active: dict[str, Flow] = {}
        # Run that a worker of this process has, from before its claim until after its release → whether a hint came meanwhile.
        self._busy: dict[str, bool] = {}
        self._signaled: dict[str, float] = {}  # sleeping run that was hinted at for a signal → when (monotonic)
        self._claims = itertools.count(1)
        self._mutex = threading.Lock()
        queue.register(self.advance, [*STEPS, *FORMER_NAMES])
        queue.on_failure = self._note_unavailable

    # Advancing one run ----------------------------------------------------------------------------------------

    def advance(self, run_id: str) -> None:
        """Advance a run as far as possible. Duplicate, early, and late hints are no-ops.

        A hint that arrives while a worker has the run makes that worker check once more, so that no hint is lost before the worker lets the run go.
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
        flow = Flow(self.journal, run, self._pending_signal, self._on_event, self._words)
        self._active[run.id] = flow
        token = current_executor.set(flow)
        try:
            outcome = self._outcome(flow)
            self._on_event(run, end_run(self.journal, run, outcome))
        except Suspended as suspended:
            self._suspend(flow, suspended)
        except LeftAlone as left:
            leave_alone(self.journal, run, str(left))
        except Stalled as stalled:
            self._stall(flow, stalled)
        finally:
            current_executor.reset(token)
            del self._active[run.id]

    def _claim(self, run_id: str) -> Run | None:
        """Claim a run by compare-and-swap, so that only one worker has it, whatever the queue delivers. Return None if it is taken or not due."""
        claim = f"{self.incarnation}/{next(self._claims)}"
        with self.journal.transaction(synced=False) as connection:
            changed = connection.execute(
                "update runs set claim = ?, message = null where id = ? and status = 'running' and (claim is null or claim not like ?) "
                "and (exists (select 1 from signals where run = runs.id) "
                "or held is null and (wake_at is null or wake_at <= ?))",
                (claim, run_id, f"{self.incarnation}/%", time.time() + MAX_EARLY_SECONDS),
            )
        return self.journal.run(run_id) if changed.rowcount == 1 else None

    def _outcome(self, flow: Flow) -> Outcome:
        """Call the workflow. If its code does not fit the history, undo what is not settled."""
        try:
            outcome = self._call(flow)
            flow.history.check_end()
            if unknown := flow.history.unknown_undos():
                self._on_not_undone(flow.run, unknown[-1].data["reason"])
            return outcome
        except HistoryMismatch as mismatch:
            if self.newer_program and not self.journal.query(CANCELED, flow.run.id):
                raise LeftAlone(f"{mismatch}, t3flow {self.newer_program}") from None
            logger.error("{}", mismatch)
            return self._unwind(flow, mismatch)

    def _call(self, flow: Flow) -> Outcome:
        """Call the workflow, and turn any exception into an outcome. Raises HistoryMismatch."""
        run = flow.run
        workflow = self.workflows.get(run.workflow)
        if workflow is None:
            raise HistoryMismatch(
                f"run {run.id} was started by another version of t3flow: this one has no workflow {run.workflow}"
            )
        try:
            inspect.signature(workflow).bind(**run.args)
        except TypeError as error:
            raise HistoryMismatch(
                f"run {run.id} was started by another version of t3flow: {run.workflow} takes other arguments ({error})"
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
        """Undo what a run of another version has started. Call `on_not_undone` for what cannot be undone."""
        try:
            flow.unwind()
        except UndoFailed as failure:
            reason = f"{mismatch}; ROLLBACK FAILED: {failure}"
            self._on_not_undone(flow.run, reason)
            return Outcome("error", reason, "failed")
        return Outcome("error", f"{mismatch}; its changes were undone", "failed")

    def _suspend(self, flow: Flow, suspended: Suspended) -> None:
        """Let the run go and queue its next hint. A run that waits for the lease is hinted at when the lease is free.

        A wake that met the run while a worker had it is kept: the run is due at once. Synced only if an event was recorded: losing the rest in a
        power cut makes the run poll once more, and earlier.
        """
        run = flow.run
        with self.journal.transaction(synced=not flow.is_synced) as connection:
            connection.execute(
                "update runs set claim = null, updated = ?, wake_at = case when wake_at is not ? and wake_at < ? then wake_at else ? end "
                "where id = ?",
                (time.time(), flow.wake_at, suspended.wake_at, suspended.wake_at, run.id),
            )
            (wake_at,) = connection.execute("select wake_at from runs where id = ?", (run.id,)).fetchone()
        if wake_at is not None:
            self.hint(run.id, wake_at, suspended.step)

    def _stall(self, flow: Flow, stalled: Stalled) -> None:
        """Let a run go that cannot write to the journal, and retry soon. If not even that can be written, `recover` does it within a minute."""
        run = flow.run
        logger.error("run {} is stalled until the journal can be written: {}", run.id, stalled)
        with suppress(JournalError):
            if flow.under_way:  # so that this does not count as a death of the consumer
                with self.journal.transaction() as connection:
                    append_event(connection, run.id, "stopped", *flow.under_way, {})
            self._drop_claim(self.journal.run(run.id))
            self.hint(run.id, time.time() + STALLED_RETRY_SECONDS)

    # Hints ----------------------------------------------------------------------------------------------------

    def hint(self, run_id: str, at: float | None = None, step: str | None = None) -> None:
        """Queue a hint to advance a run, now or at a time (epoch seconds), with the run's priority and named after the step in which it sleeps.

        Revokes the run's former message. An unavailable queue is harmless: `recover` adds the hint when the queue answers again.
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
        self.queue_fault = self.queue.fault_of(error)
        self.queue_unavailable.set()
        cause, remedy, _ = self.queue_fault
        logger.warning("the queue cannot be used: {}; pending runs resume when it can; {}", cause, remedy)

    def _sleeps_in(self, run_id: str) -> str | None:
        """Return the step in which a run waits, if any."""
        rows = self.journal.query(LAST_EVENT, run_id)
        return present_name(rows[0][0]) if rows and rows[0][1] in ("waiting", "retrying", "stopped") else None

    def recover(self) -> int:
        """Add a hint for each pending run that has neither a worker nor a timely message. Return how many were added. Idempotent."""
        due: dict[str, float] = {}
        try:
            due = self.queue.due_times()
        except Exception:  # the queue's client raises many types
            if not self.queue_unavailable.is_set():
                raise
        added = 0
        for run in self.journal.runs("status = 'running' and held is null"):
            if run.id in self._busy:
                continue
            if run.message in due and run.wake_at is not None and due[run.message] <= run.wake_at + MAX_EARLY_SECONDS:
                continue
            if run.claim is not None and run.claim.startswith(self.incarnation):
                self._drop_claim(run)
            if run.wake_at is not None and not self.queue_unavailable.is_set():
                self.hint(run.id, run.wake_at)
                added += 1
        self._hint_next_for_lease()
        return added

    def watch_queue(self) -> None:
        """Probe the queue, one call at a time, until the engine stops. Runs in a thread of its own, because a probe may hang."""
        self.probe_queue()
        while not self.stopping.wait(PROBE_INTERVAL_SECONDS):
            self.probe_queue()

    def probe_queue(self) -> None:
        """Pass a message through the queue once. Restore hints if it works again, has lost some, or refused the connections of commands."""
        was_unavailable = self.queue_unavailable.is_set()
        try:
            pulse = self.queue.storage.probe()
            self.other_consumers = pulse.others
            if was_unavailable or pulse.is_emptied or self.queue_fault is not None:
                self.recover()
        except JournalError as error:  # no fault of the queue; `queue_fault` stays, so that the next probe tries again
            logger.warning("hints cannot be restored to the queue: {}; retrying", error)
            return
        except Exception as error:
            fault = self.queue.fault_of(error)
            if fault != self.queue_fault:
                self._note_unavailable(error)
            self.queue_unavailable.set()
            return
        if self.queue_unavailable.is_set():
            return
        if pulse.is_emptied or was_unavailable:
            lost = "had lost its messages, which were" if pulse.is_emptied else "works again; lost messages were"
            logger.warning("the queue {} restored from the journal", lost)
        risk = self.queue.risk()
        if risk is not None and risk != self.queue_fault:
            logger.warning("the queue works, but {}; {}", risk.cause, risk.remedy)
        if not self.queue_unavailable.is_set():
            self.queue_fault = risk

    def advance_urgent(self) -> None:
        """Advance runs with priority straight from the journal, in a thread of its own: a rollback waits for no queue and no worker."""
        while not self.stopping.wait(URGENT_POLL_SECONDS):
            try:
                for (run_id,) in self.journal.query(URGENT, f"{self.incarnation}/%", time.time()):
                    self.advance(run_id)
            except Exception:
                logger.opt(exception=True).error("an urgent run could not be advanced; retrying")

    def _drop_claim(self, run: Run) -> None:
        """Drop a claim of this process that no worker has, because an error in the engine itself ended its worker (a full disk, for example)."""
        with self.journal.transaction() as connection:
            connection.execute("update runs set claim = null where id = ? and claim = ?", (run.id, run.claim))

    def _hint_next_for_lease(self) -> None:
        with self.journal.transaction(synced=False) as connection:
            run_id = next_for_lease(connection, HOST_LEASE)
        if run_id is not None:
            self.hint(run_id)

    def revoke(self, reasons: Mapping[str, str]) -> None:
        """Revoke the messages of sleeping runs (run → reason) until `restore`. Idempotent. One commit, so that urgent runs need not wait to write."""
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
        """Queue the messages of revoked runs again, due at `wake_at` if given. Idempotent. One commit."""
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
        """Deliver signals and call the watchers, until the engine stops. A watcher that fails does not stop the others."""
        while not self.stopping.wait(WATCH_INTERVAL_SECONDS):
            for watcher in (self.deliver_signals, *self.watchers):
                try:
                    watcher()
                except Exception:
                    logger.opt(exception=True).error("a watcher failed; it is called again")

    def deliver_signals(self) -> None:
        """Interrupt steps whose run has a pending signal, and hint at sleeping runs that have one."""
        for flow in list(self._active.values()):
            signal = self._pending_signal(flow.run)
            if signal is not None and flow.interruptible and signal not in flow.delivered:
                flow.interrupt.set(signal)
        former, self._signaled = self._signaled, {}
        for (run_id,) in self.journal.query("select distinct run from signals"):
            self._signaled[run_id] = former.get(run_id, -SIGNAL_HINT_SECONDS)
            if run_id not in self._active and time.monotonic() - self._signaled[run_id] >= SIGNAL_HINT_SECONDS:
                self._signaled[run_id] = time.monotonic()
                self.hint(run_id)

    def stop(self) -> None:
        """Ask every worker to let its run go at the next safe point. Interruptible steps end at once and run again later."""
        self.stopping.set()
        for flow in list(self._active.values()):
            if flow.interruptible:
                flow.interrupt.set(SHUTDOWN)

    def _on_event(self, run: Run, event: Event) -> None:
        if event.kind in ("released", "ended"):
            with suppress(JournalError):  # `recover` does it within a minute
                self._hint_next_for_lease()
        if event.kind == "ended":
            logger.info("{} ended: {}: {}", run.id, event.data["outcome"], event.data["reason"])
        if text := self._words.happened(run, event):
            logger.log("WARNING" if event.kind in ("failed", "undo_failed") else "INFO", "{}: {}", run.id, text)
