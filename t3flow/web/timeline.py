"""A run as a timeline: what each step did, when, on which attempt, with the evidence of the gate."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from t3flow.engine.journal import Event, Journal, Run
from t3flow.state.runs import Narrator, verdicts_of
from t3flow.state.wording import judged_on

SIGNS = {"good": "✓", "problem": "!", "failed": "✗", "undone": "↩", "waiting": "…", "doing": "▸"}
"""The sign of each mood, so that none is told by its color alone."""


class Entry(NamedTuple):
    """One line of a timeline. `number`: of its event; `verdicts`: what the gate found, each a sentence with its checks."""

    number: int
    at: float
    mood: str
    text: str
    is_detail: bool
    attempt: int
    verdicts: list[tuple[str, list[dict[str, Any]]]]

    @property
    def sign(self) -> str:
        """Return the sign of its mood."""
        return SIGNS[self.mood]

    @property
    def clock(self) -> str:
        """Return the time of day."""
        return f"{datetime.fromtimestamp(self.at):%H:%M:%S}"

    @property
    def day(self) -> str:
        """Return the day, which is shown where it changes."""
        return f"{datetime.fromtimestamp(self.at):%A %Y-%m-%d}"


def timeline(run: Run, events: Sequence[Event]) -> list[Entry]:
    """Return the history of a run, oldest first."""
    narrator, found = Narrator(run), []
    for event in events:
        if (line := narrator.line(event)) is not None:
            verdicts = [(judged_on(verdict), verdict["checks"]) for verdict in verdicts_of(event)]
            found.append(Entry(event.seq, event.at, line.mood, line.text, line.is_detail, event.attempt or 1, verdicts))
    return found


def latest(journal: Journal, run: Run, most: int) -> list[Entry]:
    """Return the newest lines of a run that matter without its details, oldest first."""
    entries = timeline(run, journal.events(run.id))
    return [entry for entry in entries if not entry.is_detail][-most:]
