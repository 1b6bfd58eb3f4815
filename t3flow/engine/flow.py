"""The execution of one run: replay its journaled history, then continue from where the history ends.

A workflow is a plain function. Each time its run is advanced, the function is called from the top. A step whose result is in the journal returns it
at once, so the first call without a result is where the run continues. Nothing else needs to be saved: no program counter, no state of the workflow.
"""

import json
import sqlite3
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from loguru import logger

from t3flow import T3flowError
from t3flow.engine.errors import Interrupted, NotYet, Stalled, StepFailed, Suspended, UndoFailed
from t3flow.engine.history import CONTINUED, RECORDED, UNKNOWN_UNDO, History, digest, undo_name, undo_of, undo_reference
from t3flow.engine.journal import Event, Journal, JournalError, NoSuchRun, Run, append_event
from t3flow.engine.step import Interrupt, Step, current_executor, current_interrupt
from t3flow.engine.words import Words

SHUTDOWN = "shutdown"
"""The one signal that is not journaled: the consumer stops, and its successor resumes the run."""
YIELD = "yield"
"""The one signal that may be delivered more than once: whenever a more urgent run waits for the lease."""
MAX_CRASHES = 3
"""After this many deaths of the consumer in one step, the step fails and is not retried."""
MAX_UNSYNCED_SECONDS = 10.0
"""The most finished work that a power cut may lose, beside the step under way."""
LONG_HISTORY_EVENTS = 200
"""A run with more events than this continues as new where its workflow allows it."""
CRASHED = "Crashed"
"""The failure kind of a step that was under way at MAX_CRASHES deaths of the consumer."""


class Flow:
    """The state of one run while a worker advances it.

    `pending_signal` returns the name of a signal that is pending for the run; `on_event` is called with each event that is journaled.
    """

    def __init__(
        self,
        journal: Journal,
        run: Run,
        pending_signal: Callable[[Run], str | None],
        on_event: Callable[[Run, Event], None],
        words: Words | None = None,
    ) -> None:
        self.journal = journal
        self.run = run
        self.history = History(run.id, journal.events(run.id))
        self.wake_at = run.wake_at  # as this flow left it: another value in the journal is a wake
        self.interrupt = Interrupt()
        self.interruptible = False
        self.attempt = 1
        self.under_way: tuple[str, int] | None = None
        self.delivered = {str(event.step) for event in self.events if event.kind == "signal"} - {YIELD}
        self._pending_signal = pending_signal
        self._on_event = on_event
        self._words = words or Words()
        self._shields = 0
        self._last_commit = 0  # the number of the commit of the last recorded event

    @property
    def events(self) -> list[Event]:
        """The events of the run so far."""
        return self.history.events

    # Steps ----------------------------------------------------------------------------------------------------

    def run_step(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the step's journaled result, or run the step. Raises StepFailed, Interrupted, Suspended, HistoryMismatch."""
        call = digest(*step.without_wording(args, kwargs))
        event = self._replay(step.name, "completed", "failed", call=call)
        if event is None:
            self.history.check_under_way(step.name, call)
            self._deliver_signal()
            event = self._perform(step, args, kwargs, "completed", "failed", {"call": call})
        if event.kind == "failed":
            raise StepFailed(step.name, event.data["kind"], event.data["reason"])
        return event.data["result"]

    def _perform(
        self,
        step: Step[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        done: str,
        failed: str,
        note: dict[str, Any],
    ) -> Event:
        """Run a step and journal its end as an event of kind `done` or `failed`, with `note` beside the result."""
        notes = self.history.notes_of(step.name)
        started = sum(event.kind == "started" for event in notes)
        stopped = sum(event.kind == "stopped" for event in notes)
        retried = sum(event.kind == "retrying" for event in notes)
        polled = next((int(event.data["checks"]) for event in notes if event.kind == "waiting"), 0)
        attempt = self.attempt = polled + started + 1

        def doing() -> str:
            return self._words.doing(step.name, args, kwargs)

        def give_up(kind: str, reason: str) -> Event:
            return self._record(failed, step.name, attempt, {**note, "kind": kind, "reason": self._words.clean(reason)})

        if (crashes := started - retried - stopped) >= MAX_CRASHES:
            return give_up(
                CRASHED, f"{doing()}: the consumer died {crashes} times in this step, which is not tried again"
            )
        # A start with an undo must be on disk, or the undo would be missed. A step with effects must not start before the steps that it follows are.
        self._record(
            *("started", step.name, attempt, {"args": args, "kwargs": kwargs, **undo_reference(step)}),
            synced=step.undo is not None or (step.syncs_first and not self.is_synced),
        )
        self.under_way = (step.name, attempt)
        self.interrupt = Interrupt()
        self.interruptible = step.interruptible and not self._shields
        if self.interruptible and self._pending_signal(self.run) == SHUTDOWN:  # sent only once
            self.interrupt.set(SHUTDOWN)
        token = current_interrupt.set(self.interrupt if self.interruptible else None)
        try:
            result = step.function(*args, **kwargs)
            return self._record(done, step.name, attempt, {**note, "result": result})
        except NotYet as later:
            self._wait(step.name, attempt, polled + 1, later)
            raise Suspended(later.at, step.name, later.waiting_for) from None
        except Interrupted as interrupted:
            if interrupted.signal == SHUTDOWN:
                self._record("stopped", step.name, attempt, {})
                raise Suspended(time.time(), step.name, SHUTDOWN) from None
            self._consume_signal(interrupted.signal)
            raise
        except Exception as error:
            if isinstance(error, JournalError) and not isinstance(error, NoSuchRun):
                raise Stalled(str(error)) from error
            if not isinstance(error, T3flowError):
                logger.opt(exception=True).error("internal error in step {} of run {}", step.name, self.run.id)
                return give_up(type(error).__name__, f"{doing()}: internal error: {_last_line(error)}")
            if not isinstance(error, step.retry_on) or retried >= step.retries:
                return give_up(type(error).__name__, str(error))
            at = time.time() + step.retry_delay_seconds * 2**retried
            reason = self._words.clean(str(error))
            self._record("retrying", step.name, attempt, {"reason": reason, "at": at})
            raise Suspended(at, step.name, reason) from None
        finally:
            current_interrupt.reset(token)
            self.interruptible = False

    def _wait(self, step: str, attempt: int, checks: int, later: NotYet) -> None:
        """Journal that a polling step waits. It keeps one event, updated in place, however often it polls."""
        data = {"checks": checks, "waiting_for": self._words.clean(later.waiting_for), "at": later.at}
        scope = "run = ? and seq in (select value from json_each(?)) and kind"
        where = (self.run.id, json.dumps([event.seq for event in self.history.notes_of(step)]))
        with self._writing() as connection:
            connection.execute(f"delete from events where {scope} = 'started'", where)
            changed = connection.execute(
                f"update events set data = ?, at = ?, attempt = ? where {scope} = 'waiting'",
                (json.dumps(data), time.time(), attempt, *where),
            )
            if changed.rowcount == 0:
                append_event(connection, self.run.id, "waiting", step, attempt, data)

    # Sagas ----------------------------------------------------------------------------------------------------

    @contextmanager
    def saga(self) -> Iterator[None]:
        """Make the steps in the block one change: if an error leaves it, undo those that started, last first, and raise the error again.

        Raises UndoFailed instead if an undo failed; the others are tried all the same. A normal exit settles the steps: they are not undone later.
        """
        since = self.history.position
        try:
            yield
        except Exception:
            self.undo(since)
            raise
        if self.history.unsettled_since(since) and self._replay("saga", "settled") is None:
            self.history.check_under_way()
            self._record("settled", "saga", None, {"since": since})

    def undo(self, since: int = 0) -> None:
        """Undo each step that started after event `since` and is neither settled nor undone, last first. Raises UndoFailed."""
        if failed := self._undo_all(self.history.unsettled_since(since)):
            raise _undo_failed(failed[-1])

    def unwind(self) -> None:
        """End the replay and undo all that is not settled, including a step under way. Raises UndoFailed, Suspended.

        An earlier failed undo of this run counts too: the consumer may have died between that and the run's end.
        """
        self._undo_all(self.history.end_replay())
        if failed := self.history.failed_undos():
            raise _undo_failed(failed[-1])

    def _undo_all(self, steps: list[Event]) -> list[Event]:
        """Undo each start, and return the events of the undos that failed."""
        with self.shielded():
            events = [self._undo_one(start) for start in steps]
        return [event for event in events if event.kind == "undo_failed"]

    def _undo_one(self, start: Event) -> Event:
        name = undo_name(start)
        event = self._replay(name, "undone", "undo_failed", start_seq=start.seq)
        if event is not None:
            return event
        note = {"of": start.seq}
        if (undo := undo_of(start)) is not None:
            return self._perform(undo, tuple(start.data["args"]), start.data["kwargs"], "undone", "undo_failed", note)
        reason = _unknown_undo(self.run, start, name)
        logger.error("ROLLBACK FAILED: {}", reason)
        return self._record("undo_failed", name, None, {**note, "kind": UNKNOWN_UNDO, "reason": reason})

    # Long runs -----------------------------------------------------------------------------------------------

    @property
    def carried(self) -> dict[str, Any]:
        """What the workflow carried over when the run last continued as new; empty before that."""
        return self.history.carried

    def continue_as_new_if_long(self, **carried: Any) -> None:
        """Replace the history of a run that loops by an empty one, so that its replay stays short. `Flow.carried` of the new one is `carried`.

        Call it at the top of a workflow's loop. A no-op while the history is short or replayed, a step is not settled, or the run has the lease. One
        commit writes the event `continued` and deletes the past, so a crash leaves one history or the other; event numbers keep rising. Raises
        Suspended, so that the workflow is called again at once.
        """
        history = self.history
        if not history.is_exhausted or len(history.events) <= LONG_HISTORY_EVENTS or history.unsettled_since(0):
            return
        if self.journal.query("select 1 from locks where run = ?", self.run.id):
            return
        data = {"events": history.length, "times": history.continuations + 1, "carried": carried}
        with self._writing(synced=True) as connection:
            event = append_event(connection, self.run.id, CONTINUED, None, None, data)
            connection.execute(
                "delete from events where run = ? and seq < ? and kind != 'created'", (self.run.id, event.seq)
            )
        self._note_event(event)
        raise Suspended(time.time(), None, "a new history")

    # Signals --------------------------------------------------------------------------------------------------

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Defer signals within the block, for work that must be finished or undone once it has started."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1

    def _deliver_signal(self) -> None:
        if self._shields:
            return
        signal = self._pending_signal(self.run)
        if signal == SHUTDOWN:
            raise Suspended(time.time(), None, SHUTDOWN)
        if signal is not None and signal not in self.delivered:
            self._consume_signal(signal)
            raise Interrupted(signal)

    def _consume_signal(self, signal: str) -> None:
        self.delivered |= {signal} - {YIELD}
        with self._writing() as connection:
            connection.execute("delete from signals where run = ? and name = ?", (self.run.id, signal))
            event = append_event(connection, self.run.id, "signal", signal)
        self._note_event(event)

    # The lease ------------------------------------------------------------------------------------------------

    @contextmanager
    def lease(self, name: str) -> Iterator[None]:
        """Have, within the block and across crashes, what only one run at a time can have. Raises Suspended while another run has it."""
        if self._replay(name, "acquired") is None:
            self.history.check_under_way()
            self._deliver_signal()
            self._acquire(name)
        try:
            yield
        except Exception:
            self._release(name)
            raise
        self._release(name)

    def _acquire(self, name: str) -> None:
        event = None
        self.wake_at = None
        with self._writing() as connection:
            connection.execute("update runs set wake_at = null where id = ?", (self.run.id,))
            if next_for_lease(connection, name) == self.run.id:
                self.wake_at = time.time()
                connection.execute("insert into locks values (?, ?, ?)", (name, self.run.id, self.wake_at))
                connection.execute("update runs set wake_at = ? where id = ?", (self.wake_at, self.run.id))
                event = append_event(connection, self.run.id, "acquired", name)
        if event is None:
            raise Suspended(None, None, "host_busy")
        self._note_event(event)

    def _release(self, name: str) -> None:
        if self._replay(name, "released") is None:
            with self._writing() as connection:
                connection.execute("delete from locks where name = ? and run = ?", (name, self.run.id))
                event = append_event(connection, self.run.id, "released", name)
            self._note_event(event)

    # The journal ----------------------------------------------------------------------------------------------

    def _replay(self, name: str, *kinds: str, call: str | None = None, start_seq: int | None = None) -> Event | None:
        """Return the next recorded event, which must match this call; None if the history is exhausted. Raises HistoryMismatch."""
        event = self.history.next()
        if event is None:
            return None
        if event.kind == "signal" and not self._shields:
            raise Interrupted(str(event.step))
        self.history.check(event, name, kinds, call, start_seq)
        return event

    def _record(
        self, kind: str, step: str | None, attempt: int | None, data: dict[str, Any], *, synced: bool = False
    ) -> Event:
        """Journal an event, which need not be synced by itself.

        A power cut loses the end of the journal. A step whose result is lost runs again, which is harmless unless a later step has changed the host
        meanwhile. So all events are synced with the start of the next step that has effects, with the run's end, and before the run sleeps: one sync
        covers a result and the start after it.
        """
        late = time.monotonic() - self.journal.synced_at > MAX_UNSYNCED_SECONDS
        with self._writing(synced=synced or (late and kind in RECORDED)) as connection:
            event = append_event(connection, self.run.id, kind, step, attempt, data)
        return self._note_event(event)

    @property
    def is_synced(self) -> bool:
        """Whether a power cut would lose nothing that this flow has recorded."""
        return 0 < self.journal.last_synced >= self._last_commit

    @contextmanager
    def _writing(self, *, synced: bool = False) -> Iterator[sqlite3.Connection]:
        """Open a write transaction. Raises Stalled if the journal cannot be written: not even an undo may start, as it could not be journaled."""
        try:
            with self.journal.transaction(synced=synced) as connection:
                yield connection
        except JournalError as error:
            raise Stalled(str(error)) from error

    def _note_event(self, event: Event) -> Event:
        self.history.add(event)
        if event.kind in RECORDED:
            self._last_commit = self.journal.last_commit
        self._on_event(self.run, event)
        return event


def next_for_lease(connection: Any, name: str) -> str | None:
    """Return the run that may take a free lease: the most urgent of those that wait, then the oldest. None if it is taken or no run waits."""
    row = connection.execute(
        "select id from runs where status = 'running' and wake_at is null and held is null "
        "and not exists (select 1 from locks where name = ?) order by priority desc, created, id limit 1",
        (name,),
    ).fetchone()
    return row[0] if row else None


def _undo_failed(event: Event) -> UndoFailed:
    return UndoFailed(str(event.step), event.data["kind"], event.data["reason"])


def _unknown_undo(run: Run, start: Event, name: str) -> str:
    """Return one line for the operator. The step is named, as this version may have no words for it."""
    values = [*start.data["args"], *start.data["kwargs"].values()]
    shown = ", ".join(json.dumps(value) for value in values if isinstance(value, str | int | float))
    return (
        f"{start.step}({shown[:200]}) cannot be undone: another version of t3flow started it, and this version has no undo {name} for it. "
        f"See what it changed (t3flow show {run.id}, t3flow doctor), repair it by hand, then run: t3flow unfreeze"
    )


def _last_line(error: Exception) -> str:
    return traceback.format_exception_only(error)[-1].strip()


def current_flow() -> Flow:
    """Return the flow of the run that this thread advances. Raises LookupError outside a run."""
    return cast(Flow, current_executor.get())
