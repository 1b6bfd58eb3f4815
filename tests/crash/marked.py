"""The consumer with one worker, which marks the begin and end of each step for the tracer.

Variables simulate an operator or a fault at a moment of a bump or an adoption, at most once in each run:
T3CRASH_FREEZE_AFTER: after this step, T3CRASH_FREEZE_FILE is created. T3CRASH_CANCEL_AT: the run is cancelled before the step of this number.
T3CRASH_CANCEL_AFTER: the run is cancelled after this step. T3CRASH_DIE_IN: this step kills the consumer each time.
"""

import os
import signal
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from tracer import MARK_DESCRIPTOR

from t3flow.cli import main
from t3flow.engine.files import write_atomically
from t3flow.engine.flow import Flow
from t3flow.engine.runs import send_signal
from t3flow.engine.step import STEPS
from t3flow.service import consumer

counted: Counter[str] = Counter()
perform = Flow._perform


def mark(text: str) -> None:
    """Write a mark that only the tracer sees."""
    with suppress(OSError):
        os.write(MARK_DESCRIPTOR, text.encode())


def marked(flow: Flow, step: Any, *rest: Any) -> Any:
    """Perform a step between two marks, which contain its name and how often it began in this process."""
    interfere(flow)
    counted[step.name] += 1
    name = f"{flow.run.workflow} {step.name}.{counted[step.name]}"
    mark(name)
    try:
        return perform(flow, step, *rest)
    finally:
        mark(f"after {name}")


def interfere(flow: Flow) -> None:
    """Freeze or cancel a run if its moment has come."""
    if flow.run.workflow not in ("bump", "adopt"):
        return
    ended = [event.step for event in flow.events if event.kind == "completed"]
    after = os.environ.get("T3CRASH_FREEZE_AFTER")
    done = flow.journal.path.parent / f"{flow.run.id}.done"
    if done.exists():
        return
    if after in ended:
        write_atomically(Path(os.environ["T3CRASH_FREEZE_FILE"]), "")
        done.touch()
    at = len(ended) + 1 == int(os.environ.get("T3CRASH_CANCEL_AT") or 0)
    if at or os.environ.get("T3CRASH_CANCEL_AFTER") in ended:
        send_signal(flow.journal, flow.run.id, "cancel")
        done.touch()


def die() -> None:
    """Die like a step that the kernel kills for its memory use."""
    os.kill(os.getpid(), signal.SIGKILL)


if "T3CRASH_DIE_IN" in os.environ:
    STEPS[os.environ["T3CRASH_DIE_IN"]].function = lambda *arguments, **more: die()
consumer.WORKERS = 1
Flow._perform = marked  # type: ignore[method-assign]
sys.argv = ["t3flow", "consumer"]
main()
