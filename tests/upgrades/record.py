"""Record states of hosts for test_upgrades_of_t3flow.py: an earlier t3flow works on a sandbox and is killed.

Usage, with the project's Python, for each COMMIT that is checked out in FOLDER (git worktree add --detach FOLDER COMMIT):

    python -m t3flow.sandbox.enter python tests/upgrades/record.py COMMIT FOLDER

The consumer and all commands are the earlier program; registry, servers, and dispatch are the present sandbox. It writes three archives to
tests/data/journals: sqlite and redis, killed in the gate of a bump with a deferral pending, and frozen, with deferrals revoked.
"""

import json
import os
import shutil
import signal
import sqlite3
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import psutil  # noqa: E402
from conftest import LEVEL30, RedisServer  # noqa: E402
from redis import Redis  # noqa: E402
from states import BAD, BEHAVIORS, FIRST, KEY, LATER, NEXT, STATES, USERS, dump_redis, pack, top_of  # noqa: E402

from t3flow.sandbox.host import Sandbox  # noqa: E402

KINDS = ("sqlite", "redis", "frozen")


def record(commit: str, folder: Path, kind: str) -> None:
    """Record one state."""
    top = top_of(commit, kind)
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir(mode=0o755)
    server = RedisServer() if kind == "redis" else None
    box = Sandbox(top, USERS, queue_url=server.url if server else "")
    try:
        box.start(FIRST, dict.fromkeys(USERS, LEVEL30), BEHAVIORS[FIRST])
        for path in (top / "state").glob("journal.db*"):
            path.unlink()  # the earlier program creates its own
        (top / "state" / "queue.key").write_bytes(KEY)
        (top / "state" / "queue.key").chmod(0o600)
        box.environment["PYTHONPATH"] = str(folder)
        if "retry_s" in box.t3flow("config", "check", str(box.config)).stdout:  # a key that the earlier program lacks
            box.config.write_text(box.config.read_text().replace("retry_s = 0\n", ""))
        box.start_consumer()
        found = play(box, kind)
        if server:
            found["redis"] = dump_redis(Redis.from_url(server.url))
        (top / "recorded.json").write_text(json.dumps({"commit": commit, "kind": kind, **found}, indent=1))
    finally:
        box.close()
        end_all(top)
        if server:
            server.close()
    for path in (top / "state").glob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("pragma wal_checkpoint(truncate)")
    STATES.mkdir(exist_ok=True)
    archive = STATES / f"{commit}-{kind}.tar.xz"
    pack(top, archive)
    print(archive, archive.stat().st_size, json.dumps({key: found[key] for key in found if key != "redis"}), flush=True)
    shutil.rmtree(top)


def play(box: Sandbox, kind: str) -> dict[str, Any]:
    """Bring the host into the state: one version accepted, one rejected, one user deferred, one held, and a run in flight. Return what is to be found."""
    turn = box.control("grace", "turn/start", agent="claude")["turn"]
    box.publish(NEXT, BEHAVIORS[NEXT])
    assert wait(box, box.document("enqueue", "bump")["run"]) == "updated"
    box.publish(BAD, BEHAVIORS[BAD])
    assert wait(box, box.document("enqueue", "bump")["run"]) == "gate_failed"
    is_held = box.t3flow("hold", "linus", "--reason", "a demo").returncode == 0
    run = ""
    if kind == "frozen":
        assert box.t3flow("freeze", "--reason", "a holiday").returncode == 0
        box.until(lambda: box.document("deferrals")[0]["waiting_for"] in ("frozen", "held"), "the deferral is revoked")
    else:
        box.publish(LATER, BEHAVIORS[LATER])
        run = box.document("enqueue", "bump")["run"]
        box.until(lambda: steps(box, run) & {"run_trials", "try_on"}, "the gate has begun", 240)
    box.kill("consumer")
    end_all(box.top, "t3flow consumer", "cell")
    box.control("grace", "turn/end", turn=turn)
    with closing(sqlite3.connect(box.top / "state" / "journal.db")) as connection:
        named = connection.execute("select value from facts where key = 'consumer'").fetchone()
    queue = json.loads(named[0]).get("queue_name", "t3flow") if named else "t3flow"
    return {"run": run, "is_held": is_held, "queue": queue, "at": time.time()}


def steps(box: Sandbox, run: str) -> set[str]:
    """Return the names of a run's steps so far."""
    return {event["step"] for event in box.document("show", run)["events"]}


def wait(box: Sandbox, run: str) -> str:
    """Wait until a run has ended, and return its outcome."""
    box.until(lambda: box.has_ended(run), f"{run} ends", 240)
    outcome: str = box.document("show", run)["outcome"]
    return outcome


def end_all(top: Path, *words: str) -> None:
    """Kill the processes whose command names the folder, or those of them that have one of the words."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(top) in line and process.pid != os.getpid() and (not words or any(word in line for word in words)):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    earlier = Path(sys.argv[2]).resolve()
    os.chdir("/")  # python -m looks in the present folder first
    for each in sys.argv[3:] or KINDS:
        record(sys.argv[1], earlier, each)
