"""usage: notifier.py CONFIG: ends a run and sends its message, killed before its first statement that writes, then another before the second, and so on.

Each is played in a process of its own. After a kill, another process goes on. Prints the runs as JSON: those that were killed, and the last, which was not.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from t3flow.engine import journal as journal_module
from t3flow.engine.runs import Outcome, end_run, new_run
from t3flow.host.host import open_host
from t3flow.host.records import outbox, tables
from t3flow.service.consumer import open_journal
from t3flow.service.heartbeat import Heartbeats
from t3flow.service.notifications import sender
from t3flow.settings.load import Settings, load

WRITES = ("begin", "insert", "update", "delete", "commit")
sender.POLL_SECONDS = 0.02


def main(config: str) -> None:
    settings = load(Path(config), {})
    in_a_process(lambda: tables.migrate_facts(open_journal(settings, create=True)))
    runs, was_killed = [], True
    while was_killed:
        runs.append(f"rollback-20260101T000000-{len(runs):06x}")
        was_killed = in_a_process(lambda: play(settings, runs[-1], len(runs)))
        if was_killed:
            assert not in_a_process(lambda: play(settings, runs[-1], 0))
    print(json.dumps(runs))


def in_a_process(work: Any) -> bool:
    """Run a function in a forked process; return whether it was killed."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def play(settings: Settings, run: str, statement: int) -> None:
    """End a run, and send what there is, as the consumer does."""
    count = 0

    def trace(text: str) -> None:
        nonlocal count
        if text.lstrip().startswith(WRITES):
            count += 1
            if count == statement:
                os.kill(os.getpid(), signal.SIGKILL)

    class Traced(journal_module._Connection):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self.set_trace_callback(trace)

    journal = open_journal(settings)
    new_run(journal, "rollback", {"users": []}, run_id=run)
    journal_module._Connection = Traced  # type: ignore[misc]
    journal._local = threading.local()
    if journal.run(run).status == "running":
        end_run(journal, journal.run(run), Outcome("error", "nothing works", "failed"))
    stopping = threading.Event()
    thread = threading.Thread(target=sender.Sender(open_host(settings, journal), stopping, Heartbeats()).run)
    thread.start()
    deadline = time.monotonic() + 20
    while (outbox.news(journal) or outbox.waiting(journal)) and time.monotonic() < deadline:
        time.sleep(0.01)
    stopping.set()
    thread.join()


if __name__ == "__main__":
    main(sys.argv[1])
