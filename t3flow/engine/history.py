"""The journaled history of one run, as its replay reads it: the next recorded event, and the steps that must be undone.

Each lookup costs the same at event 10,000 as at event 10, because the starts that are neither settled nor undone are tracked during the replay.

A `started` event names the undo of its step and the parameters of that undo. The journal, not the present code, decides what is undone: an upgrade
may have renamed the step, renamed or removed its undo, or changed the parameters of either. Names that `@step(former_names=...)` lists are mapped to
the present ones here and nowhere else.
"""

import hashlib
import itertools
import json
from collections import deque
from dataclasses import replace
from typing import Any

from loguru import logger

from t3flow.engine.errors import HistoryMismatch
from t3flow.engine.journal import Event
from t3flow.engine.step import LEGACY_UNDOS, STEPS, Step, present_name

RECORDED = {"completed", "failed", "undone", "undo_failed", "signal", "acquired", "released", "settled"}
"""Kinds of events that a replay consumes in order. All others are notes: for people, and for counting attempts."""
UNKNOWN_UNDO = "UnknownUndo"
"""The failure kind of an undo that this version of t3flow does not have."""
CONTINUED = "continued"
"""The first event of a run that continued as new: the number of events before it, and what the workflow carried over."""


def digest(args: Any, kwargs: Any) -> str:
    """Return a short digest of a call's arguments (JSON values), equal for equal arguments."""
    return hashlib.blake2b(json.dumps([args, kwargs], sort_keys=True).encode(), digest_size=8).hexdigest()


def digest_of(start: Event) -> str:
    """Return the digest of the call that a start begins, without its wording."""
    args, kwargs = start.data["args"], start.data["kwargs"]
    step = STEPS.get(str(start.step))
    return digest(*(step.without_wording(args, kwargs) if step is not None else (args, kwargs)))


class History:
    """The events of a run, and the position of its replay: the number of the last recorded event that the replay consumed."""

    def __init__(self, run_id: str, events: list[Event]) -> None:
        self.run_id = run_id
        self.events = [_under_present_names(event) for event in events]
        self.position = 0
        self._recorded = deque(event for event in self.events if event.kind in RECORDED)
        self._unsettled: dict[str, Event] = {}
        self._tracked = 0  # how many events `_unsettled` reflects

    @property
    def is_exhausted(self) -> bool:
        """Whether the replay has consumed all recorded events, so that the next step runs."""
        return not self._recorded

    @property
    def carried(self) -> dict[str, Any]:
        """What the workflow carried over when the run last continued as new; empty before that."""
        return dict(self._continued["carried"])

    @property
    def continuations(self) -> int:
        """How often the run has continued as new."""
        return int(self._continued["times"])

    @property
    def length(self) -> int:
        """The number of events of the run, including those deleted when it continued as new."""
        return int(self._continued["events"]) + len(self.events)

    @property
    def _continued(self) -> dict[str, Any]:
        for event in self.events[:2]:  # it comes first, or after `created`
            if event.kind == CONTINUED:
                return event.data
        return {"carried": {}, "times": 0, "events": 0}

    def add(self, event: Event) -> None:
        """Append an event that was just journaled."""
        self.events.append(event)
        if event.kind in RECORDED:
            self.position = event.seq

    def next(self) -> Event | None:
        """Consume the next recorded event and return it; None when the history is exhausted."""
        if not self._recorded:
            return None
        event = self._recorded.popleft()
        self.position = event.seq
        return event

    def check(self, event: Event, name: str, kinds: tuple[str, ...], call: str | None, start_seq: int | None) -> None:
        """Raise HistoryMismatch unless a recorded event matches this call in kind, step, arguments, and (for an undo) the start that it undid."""
        recorded = f"{event.kind} {event.step}"
        if event.step != name or event.kind not in kinds:
            raise self._mismatch("its steps differ", f"the history has {recorded}, the workflow is at {name}")
        if call is not None and call not in (event.data.get("call", call), self._call_of(event)):
            raise self._mismatch("its steps take other arguments", f"the history has {recorded} with other arguments")
        if start_seq is not None and event.data["of"] != start_seq:
            raise self._mismatch("its steps differ", f"the history has {recorded} of another start")

    def _call_of(self, event: Event) -> str | None:
        """Return the digest of the call that a recorded event ends, by its start; None for a step without wording.

        The recorded digest is that of another wording, or of a version that counted the wording in.
        """
        if not getattr(STEPS.get(str(event.step)), "wording", ()):
            return None
        starts = (each for each in reversed(self.events) if each.seq < event.seq)
        return next((digest_of(each) for each in starts if (each.kind, each.step) == ("started", event.step)), None)

    def _mismatch(self, reason: str, detail: str) -> HistoryMismatch:
        """Return the error, with a reason for people, and log the detail for developers."""
        logger.error("run {} does not fit this version of t3flow: {}", self.run_id, detail)
        return HistoryMismatch(f"run {self.run_id} was started by another version of t3flow: {reason}")

    def check_under_way(self, step: str = "", call: str = "") -> None:
        """Raise HistoryMismatch if the consumer died in an undoable call other than this one.

        The history must be exhausted. Without this check a step that an upgrade removed would stay half done.
        """
        for event in reversed(self.events):
            if event.seq <= self.position:
                return
            if event.kind != "started" or not needs_undo(event):
                continue
            if event.step != step or digest_of(event) != call:
                raise self._mismatch(
                    "its steps differ",
                    f"{event.step} was under way, the workflow is {f'at {step}' if step else 'past it'}",
                )

    def check_end(self) -> None:
        """Raise HistoryMismatch if the workflow ended before its history did."""
        if self._recorded:
            event = self._recorded[0]
            raise self._mismatch(
                "its steps differ", f"the history has {event.kind} {event.step}, the workflow has ended"
            )
        self.check_under_way()

    def notes_of(self, step: str) -> list[Event]:
        """Return the events of a step since the last recorded event, which are its attempts so far. The history must be exhausted."""
        latest = itertools.takewhile(lambda event: event.seq > self.position, reversed(self.events))
        return [event for event in latest if event.step == step][::-1]

    # Steps to undo -------------------------------------------------------------------------------------------------

    def end_replay(self) -> list[Event]:
        """End the replay. Return the starts that are neither settled nor undone, last first, including a step under way."""
        self._recorded.clear()
        self._track_until(max((event.seq for event in self.events), default=0))
        self.position = max((event.seq for event in self.events if event.kind in RECORDED), default=0)
        return list(reversed(self._unsettled.values()))

    def unsettled_since(self, since: int) -> list[Event]:
        """Return the first start after event `since` of each undoable call that is neither settled nor undone, last first."""
        self._track_until(self.position)
        return [event for event in reversed(self._unsettled.values()) if event.seq > since]

    def unknown_undos(self) -> list[Event]:
        """Return the events of undos that failed because this version of t3flow does not have them."""
        return [event for event in self.failed_undos() if event.data["kind"] == UNKNOWN_UNDO]

    def failed_undos(self) -> list[Event]:
        """Return the events of all undos that failed."""
        return [event for event in self.events if event.kind == "undo_failed"]

    def _track_until(self, seq: int) -> None:
        while self._tracked < len(self.events) and self.events[self._tracked].seq <= seq:
            event = self.events[self._tracked]
            self._tracked += 1
            if event.kind == "started":
                if needs_undo(event):
                    # Attempts at one call count as one start, even if an earlier version of t3flow journaled the first.
                    self._unsettled.setdefault(f"{event.step} {digest_of(event)}", event)
            elif event.kind == "settled":
                since = event.data["since"]
                self._unsettled = {key: start for key, start in self._unsettled.items() if start.seq <= since}
            elif event.kind in ("undone", "undo_failed"):
                start_seq = event.data["of"]
                self._unsettled = {key: start for key, start in self._unsettled.items() if start.seq != start_seq}


# References to undos ----------------------------------------------------------------------------------------------------


def undo_reference(step: Step[..., Any]) -> dict[str, Any]:
    """Return what a `started` event says of the step's undo: its name (None if the step needs none) and its parameters."""
    if step.undo is None:
        return {"undo": None}
    return {"undo": step.undo.name, "takes": list(step.undo.parameters)}


def needs_undo(start: Event) -> bool:
    """Whether a start must be undone when its saga fails."""
    return start.data["undo"] is not None


def undo_name(start: Event) -> str:
    """Return the name under which the undo of a start is journaled."""
    return str(start.data["undo"])


def undo_of(start: Event) -> Step[..., Any] | None:
    """Return the undo of a start; None if this version has none of that name, or one with other parameters."""
    undo = STEPS.get(undo_name(start))
    if undo is None or ("takes" in start.data and not _takes(undo, start.data["takes"])):
        return None
    return undo


def _under_present_names(event: Event) -> Event:
    """Return an event with the present names of its step and its undo. A start that names no undo gets the one that its step had."""
    if event.step is None or event.kind in ("signal", "acquired", "released", "settled"):
        return event
    step, data = present_name(event.step), event.data
    if event.kind == "started":
        undo = data["undo"] if "undo" in data else _legacy_undo(event.step)
        data = {**data, "undo": undo and present_name(undo)}
    if step == event.step and data == event.data:  # nearly always, and a copy would be a fifth of a replay
        return event
    return replace(event, step=step, data=data)


def _legacy_undo(step: str) -> str | None:
    """Return the name of the undo of a start that names none, as earlier versions of t3flow journaled it; None for no undo.

    LEGACY_UNDOS lists the steps of those versions. Of other steps, the present code decides. A step unknown to both fails closed: it counts as one
    with an undo that this version does not have.
    """
    if step in LEGACY_UNDOS:
        return LEGACY_UNDOS[step]
    if (known := STEPS.get(present_name(step))) is not None:
        return None if known.undo is None else known.undo.name
    return f"undo of {step}"


def _takes(undo: Step[..., Any], parameters: list[str]) -> bool:
    """Whether an undo still takes these parameters: the same in the same order, and any that were added are optional."""
    present = list(undo.parameters)
    parameters = [undo.former_parameters.get(name, name) for name in parameters]
    return present[: len(parameters)] == parameters and all(
        undo.parameters[name] for name in present[len(parameters) :]
    )
