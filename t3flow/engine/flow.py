"""One run of a workflow: replays its journaled history, then goes on from where it ended.

A workflow is a plain function. Each time its run is looked at, the function is called from the top; a step whose result is in the journal
returns it at once, so that the first call not found there is the place to go on. Events of other kinds than RECORDED are notes for people.
"""

import json
import sqlite3
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from loguru import logger

from t3flow.engine.errors import HistoryMismatch, Interrupted, NotYet, Stalled, StepFailed, Suspended, UndoFailed
from t3flow.engine.journal import Event, Journal, JournalError, NoSuchRun, Run, append_event
from t3flow.engine.step import STEPS, Interrupt, Step, current_interrupt
from t3flow.errors import T3flowError

RECORDED = {"completed", "failed", "undone", "undo_failed", "signal", "acquired", "released", "settled"}
SHUTDOWN = "shutdown"
"""The one signal that is not journaled: the consumer stops, and the run goes on where it was when it is back."""
YIELD = "yield"
"""The one signal that may be delivered again and again: each time a more urgent run waits for what this one holds."""
MAX_CRASHES = 3
"""A step that was under way at this many deaths of the consumer is given up."""
CRASHED = "Crashed"
"""The kind of failure of such a step."""


class Flow:
    """The state of one run while a worker has it.

    `pending_signal` tells the name of a signal that waits for the run; `on_progress` hears of each event as it is journaled.
    """

    def __init__(
        self,
        journal: Journal,
        run: Run,
        pending_signal: Callable[[Run], str | None],
        on_progress: Callable[[Run, Event], None],
    ) -> None:
        self.journal = journal
        self.run = run
        self.events = journal.events(run.id)
        self.interrupt = Interrupt()
        self.interruptible = False
        self.attempt = 1
        self.under_way: tuple[str, int] | None = None
        self.delivered = {str(event.step) for event in self.events if event.kind == "signal"} - {YIELD}
        self._pending_signal = pending_signal
        self._on_progress = on_progress
        self._recorded = deque(event for event in self.events if event.kind in RECORDED)
        self._position = 0  # number of the last recorded event that this replay has passed
        self._shields = 0

    # Steps ----------------------------------------------------------------------------------------------------

    def run_step(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The step's journaled result, or runs it. Raises StepFailed, Interrupted, Suspended, HistoryMismatch."""
        event = self._replay(step.name, "completed", "failed")
        if event is None:
            self._deliver_signal()
            event = self._perform(step, args, kwargs, "completed", "failed", {})
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
        """Runs a step now and journals how it ended, as kind `done` or `failed` with `note` beside the result."""
        mine = [event for event in self.events if event.seq > self._position and event.step == step.name]
        started = sum(event.kind == "started" for event in mine)
        stopped = sum(event.kind == "stopped" for event in mine)
        retried = sum(event.kind == "retrying" for event in mine)
        polled = next((int(event.data["checks"]) for event in mine if event.kind == "waiting"), 0)
        attempt = self.attempt = polled + started + 1

        def give_up(kind: str, reason: str) -> Event:
            return self._record(failed, step.name, attempt, {**note, "kind": kind, "reason": reason})

        if (crashes := started - retried - stopped) >= MAX_CRASHES:
            return give_up(CRASHED, f"the consumer died {crashes} times in step {step.name}; it is not tried again")
        begin = self._note if step.undo is None else self._record  # to be undone, a start must be known
        begin("started", step.name, attempt, {"args": args, "kwargs": kwargs})
        self.under_way = (step.name, attempt)
        self.interruptible = step.interruptible and not self._shields
        self.interrupt = Interrupt()
        token = current_interrupt.set(self.interrupt if self.interruptible else None)
        try:
            result = step.function(*args, **kwargs)
            return self._record(done, step.name, attempt, {**note, "result": result})
        except NotYet as later:
            self._wait(step.name, attempt, polled + 1, later)
            raise Suspended(later.at, step.name, later.waiting_for) from None
        except Interrupted as interrupted:
            if interrupted.signal == SHUTDOWN:
                self._note("stopped", step.name, attempt, {})
                raise Suspended(time.time(), step.name, SHUTDOWN) from None
            self._take_signal(interrupted.signal)
            raise
        except Exception as error:
            if isinstance(error, JournalError) and not isinstance(error, NoSuchRun):
                raise Stalled(str(error)) from error
            if not isinstance(error, T3flowError):
                logger.opt(exception=True).error("internal error in step {} of run {}", step.name, self.run.id)
                return give_up(type(error).__name__, f"internal error in step {step.name}: {_last_line(error)}")
            if not isinstance(error, step.retry_on) or retried >= step.retries:
                return give_up(type(error).__name__, str(error))
            at = time.time() + step.retry_delay_seconds * 2**retried
            self._record("retrying", step.name, attempt, {"reason": str(error), "at": at})
            raise Suspended(at, step.name, str(error)) from None
        finally:
            current_interrupt.reset(token)
            self.interruptible = False

    def _wait(self, step: str, attempt: int, checks: int, later: NotYet) -> None:
        """A polling step keeps one event, updated in place, however often it asks."""
        data = {"checks": checks, "waiting_for": later.waiting_for, "at": later.at}
        scope = "run = ? and seq > ? and step = ? and kind"
        where = (self.run.id, self._position, step)
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
        """Steps within are one change: when an error leaves the block, those begun are undone, last first, and the error goes on.

        Raises UndoFailed where an undo failed; the others are tried all the same. Leaving normally settles the steps: they are undone no more.
        """
        since = self._position
        try:
            yield
        except Exception:
            self.undo(since)
            raise
        if self._to_undo(since, self._past()) and self._replay("saga", "settled") is None:
            self._record("settled", "saga", None, {"since": since})

    def undo(self, since: int = 0) -> None:
        """Undoes each step begun after event `since` that is neither settled nor undone, last first. Raises UndoFailed."""
        self._undo_all(self._to_undo(since, self._past()))

    def _past(self) -> list[Event]:
        return [event for event in self.events if event.seq <= self._position]

    def _undo_all(self, steps: list[Event]) -> None:
        failure: StepFailed | None = None
        with self.shielded():
            for begun in steps:
                event = self._undo_one(begun)
                if event.kind == "undo_failed":
                    failure = UndoFailed(str(event.step), event.data["kind"], event.data["reason"])
        if failure is not None:
            raise failure

    def unwind(self) -> None:
        """Gives up the replay and undoes all that is not settled, a step under way included. Raises UndoFailed, Suspended."""
        self._recorded.clear()
        begun = self._to_undo(0, self.events)
        self._position = max((event.seq for event in self.events if event.kind in RECORDED), default=0)
        self._undo_all(begun)

    def _to_undo(self, since: int, past: list[Event]) -> list[Event]:
        """The first start after event `since` of each undoable step in a part of the history, last first."""
        settled = [(event.data["since"], event.seq) for event in past if event.kind == "settled"]
        undone = {event.data["of"] for event in past if event.kind in ("undone", "undo_failed")}
        begun: dict[str, Event] = {}
        for event in past:
            if event.kind != "started" or event.seq <= since or any(low < event.seq < high for low, high in settled):
                continue
            if (known := STEPS.get(str(event.step))) is not None and known.undo is not None:
                begun.setdefault(json.dumps([event.step, event.data]), event)
        return [event for event in reversed(begun.values()) if event.seq not in undone]

    def _undo_one(self, begun: Event) -> Event:
        undo = STEPS[str(begun.step)].undo
        assert undo is not None
        event = self._replay(undo.name, "undone", "undo_failed")
        if event is None:
            args, kwargs = tuple(begun.data["args"]), begun.data["kwargs"]
            event = self._perform(undo, args, kwargs, "undone", "undo_failed", {"of": begun.seq})
        return event

    # Signals --------------------------------------------------------------------------------------------------

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Signals are held back within: for what must be finished or undone once begun."""
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
            self._take_signal(signal)
            raise Interrupted(signal)

    def _take_signal(self, signal: str) -> None:
        self.delivered |= {signal} - {YIELD}
        with self._writing() as connection:
            connection.execute("delete from signals where run = ? and name = ?", (self.run.id, signal))
            event = append_event(connection, self.run.id, "signal", signal)
        self._passed(event)

    # The lock -------------------------------------------------------------------------------------------------

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Holds what one run at a time can have, across crashes. Raises Suspended while another has it."""
        if self._replay(name, "acquired") is None:
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
        with self._writing() as connection:
            connection.execute("update runs set wake_at = null where id = ?", (self.run.id,))
            if next_for_lock(connection, name) == self.run.id:
                connection.execute("insert into locks values (?, ?, ?)", (name, self.run.id, time.time()))
                connection.execute("update runs set wake_at = ? where id = ?", (time.time(), self.run.id))
                event = append_event(connection, self.run.id, "acquired", name)
        if event is None:
            raise Suspended(None, None, "host_busy")
        self._passed(event)

    def _release(self, name: str) -> None:
        if self._replay(name, "released") is None:
            with self._writing() as connection:
                connection.execute("delete from locks where name = ? and run = ?", (name, self.run.id))
                event = append_event(connection, self.run.id, "released", name)
            self._passed(event)

    # The journal ----------------------------------------------------------------------------------------------

    def _replay(self, name: str, *kinds: str) -> Event | None:
        """The next recorded event, which must be this call's; None when the history is used up."""
        if not self._recorded:
            return None
        event = self._recorded.popleft()
        self._position = event.seq
        if event.kind == "signal" and not self._shields:
            raise Interrupted(str(event.step))
        if event.step != name or event.kind not in kinds:
            raise HistoryMismatch(
                f"run {self.run.id} was begun by another version of t3flow: its history has `{event.kind} {event.step}` "
                f"where this one does `{name}`; it is undone"
            )
        return event

    def _record(self, kind: str, step: str | None, attempt: int | None, data: dict[str, Any]) -> Event:
        """Journals an event, synced."""
        with self._writing() as connection:
            event = append_event(connection, self.run.id, kind, step, attempt, data)
        return self._passed(event)

    def _note(self, kind: str, step: str | None, attempt: int | None, data: dict[str, Any]) -> Event:
        """Journals an event without waiting for the disk."""
        with self._writing(synced=False) as connection:
            event = append_event(connection, self.run.id, kind, step, attempt, data)
        return self._passed(event)

    @contextmanager
    def _writing(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """A write to the journal. Raises Stalled where that cannot be: no undo may begin then, as it would not be known either."""
        try:
            with self.journal.transaction(synced=synced) as connection:
                yield connection
        except JournalError as error:
            raise Stalled(str(error)) from error

    def _passed(self, event: Event) -> Event:
        self.events.append(event)
        if event.kind in RECORDED:
            self._position = event.seq
        self._on_progress(self.run, event)
        return event


def next_for_lock(connection: Any, name: str) -> str | None:
    """The run that may take a lock: of those that wait the most urgent, then the oldest; None while it is held or nobody waits."""
    row = connection.execute(
        "select id from runs where status = 'running' and wake_at is null and held is null "
        "and not exists (select 1 from locks where name = ?) order by priority desc, created, id limit 1",
        (name,),
    ).fetchone()
    return row[0] if row else None


def _last_line(error: Exception) -> str:
    return traceback.format_exception_only(error)[-1].strip()
