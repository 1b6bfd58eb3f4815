"""Runs as people see them: a line for each event of a history, what a run does now, and which run an id means."""

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from t3flow.deferrals.causes import waits_for
from t3flow.engine.journal import Event, Journal, Run
from t3flow.engine.words import Words
from t3flow.state import documents, sentences
from t3flow.state.short import short_backup
from t3flow.state.times import ahead, clock, duration, rfc3339
from t3flow.state.wording import Detail, Problem, names
from t3flow.t3.secrets import hide

SHORTEST_SECONDS = 0.05
"""Steps that took less are told without a duration."""
LONG_SECONDS = 10.0
"""A step that is in flight for so long is told with how long."""
SIGNALS = {
    "cancel": "An operator canceled the run",
    "freeze": "Tracking was frozen, so the run stops",
    "yield": "A more urgent run needs the host",
}


class Line(NamedTuple):
    """What happened, in words. `mood`: good, problem, failed, undone, waiting; `is_detail`: for a full history only."""

    mood: str
    text: str
    is_detail: bool = False


class Narrator:
    """Tells a run's history: takes its events in their order.

    After the last of them `doing` is what the run does ("" for nothing), and `is_waiting` says whether it sleeps until a check.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._begun: dict[str, Event] = {}
        self._failed = ""
        self.doing = ""
        self.is_waiting = False

    def line(self, event: Event) -> Line | None:
        """Return what an event means; None for one that says nothing to people."""
        step = event.step or ""
        self.is_waiting = event.kind == "waiting"
        if event.kind == "started":
            self._begun[step] = event
            self.doing = self._doing(step)
            return None
        if event.kind == "waiting":
            self.doing = self._waiting(event)
            return Line("waiting", self.doing)
        if event.kind == "signal":
            return Line("problem", SIGNALS.get(step, "The run was asked to stop"))
        if event.kind == "acquired":
            return Line("good", "Acquired the lease on the host", True)
        if event.kind == "continued":
            return Line("good", f"The history starts over after {event.data['events']} events", True)
        if event.kind == "stopped":
            return Line("waiting", "The consumer stopped; the next one resumes here", True)
        return self._ended(event, step)

    def _ended(self, event: Event, step: str) -> Line | None:
        """Tell how an attempt at a step ended."""
        if event.kind not in ("completed", "undone", "failed", "undo_failed", "retrying"):
            return None
        doing, begun = self._doing(step), self._begun.pop(step, None)
        self.doing = ""
        took = event.at - begun.at if begun is not None else 0.0
        after = f" ({duration(took)})" if took >= SHORTEST_SECONDS else ""
        if event.kind in ("failed", "undo_failed"):
            self._failed = str(event.data["reason"])
            return Line("failed", f"{doing} failed: {event.data['reason']}{after}")
        if event.kind == "retrying":
            return Line("waiting", f"{doing} failed: {event.data['reason']}; next attempt at {clock(event.data['at'])}")
        args, kwargs = _call(begun)
        text = sentences.done(step, args, kwargs, event.data.get("result"))
        mood = "undone" if event.kind == "undone" else "problem" if isinstance(text, Problem) else "good"
        after = "" if "t3flow " in text else after  # a command to run stays the end of its line
        return Line(mood, f"{text}{after}", isinstance(text, Detail) and event.kind == "completed")

    def _doing(self, step: str) -> str:
        return sentences.doing(step, *_call(self._begun.get(step)))

    def _waiting(self, event: Event) -> str:
        cause = str(event.data["waiting_for"])
        if self._failed and cause.startswith(self._failed):  # which the line before has told
            cause = cause[len(self._failed) :].lstrip("; ")
        given = {**self._run.args, "problem": cause}
        doing = sentences.doing(str(event.step), (), given)
        return doing if cause in doing else f"{doing}: {waits_for(cause)}"


def _call(begun: Event | None) -> tuple[list[object], dict[str, object]]:
    """Return the arguments that a step began with; none if the journal no longer has its start."""
    return (begun.data.get("args") or [], begun.data.get("kwargs") or {}) if begun is not None else ([], {})


def activity(journal: Journal, run: Run, *, is_alive: bool = True) -> str:
    """Return what a run does or waits for now, in a sentence; "" for one that has ended. `is_alive`: a consumer is running."""
    if run.status != "running":
        return ""
    doing = _activity(journal, run)
    return doing if is_alive else f"Interrupted until a consumer is running: {doing}"


def _activity(journal: Journal, run: Run) -> str:
    if run.revoked:
        return f"Waiting: {waits_for(run.revoked)}"
    if run.wake_at is None:
        return f"Waiting for {holder(journal)} to release the host"
    for event in last_events(journal, run.id):
        narrator = Narrator(run)
        narrator.line(event)
        if event.kind == "started" and run.claim:
            took = time.time() - event.at
            return f"{narrator.doing} ({duration(took)})" if took >= LONG_SECONDS else narrator.doing
        if event.kind == "waiting":
            return f"{narrator.doing}; next check {ahead(run.wake_at)}"
    if run.claim:
        return "Working"
    return f"Resumes {ahead(run.wake_at)}"


def last_events(journal: Journal, run: str) -> list[Event]:
    """Return the newest event of a run in a list; [] for none."""
    rows = journal.query("select max(seq) from events where run = ?", run)
    return journal.events(run, int(rows[0][0]) - 1) if rows and rows[0][0] else []


def holder(journal: Journal) -> str:
    """Return the run that has the host, or what stands for it."""
    rows = journal.query("select run from locks")
    return str(rows[0][0]) if rows else "another run"


def verdicts_of(event: Event) -> list[dict[str, Any]]:
    """Return the verdicts that a step of the gate gave; [] for other steps."""
    found = event.data.get("result") if event.kind == "completed" else None
    listed = found if isinstance(found, list) else [found]
    return [each for each in listed if isinstance(each, dict) and "verdict" in each]


def asked_for(run: Run) -> str:
    """Return what a run was asked for, as the end of a sentence; "" for nothing in particular."""
    parts = []
    for key, value in run.args.items():
        name = key.replace("_", " ")
        if key == "due":
            parts += [f"scheduled for {clock(value)}"] if value else []
        elif value is True:
            parts.append(name)
        elif value:
            parts.append(f"{name} {names(value) if isinstance(value, list) else short_backup(str(value))}")
    return f"; {', '.join(parts)}" if parts else ""


class RunWords(Words):
    """Words for the consumer's log and for reasons: those of the catalogue."""

    def __init__(self) -> None:
        self._narrators: dict[str, Narrator] = {}

    def doing(self, step: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Return what a step does."""
        return sentences.doing(step, args, dict(kwargs))

    def clean(self, text: str) -> str:
        """Return a reason without secrets."""
        return hide(text)

    def happened(self, run: Run, event: Event) -> str:
        """Return what an event means; a run is forgotten with its end."""
        if event.kind == "ended":
            self._narrators.pop(run.id, None)
            return ""
        line = self._narrators.setdefault(run.id, Narrator(run)).line(event)
        return line.text if line is not None and event.kind != "waiting" else ""


NO_ASKERS: Mapping[str, str] = MappingProxyType({})


def summary(run: Run, askers: Mapping[str, str] = NO_ASKERS) -> documents.RunSummary:
    """Return a run as `runs --json` lists it. `askers`: run → who asked for it, as `state.actions.askers` returns them."""
    return documents.RunSummary(
        run=run.id,
        workflow=run.workflow,
        args=run.args,
        asked_by=askers.get(run.id),
        status=cast(Any, run.status),
        outcome=run.outcome,
        reason=run.result.get("reason", ""),
        created=rfc3339(run.created),
        updated=rfc3339(run.updated),
    )


def history(run: Run, events: Sequence[Event], askers: Mapping[str, str] = NO_ASKERS) -> documents.RunHistory:
    """Return a run with its events as `show RUN --json` prints it."""
    shown = [
        documents.Event(seq=e.seq, at=rfc3339(e.at), kind=e.kind, step=e.step, attempt=e.attempt, data=e.data)
        for e in events
    ]
    return documents.RunHistory(schema=documents.SCHEMA, **summary(run, askers), events=shown)


def result(run: Run) -> documents.RunResult:
    """Return how a run ended, or stands, as `--wait --json` prints it."""
    found = run.result
    return {
        "schema": documents.SCHEMA,
        "run": run.id,
        "workflow": "drain" if run.workflow == "drain_now" else run.workflow,
        "status": cast(Any, run.status),
        "outcome": run.outcome,
        "from": found.get("from"),
        "target": found.get("target"),
        "reason": found.get("reason", ""),
        "users": found.get("users", {}),
        "notices": found.get("notices", []),
    }
