"""The engine at 300 users: CPU for each event, one replay, and the syncs for each restarted user.

The first part runs a workflow of a bump's shape whose steps do nothing, so it measures the engine alone. The second part counts the syncs of a real
bump in the sandbox under strace: of the journal's log, and of all files.
"""

import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import show, sized
from loguru import logger
from sandboxed import LEVEL30, go_inside, sandbox

from t3flow.engine.engine import Engine
from t3flow.engine.flow import Flow, current_flow
from t3flow.engine.journal import Journal
from t3flow.engine.queue import open_queue
from t3flow.engine.runs import HOST_LEASE, Outcome, new_run
from t3flow.engine.step import current_executor, step
from t3flow.sandbox.folders import temporary_folder

USERS, RESTARTED, ROUNDS = sized((300, 6, 3), (30, 1, 1))
REPLAYED_EVENTS, MOST_REPLAY_SECONDS = sized(10_000, 1000), 0.3
READS, RESTART_STEPS = 5, 22
"""Steps for each user before the restarts (backup, trial) and in their restart, including those of a drain: 15,000 events in all."""
RESULT = {
    "user": "ada",
    "path": "/var/backups/t3-state/ada/" + "x" * 80,
    "fingerprint": {"state.sqlite": "0" * 64},
    "files": ["x" * 40] * 3,
}


@step()
def bench_undo(user: str, number: int) -> None:
    """Undo a change."""


@step()
def bench_read(user: str, number: int) -> dict[str, Any]:
    """Return what a snapshot step returns."""
    return RESULT


@step(undo=bench_undo)
def bench_change(user: str, number: int) -> dict[str, Any]:
    """Stand for a step with an undo."""
    return RESULT


def bench_bump(users: int) -> Outcome:
    """Back up, try, and restart so many users, one after the other."""
    flow: Flow = current_flow()
    with flow.lease(HOST_LEASE), flow.saga():
        for user in range(users):
            for number in range(READS - 1):
                bench_read(f"user{user}", number)
        for user in range(users):
            bench_read(f"user{user}", READS)
            with flow.shielded(), flow.saga():
                for number in range(RESTART_STEPS - 3):
                    (bench_change if number in (3, 9) else bench_read)(f"user{user}", number)
    return Outcome("done")


def bench_loop(steps: int) -> Outcome:
    """Call one step many times."""
    for number in range(steps):
        bench_read("ada", number)
    return Outcome("done")


def cpu(work: Callable[[], object]) -> float:
    """Return the seconds of CPU that a call takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def measure_engine(top: Path) -> None:
    """Measure a run of 300 users, and its replay up to the end."""
    engine = Engine(
        Journal(top / "journal.db", create=True),
        open_queue(f"sqlite://{top}/queue.db", b"k" * 32),
        {"bench_bump": bench_bump, "bench_loop": bench_loop},
    )
    bare = sqlite3.connect(top / "bare.db", isolation_level=None)
    bare.execute("pragma journal_mode = wal")
    bare.execute("create table events (run, seq, data)")
    engine.journal._local.FULL = engine.journal._connection("NORMAL")  # unsynced: this part measures CPU only
    events, references, took, replays = [], [], [], []
    for users in (USERS // 10, USERS):
        run_id = new_run(engine.journal, "bench_bump", {"users": users})
        assert run_id is not None
        took.append(cpu(lambda run_id=run_id: engine.advance(run_id)))
        assert engine.journal.run(run_id).outcome == "done"
        events.append(engine.journal.query("select count(*) from events where run = ?", run_id)[0][0])

        def insert() -> None:
            for number in range(events[-1]):
                bare.execute("insert into events values ('run', ?, ?)", (number, "x" * 300))

        references.append(cpu(insert))

        def replay(run_id: str = run_id) -> None:
            with engine.journal.transaction() as connection:
                connection.execute("delete from events where run = ? and kind in ('ended', 'released')", (run_id,))
                connection.execute("update runs set status = 'running', wake_at = 0 where id = ?", (run_id,))
                connection.execute("insert or ignore into locks values (?, ?, 0)", (HOST_LEASE, run_id))
            engine.advance(run_id)
            assert engine.journal.run(run_id).outcome == "done"

        replays.append(min(cpu(replay) for _ in range(ROUNDS)))
    for number, users in enumerate((USERS // 10, USERS)):
        name = f"{users} users, {events[number]} events"
        show(f"{name}: bare SQLite commit", [references[number] / events[number]])
        show(
            f"{name}: engine, each event",
            [took[number] / events[number]],
            "bare commit",
            [references[number] / events[number]],
        )
        show(f"{name}: engine, total", [took[number]])
        show(f"{name}: one replay", [replays[number]], "engine, total", [took[number]])
    print(
        f"each event of {events[1]} costs {took[1] / events[1] / (took[0] / events[0]):.2f} × one of {events[0]}",
        flush=True,
    )
    measure_replay(engine)


def measure_replay(engine: Engine) -> None:
    """Measure the replay of a run that is at its last step: read the history, and call the workflow up to there."""
    steps = REPLAYED_EVENTS // 2
    run_id = new_run(engine.journal, "bench_loop", {"steps": steps})
    assert run_id is not None
    engine.advance(run_id)
    with engine.journal.transaction() as connection:
        connection.execute("update runs set status = 'running', wake_at = 0 where id = ?", (run_id,))
        connection.execute("delete from events where run = ? and kind = 'ended'", (run_id,))
    run = engine.journal.run(run_id)

    def replay() -> None:
        flow = Flow(engine.journal, run, lambda run: None, lambda run, event: None)
        token = current_executor.set(flow)
        try:
            bench_loop(steps)
        finally:
            current_executor.reset(token)
        assert flow.history.is_exhausted

    read = [cpu(lambda: engine.journal.events(run_id)) for _ in range(ROUNDS)]
    name = f"a run of {len(engine.journal.events(run_id))} events"
    taken = [cpu(replay) for _ in range(ROUNDS)]
    show(f"{name}: reading it", read)
    show(f"{name}: replay, reading included", taken, "reading", read)
    if sized(True, False) and min(taken) > MOST_REPLAY_SECONDS:
        raise SystemExit(f"the replay took {min(taken):.2f} s of a processor, more than {MOST_REPLAY_SECONDS} s")


SYNC = re.compile(r"^\d+ +(?P<at>\d+\.\d+) (?P<call>fsync|fdatasync|syncfs|sync_file_range)\(\d+<(?P<path>[^>]*)>")


def count_syncs() -> None:
    """Count the syncs of a bump of idle users in the sandbox, from the first stop to the last verification."""
    users = [f"user{number}" for number in range(RESTARTED)]
    with sandbox(users, quiet_seconds=0) as box:
        trace = box.top / "syncs"
        box.prefix = [
            "strace",
            "-f",
            "-ttt",
            "-y",
            "-qq",
            "-e",
            "trace=fsync,fdatasync,syncfs,sync_file_range",
            "-e",
            "signal=none",
            "-o",
            str(trace),
        ]
        box.start("0.0.24", dict.fromkeys(users, LEVEL30), {"schema_level": 30})
        box.start_consumer()
        box.publish("0.0.25-nightly.20260609.1", {"schema_level": 30})
        said = box.document("enqueue", "bump", "--wait")
        assert said["outcome"] == "updated", said
        assert all(found["result"] == "restarted" for found in said["users"].values()), said
        history = box.journal.events(said["run"])
        began = min(event.at for event in history if event.kind == "started" and event.step == "stop_if_idle")
        ended = max(event.at for event in history if event.kind == "completed" and event.step == "verify_user")
        calls = [match for line in trace.read_text(errors="replace").splitlines() if (match := SYNC.match(line))]
        for part, first, last in (("restarts", began, ended), ("whole bump", history[0].at, history[-1].at)):
            within = [match for match in calls if first < float(match["at"]) < last]
            of_journal = sum("journal.db" in match["path"] for match in within)
            print(
                f"{RESTARTED} users, {part}, for each user: {of_journal / RESTARTED:.1f} syncs of the journal, "
                f"{(len(within) - of_journal) / RESTARTED:.1f} of other files and folders, {len(within) / RESTARTED:.1f} total",
                flush=True,
            )


def main() -> None:
    """Run both parts."""
    logger.remove()
    with temporary_folder("t3flow-bench-", Path("/var/tmp")) as folder:
        measure_engine(folder)
    if shutil.which("strace") is None:
        print("strace is not installed, so syncs are not counted")
        return
    count_syncs()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    go_inside()
    main()
