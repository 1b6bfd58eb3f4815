"""Record the history of each scenario for test_histories.py.

Usage, with the project's Python:  python -m t3flow.sandbox.enter python tests/histories/record.py > tests/histories/recorded.json

Repeat it after an intended change of the workflows. A run in flight during such an upgrade is undone.
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / name) for name in ("crash", "scenarios", "")]

from plays import attempt  # noqa: E402
from rig import Rig  # noqa: E402

from t3flow.engine.history import digest  # noqa: E402

SCENARIOS = {"good": 0, "alone": 0, "gate": 0, "undo": 0, "freeze": 0, "cancel": 8}
"""Scenario → the number of the step before which it is canceled, or 0."""


def histories(rig: Rig, since: float) -> list[dict[str, Any]]:
    """Return all runs that were created since then and have ended."""
    return [
        {
            "workflow": run.workflow,
            "args": run.args,
            "outcome": run.outcome,
            "result": run.result,
            "events": [[each.kind, each.step, each.attempt, each.data] for each in rig.journal.events(run.id)],
        }
        for run in rig.journal.runs("created > ? and status != 'running'", since)
    ]


def digest_anew(history: dict[str, Any]) -> None:
    """Recompute the digests of calls, because the sandbox's folder in the arguments was replaced."""
    calls: dict[str, str] = {}
    for kind, step, _, data in history["events"]:
        if kind == "started":
            calls[step] = digest(data["args"], data["kwargs"])
        elif "call" in data:
            data["call"] = calls[step]


def main() -> None:
    """Print all histories."""
    recorded = {}
    for name, cancel_at in SCENARIOS.items():
        rig = Rig()
        try:
            found = attempt(rig, name, [], cancel_at=cancel_at)
            assert not found.wrong, found.wrong
            text = json.dumps(histories(rig, 0)).replace(str(rig.box.top), "/sandbox")
            recorded[name] = json.loads(text)
            for history in recorded[name]:
                digest_anew(history)
        finally:
            rig.close()
    print(json.dumps(recorded, indent=1))


if __name__ == "__main__":
    main()
