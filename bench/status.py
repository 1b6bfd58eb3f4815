"""Duration of `t3flow status` with 300 users, of whom 270 are deferred, and 10,000 past runs, every tenth of which moved users; beside a bare Python.

Then the consumer's share of a core and its memory while it does nothing but wait with these deferrals.

The servers are a cheap stand-in; the journal and the processes are real, and only the journal's length is artificial.
"""

import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import psutil
from common import median_seconds, show, sized, waiting
from sandboxed import go_inside, sandbox
from users import AFTER, NIGHT_SECONDS, start

from t3flow.sandbox.host import Sandbox

USERS, MOVED, RUNS, TIMES, REST_SECONDS = sized((300, 30, 10_000, 20, 60), (4, 2, 50, 3, 2))


def remember(box: Sandbox, small: str, big: str, runs: int) -> None:
    """Copy two runs under new names into the journal, until it has so many."""
    with closing(sqlite3.connect(box.settings.paths.state_dir / "journal.db")) as connection, connection:
        for number in range(runs - 2):
            source, copy = (big if number % 10 == 0 else small), f"past-{number:05}"
            for table, key in (("runs", "id"), ("events", "run")):
                names = [row[1] for row in connection.execute(f"pragma table_info({table})")]
                others = ", ".join(name for name in names if name != key)
                copied = f"insert into {table} ({key}, {others}) select ?, {others} from {table} where {key} = ?"
                connection.execute(copied, (copy, source))


def measure_rest(consumer: psutil.Process) -> None:
    """Print what the consumer costs while no run can go on."""
    before, began = consumer.cpu_times(), time.monotonic()
    time.sleep(REST_SECONDS)
    after, seconds = consumer.cpu_times(), time.monotonic() - began
    spent = after.user + after.system + after.children_user + after.children_system
    spent -= before.user + before.system + before.children_user + before.children_system
    share, megabytes = 100 * spent / seconds, consumer.memory_info().rss / 2**20
    print(f"the consumer with {USERS - MOVED} deferrals: {share:.2f} % of a core, {megabytes:.0f} MB", flush=True)


def main() -> None:
    """Measure."""
    users = [f"user{number:03}" for number in range(USERS)]
    with sandbox(users, quiet_seconds=0) as box:
        box.environment["T3FLOW_DEFERRAL__MAX_CHECK_INTERVAL_S"] = (
            "1200"  # the default; a sandbox asks every few seconds
        )
        with waiting(f"the servers of {USERS} users start"):
            start(box)
        box.publish(AFTER, {"schema_level": 30})
        without = [word for user in users[MOVED:] for word in ("--without", user)]
        with waiting(f"a bump moves {MOVED} users"):
            big = box.document("enqueue", "bump", "--wait", *without, timeout_seconds=NIGHT_SECONDS)
        assert big["outcome"] == "updated", big
        small = box.document("enqueue", "bump", "--wait", *without, timeout_seconds=NIGHT_SECONDS)
        assert small["outcome"] == "up_to_date", small
        with waiting(f"{RUNS} runs are remembered"):
            remember(box, small["run"], big["run"], RUNS)
        assert len(box.document("runs", "--limit", str(2 * RUNS))) >= RUNS
        bare = median_seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True), TIMES)
        show("bare start of the interpreter", bare)
        for words in (["--version"], ["status"], ["status", "--json"], ["runs"]):
            taken = median_seconds(lambda words=words: box.t3flow(*words), TIMES)
            show(f"t3flow {' '.join(words)}", taken, "bare start", bare)
        box.until(
            lambda: not box.journal.query("select 1 from news limit 1"), "the consumer has seen all runs", NIGHT_SECONDS
        )
        measure_rest(psutil.Process(box.processes["consumer"].pid))


if __name__ == "__main__":
    go_inside()
    main()
