"""The journaled history of one run, as its replay reads it: what comes next, and which steps must be undone.

Each question costs the same at event 10,000 as at event 10. The events of a step that is begun and neither settled nor undone are kept at hand
while the replay passes them.

Identity of an undo: a `started` event names the undo of its step and the parameters that this undo took. The journal decides what is undone, not
the code of the day: an upgrade may have renamed the step, renamed or removed its undo, or changed the arguments of either.

Steps and undos that were renamed with `@step(former_names=...)` are read under their present names, here and nowhere else.
"""

import hashlib
import json
from collections import deque
from dataclasses import replace
from typing import Any

from t3flow.engine.errors import HistoryMismatch
from t3flow.engine.journal import Event
from t3flow.engine.step import LEGACY_UNDOS, STEPS, Step, present_name

RECORDED = {"completed", "failed", "undone", "undo_failed", "signal", "acquired", "released", "settled"}
"""Kinds of events that a replay consumes in order. All others are notes for people and for retries."""
UNKNOWN_UNDO = "UnknownUndo"
"""The kind of failure of an undo that this version of t3flow does not have."""
CONTINUED = "continued"
"""The first event of a history that started over: how many events it had, and what the workflow took along."""


def digest(args: Any, kwargs: Any) -> str:
    """Return a short digest of a call's arguments (JSON values), equal for equal arguments."""
    return hashlib.blake2b(json.dumps([args, kwargs], sort_keys=True).encode(), digest_size=8).hexdigest()


class History:
    """The events of a run and the position of its replay, which is the number of the last recorded event that was passed."""

    def __init__(self, run_id: str, events: list[Event]) -> None:
        self.run_id = run_id
        self.events = [_under_present_names(event) for event in events]
        self.position = 0
        self._recorded = deque(event for event in self.events if event.kind in RECORDED)
        self._unsettled: dict[str, Event] = {}
        self._tracked = 0  # how many events `_open` reflects

    @property
    def is_exhausted(self) -> bool:
        """Whether the replay has passed all recorded events, so that the next step is run."""
        return not self._recorded

    @property
    def carried(self) -> dict[str, Any]:
        """What the workflow took along when this history started over; empty for one that never did."""
        return dict(self._continued["carried"])

    @property
    def continuations(self) -> int:
        """How often the run has started over."""
        return int(self._continued["times"])

    @property
    def length(self) -> int:
        """How many events the run has had, those of histories that were given up included."""
        return int(self._continued["events"]) + len(self.events)

    @property
    def _continued(self) -> dict[str, Any]:
        for event in self.events[:2]:  # it comes first, or after `created`
            if event.kind == CONTINUED:
                return event.data
        return {"carried": {}, "times": 0, "events": 0}

    def add(self, event: Event) -> None:
        """Take in an event that was just journaled."""
        self.events.append(event)
        if event.kind in RECORDED:
            self.position = event.seq

    def next(self) -> Event | None:
        """Pass the next recorded event and return it; None when the history is used up."""
        if not self._recorded:
            return None
        event = self._recorded.popleft()
        self.position = event.seq
        return event

    def check(self, event: Event, name: str, kinds: tuple[str, ...], call: str | None, start_seq: int | None) -> None:
        """Raise HistoryMismatch unless a recorded event is that of this call: kind, step, arguments, and (of an undo) what it undid."""
        start = f"run {self.run_id} was begun by another version of t3flow: its history has `{event.kind} {event.step}`"
        if event.step != name or event.kind not in kinds:
            raise HistoryMismatch(f"{start} where this one does `{name}`")
        if call is not None and event.data.get("call", call) != call:
            raise HistoryMismatch(f"{start} with other arguments than this one gives it")
        if start_seq is not None and event.data["of"] != start_seq:
            raise HistoryMismatch(f"{start} of another start than this one undoes")

    def check_under_way(self, step: str = "", call: str = "") -> None:
        """Raise HistoryMismatch when another undoable call than this one was under way as the consumer ended.

        The replay must be used up. Without this a step that an upgrade removed would stay half done.
        """
        for event in reversed(self.events):
            if event.seq <= self.position:
                return
            if event.kind != "started" or not needs_undo(event):
                continue
            if event.step != step or digest(event.data["args"], event.data["kwargs"]) != call:
                raise HistoryMismatch(
                    f"run {self.run_id} was begun by another version of t3flow, which was at `{event.step}` "
                    f"where this one {f'does `{step}`' if step else 'goes on'}"
                )

    def check_end(self) -> None:
        """Raise HistoryMismatch when the workflow has ended before its history did."""
        if self._recorded:
            event = self._recorded[0]
            raise HistoryMismatch(
                f"run {self.run_id} was begun by another version of t3flow: its history has `{event.kind} {event.step}` "
                "where this one ends"
            )
        self.check_under_way()

    def notes_of(self, step: str) -> list[Event]:
        """The events of a step since the last recorded event: its attempts so far. The replay must be used up."""
        found = []
        for event in reversed(self.events):
            if event.seq <= self.position:
                break
            if event.step == step:
                found.append(event)
        return found[::-1]

    # What is to be undone ------------------------------------------------------------------------------------------

    def end_replay(self) -> list[Event]:
        """End the replay; return all that is begun and neither settled nor undone, last first, a step under way included."""
        self._recorded.clear()
        self._track_until(max((event.seq for event in self.events), default=0))
        self.position = max((event.seq for event in self.events if event.kind in RECORDED), default=0)
        return list(reversed(self._unsettled.values()))

    def unsettled_since(self, since: int) -> list[Event]:
        """The first start after event `since` of each undoable call that is neither settled nor undone, last first."""
        self._track_until(self.position)
        return [event for event in reversed(self._unsettled.values()) if event.seq > since]

    def unknown_undos(self) -> list[Event]:
        """The events of undos that failed because this version of t3flow does not know them."""
        return [event for event in self.failed_undos() if event.data["kind"] == UNKNOWN_UNDO]

    def failed_undos(self) -> list[Event]:
        """The events of all undos that failed."""
        return [event for event in self.events if event.kind == "undo_failed"]

    def _track_until(self, seq: int) -> None:
        while self._tracked < len(self.events) and self.events[self._tracked].seq <= seq:
            event = self.events[self._tracked]
            self._tracked += 1
            if event.kind == "started":
                if needs_undo(event):
                    # Attempts of one call are one start: an earlier t3flow's event of it may have no identity.
                    self._unsettled.setdefault(
                        json.dumps([event.step, event.data["args"], event.data["kwargs"]]), event
                    )
            elif event.kind == "settled":
                since = event.data["since"]
                self._unsettled = {key: start for key, start in self._unsettled.items() if start.seq <= since}
            elif event.kind in ("undone", "undo_failed"):
                start_seq = event.data["of"]
                self._unsettled = {key: start for key, start in self._unsettled.items() if start.seq != start_seq}


# The identity of an undo ------------------------------------------------------------------------------------------------


def undo_reference(step: Step[..., Any]) -> dict[str, Any]:
    """What a `started` event of a step says of its undo: its name (None: there is nothing to undo) and the parameters that it takes."""
    if step.undo is None:
        return {"undo": None}
    return {"undo": step.undo.name, "takes": list(step.undo.parameters)}


def needs_undo(start: Event) -> bool:
    """Whether a start is one that must be undone when its saga fails."""
    return start.data["undo"] is not None


def undo_name(start: Event) -> str:
    """Return the name under which the undo of a start is journaled."""
    return str(start.data["undo"])


def undo_of(start: Event) -> Step[..., Any] | None:
    """The undo of a start; None where this version has none of that name, or one that takes other arguments."""
    undo = STEPS.get(undo_name(start))
    if undo is None or ("takes" in start.data and not _takes(undo, start.data["takes"])):
        return None
    return undo


def _under_present_names(event: Event) -> Event:
    """Return an event with the present names of its step and its undo. A start that names no undo gets the one that its step had."""
    if event.step is None or event.kind in ("signal", "acquired", "released", "settled"):
        return event
    data = event.data
    if event.kind == "started":
        undo = data["undo"] if "undo" in data else legacy_undo(event.step)
        data = {**data, "undo": undo and present_name(undo)}
    return replace(event, step=present_name(event.step), data=data)


def legacy_undo(step: str) -> str | None:
    """Return the name of the undo of a start that names none, as an earlier t3flow wrote it; None for no undo.

    FORMER_STEPS, which lists the steps of that t3flow, decides; else today's code. A step that neither knows counts as one to be undone: that it had
    nothing to undo cannot be told.
    """
    if step in LEGACY_UNDOS:
        return LEGACY_UNDOS[step]
    if (known := STEPS.get(present_name(step))) is not None:
        return None if known.undo is None else known.undo.name
    return f"undo of {step}"


def _takes(undo: Step[..., Any], parameters: list[str]) -> bool:
    """Whether an undo takes these parameters still: the same in the same order, and those added since are optional."""
    ours = list(undo.parameters)
    parameters = [undo.former_parameters.get(name, name) for name in parameters]
    return ours[: len(parameters)] == parameters and all(undo.parameters[name] for name in ours[len(parameters) :])
