"""The words of the engine's log lines and reasons. The program that owns the steps passes words for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from t3flow.engine.journal import Event, Run


class Words:
    """The engine's default words, which name the step."""

    def doing(self, step: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Return what a step does, such as "Backing up ada"."""
        return f"Step {step}"

    def clean(self, text: str) -> str:
        """Return a reason as it is journaled and logged, such as without secrets in it."""
        return text

    def happened(self, run: Run, event: Event) -> str:
        """Return what an event means; "" for one that is not logged. Called with the events of a run in order."""
        if event.kind in ("failed", "undo_failed"):
            return f"{event.step} failed: {event.data['reason']}"
        return f"{event.kind} {event.step}" if event.kind in ("completed", "undone", "signal", "retrying") else ""
