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

from t3flow.engine.errors import HistoryMismatch, Stalled, Suspended, UndoFailed
from t3flow.engine.flow import SHUTDOWN, Flow, next_for_lock
from t3flow.engine.journal import Event, Journal, JournalError, Run, append_event
from t3flow.engine.queue import HintQueue
from t3flow.engine.runs import HOST_LOCK, Abort, Outcome, end_run
from t3flow.engine.step import STEPS, current_flow
from t3flow.errors import T3flowError

WATCH_SECONDS = 0.5
EARLY_SECONDS = 0.5
"""A hint that comes this much before its time is taken; one that comes earlier is a stray copy."""
STALLED_SECONDS = 5.0


class Engine:
    """Runs `workflows` (name → plain function) from a journal and a queue. `standing_signal` may add signals that stand in no table.

    `on_lost` hears, before a run ends, why something that it changed could not be undone because another version of t3flow had begun it. It is to
    see that nothing else is changed until a person has looked. Idempotent, as it may be called again after a crash.
    """

    def __init__(
        self,
        journal: Journal,
        queue: HintQueue,
        workflows: Mapping[str, Callable[..., Outcome]],
        *,
        standing_signal: Callable[[Run], str | None] = lambda run: None,
        on_lost: Callable[[Run, str], None] = lambda run, reason: None,
    ) -> None:
        self.journal = journal
        self.queue = queue
        self.workflows = workflows
        self.incarnation = secrets.token_hex(8)
        self.stopping = threading.Event()
        self.queue_away = threading.Event()  # set while the queue does not answer
        self.watchers: list[Callable[[], None]] = []
        self._standing_signal = standing_signal
        self._on_lost = on_lost
        self._active: dict[str, Flow] = {}
        # Runs that a worker of this process has, from before its claim until after its release; true if a hint came meanwhile.
        self._busy: dict[str, bool] = {}
        self._claims = itertools.count(1)
        self._mutex = threading.Lock()
        queue.register(self.advance, list(STEPS))
        queue.on_failure = self._note_away

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
        flow = Flow(self.journal, run, self._pending_signal, self._progress)
        self._active[run.id] = flow
        token = current_flow.set(flow)
        try:
            outcome = self._outcome(flow)
            self._progress(run, end_run(self.journal, run, outcome))
        except Suspended as suspended:
            self._suspend(run, suspended)
        except Stalled as stalled:
            self._stall(flow, stalled)
        finally:
            current_flow.reset(token)
            del self._active[run.id]

    def _claim(self, run_id: str) -> Run | None:
        """Compare-and-swap: one live worker has a run, whatever the queue delivers."""
        claim = f"{self.incarnation}/{next(self._claims)}"
        with self.journal.transaction(synced=False) as connection:
            changed = connection.execute(
                "update runs set claim = ? where id = ? and status = 'running' and (claim is null or claim not like ?) "
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
            if lost := flow.history.lost():
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
        """Undoes what a run of other code has begun. What cannot be undone is told to `on_lost`."""
        try:
            flow.unwind()
        except UndoFailed as failure:
            reason = f"{mismatch}; ROLLBACK FAILED: {failure}"
            self._on_lost(flow.run, reason)
            return Outcome("error", reason, "failed")
        return Outcome("error", f"{mismatch}; it is undone", "failed")

    def _suspend(self, run: Run, suspended: Suspended) -> None:
        """Lets the run go and queues its next hint; one that waits for the lock gets it from whoever frees the lock."""
        with self.journal.transaction() as connection:
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
        """Queues "look at this run", now or at a time. A queue that is away is no harm: `recover` adds the hint when it is back."""
        if self.stopping.is_set():
            return
        try:
            message = self.queue.send(run_id, at, step)
        except Exception as error:
            self._note_away(error)
            return
        with self.journal.transaction(synced=False) as connection:
            connection.execute("update runs set message = ? where id = ? and status = 'running'", (message, run_id))

    def _note_away(self, error: Exception) -> None:
        if not self.queue_away.is_set():
            logger.warning("the queue does not answer ({}); what is pending goes on when it is back", error)
        self.queue_away.set()

    def recover(self) -> int:
        """Adds a hint for every pending run that has neither a worker nor a message. Returns how many. Adding twice is harmless."""
        messages = self.queue.message_ids()
        added = 0
        for run in self.journal.runs("status = 'running' and held is null"):
            if run.id in self._busy or (run.message in messages and run.wake_at is not None):
                continue
            if run.claim is not None and run.claim.startswith(self.incarnation):
                self._drop_claim(run)
            if run.wake_at is not None:
                self.hint(run.id, run.wake_at)
                added += 1
        self._hint_next_for_lock()
        return added

    def _drop_claim(self, run: Run) -> None:
        """For a claim of ours that no worker has: its worker died in the engine itself (a full disk, say)."""
        with self.journal.transaction() as connection:
            connection.execute("update runs set claim = null where id = ? and claim = ?", (run.id, run.claim))

    def _hint_next_for_lock(self) -> None:
        with self.journal.transaction(synced=False) as connection:
            run_id = next_for_lock(connection, HOST_LOCK)
        if run_id is not None:
            self.hint(run_id)

    def hold(self, run_id: str, reason: str) -> None:
        """Takes a sleeping run's message out of the queue until `release`. Twice is harmless."""
        with self.journal.transaction() as connection:
            connection.execute("update runs set held = ? where id = ? and status = 'running'", (reason, run_id))
        message = self.journal.run(run_id).message
        if message is not None:
            self.queue.withdraw(message)

    def release(self, run_id: str) -> None:
        """Puts a held run's message back. Twice is harmless."""
        with self.journal.transaction() as connection:
            connection.execute("update runs set held = null where id = ?", (run_id,))
        run = self.journal.run(run_id)
        if run.status == "running":
            self.hint(run_id, run.wake_at)

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
            for look in (self._return_to_queue, self.deliver, *self.watchers):
                try:
                    look()
                except Exception:
                    logger.opt(exception=True).error("the watcher failed; it goes on")

    def _return_to_queue(self) -> None:
        """Once a queue that was away answers, puts back what it lost."""
        if self.queue_away.is_set():
            self.queue_away.clear()
            try:
                self.recover()
                logger.info("the queue answers again")
            except Exception:
                self.queue_away.set()

    def deliver(self) -> None:
        """One round of `watch`: interrupts steps for which a signal waits, wakes sleeping runs that have one."""
        for flow in list(self._active.values()):
            signal = self._pending_signal(flow.run)
            if signal is not None and flow.interruptible and signal not in flow.delivered:
                flow.interrupt.set(signal)
        for (run_id,) in self.journal.query("select distinct run from signals"):
            if run_id not in self._active:
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
                self._hint_next_for_lock()
        if event.kind in ("failed", "undo_failed"):
            logger.warning("{}: {} failed: {}", run.id, event.step, event.data["reason"])
        elif event.kind == "ended":
            logger.info("{} ended: {} {}", run.id, event.data["outcome"], event.data["reason"])
        elif event.kind in ("completed", "undone", "signal", "retrying"):
            logger.info("{}: {} {}", run.id, event.kind, event.step)
