"""How the engine tells, in its log and in reasons, what a run does. The program that has the steps gives words for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from t3flow.engine.journal import Event, Run


class Words:
    """The engine's own words, which name the step. To be replaced by words for people."""

    def doing(self, step: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Return what a step does, such as "Backing up ada"."""
        return f"Step {step}"

    def happened(self, run: Run, event: Event) -> str:
        """Return what an event means; "" for one that the log need not have. Called with the events of a run in their order."""
        if event.kind in ("failed", "undo_failed"):
            return f"{event.step} failed: {event.data['reason']}"
        return f"{event.kind} {event.step}" if event.kind in ("completed", "undone", "signal", "retrying") else ""
