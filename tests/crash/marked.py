"""The consumer with one worker, which tells the tracer where it is: a mark when a step begins and another when it has ended.

T3CRASH_FREEZE_AFTER names a step; once it has ended in a run, T3CRASH_FREEZE_FILE is made.
"""

import os
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from tracer import MARK_DESCRIPTOR

from t3flow import consumer
from t3flow.cli import main
from t3flow.engine.flow import Flow

counted: Counter[str] = Counter()
perform = Flow._perform


def mark(text: str) -> None:
    """A write that only the tracer sees."""
    with suppress(OSError):
        os.write(MARK_DESCRIPTOR, text.encode())


def marked(flow: Flow, step: Any, *rest: Any) -> Any:
    """A step with a mark before and behind it. A step's name is followed by how often it was begun in this process."""
    freeze_when_due(flow)
    counted[step.name] += 1
    name = f"{flow.run.workflow} {step.name}.{counted[step.name]}"
    mark(name)
    try:
        return perform(flow, step, *rest)
    finally:
        mark(f"after {name}")


def freeze_when_due(flow: Flow) -> None:
    """Freezes as a person would, once a run, before what follows the step of the scenario."""
    after = os.environ.get("T3CRASH_FREEZE_AFTER")
    if (
        after
        and flow.run.workflow == "bump"
        and any(event.kind == "completed" and event.step == after for event in flow.events)
    ):
        freeze_file = Path(os.environ["T3CRASH_FREEZE_FILE"])
        with suppress(FileExistsError):
            freeze_file.with_name(f"{flow.run.id}.frozen").touch(exist_ok=False)
            freeze_file.touch()


consumer.WORKERS = 1
Flow._perform = marked  # type: ignore[method-assign]
sys.argv = ["t3flow", "consumer"]
main()
