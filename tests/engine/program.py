"""A consumer to be killed. Usage: program.py JOURNAL QUEUE_URL TRACE. Its steps write what they do to TRACE."""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huey.consumer import Consumer

from t3flow.engine import flow as flows
from t3flow.engine.engine import Engine
from t3flow.engine.errors import NotYet
from t3flow.engine.flow import Flow, current_flow
from t3flow.engine.journal import Journal
from t3flow.engine.queue import open_queue
from t3flow.engine.runs import HOST_LEASE, Abort, Outcome
from t3flow.engine.step import pause, step

TRACE = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(os.devnull)
IS_EARLIER = "PROGRAM_IS_EARLIER" in os.environ
"""Play the version of the program from before its steps were renamed."""


def trace(text: str) -> None:
    """Write one line in one call."""
    with TRACE.open("a") as file:
        file.write(text + "\n")


def renamed_from(former: str, **more: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator for a step that had a former name, which is its only name in the earlier program."""

    def decorate(function: Callable[..., Any]) -> Any:
        if IS_EARLIER:
            function.__name__ = former
            return step(**more)(function)
        return step(**more, former_names=(former,))(function)

    return decorate


@renamed_from("program_take_away")
def program_unput(number: int) -> None:
    """Undo a put."""
    time.sleep(0.005)
    trace(f"unput {number}")


@renamed_from("program_add", undo=program_unput)
def program_put(number: int) -> int:
    """Write a line. A crash may make it write the line again."""
    time.sleep(0.005)
    trace(f"put {number}")
    return number


@renamed_from("program_ask")
def program_poll(until: float) -> float:
    """Poll until a time."""
    if time.time() < until:
        raise NotYet(time.time() + 0.05, "time")
    return until


@step()
def program_now() -> float:
    """Return the time."""
    return time.time()


@step()
def program_die() -> None:
    """Kill the consumer, as a crash in a library would."""
    trace("die")
    os.kill(os.getpid(), 9)


@step(interruptible=True)
def program_long() -> None:
    """Take long, until interrupted."""
    trace("long")
    pause(30)


def chain(length: int, fail: bool = False) -> Outcome:
    """Put numbers in order, poll in the middle, and fail at the end if told to."""
    flow: Flow = current_flow()
    with flow.lease(HOST_LEASE), flow.saga():
        for number in range(length):
            program_put(number)
            if number == length // 2:
                program_poll(program_now() + 0.1)
        if fail:
            raise Abort(Outcome("failed_as_asked", "", "failed"))
    return Outcome("done")


def deadly() -> Outcome:
    """Run a step that kills its consumer."""
    with current_flow().saga():
        program_put(1)
        program_die()
    return Outcome("done")


def long() -> Outcome:
    """Run a step that takes long."""
    program_long()
    return Outcome("done")


def laps(count: int) -> Outcome:
    """Put numbers in a loop, each in its own saga, and continue as new again and again."""
    flow: Flow = current_flow()
    number = int(flow.carried.get("number", 0))
    while number < count:
        flow.continue_as_new_if_long(number=number)
        with flow.lease(HOST_LEASE), flow.saga():
            number = program_put(number) + 1
    return Outcome("done", str(number))


WORKFLOWS = {"chain": chain, "deadly": deadly, "long": long, "laps": laps}


def main() -> None:
    """Consume until killed."""
    flows.LONG_HISTORY_EVENTS = 12
    engine = Engine(Journal(Path(sys.argv[1]), create=True), open_queue(sys.argv[2], b"k" * 32), WORKFLOWS)
    threading.Thread(target=engine.watch, daemon=True).start()
    threading.Thread(target=engine.watch_queue, daemon=True).start()

    class Worker(Consumer):
        def stop(self, graceful: bool = False) -> None:
            engine.stop()
            super().stop(graceful)

        def start(self) -> None:
            super().start()  # which installs the signal handlers last
            print("ready", flush=True)

    engine.recover()
    Worker(
        engine.queue,
        workers=2,
        initial_delay=0.01,
        max_delay=0.02,
        scheduler_interval=1,
        graceful_signal="TERM",
        periodic=False,
    ).run()


if __name__ == "__main__":
    main()
