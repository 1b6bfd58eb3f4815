"""usage: deferrals.py [USERS [SECONDS]]: cost and lateness of many pending deferrals, spread over an hour and all due in one second.

50 users have a server process each; databases, ports and their reading are real. Each check must find a running turn: with any other result the
benchmark measures nothing and exits with it.
"""

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
from common import arguments, sized, waiting
from sandboxed import LEVEL30, go_inside, sandbox

from t3flow.engine.runs import new_run
from t3flow.host import slots
from t3flow.host.records import deferral_records, facts
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import create_state_dir, open_journal

USERS, WATCH_SECONDS, SPREAD_SECONDS = sized((1000, 120.0, 3600.0), (10, 10.0, 20.0))
DEFAULT, TARGET = "0.0.24", "0.0.25-nightly.1"
START_SECONDS, SETTLE_SECONDS = sized((20.0, 15.0), (5.0, 1.0))
"""The first check is due so long after all is set up, and the consumer is measured from so long after its start."""
PATIENCE_SECONDS, A_CHECK_SECONDS = 60.0, 2.0
"""How long to wait for checks, and how much longer for each of them: more than a loaded machine needs."""
A_PROCESS, FIRST_PORT = 50, 20000
SERVERS = Path(__file__).with_name("_servers.py")


def start_servers(box: Sandbox, users: list[str], stack: ExitStack) -> dict[str, dict[str, object]]:
    """Start the servers from a slot like the launcher, and return the supervisor's description of each."""
    program = slots.slot_path(box.settings.paths.versions_dir, DEFAULT).resolve() / SERVERS.name
    shutil.copyfile(SERVERS, program)
    said: dict[str, dict[str, object]] = {}
    for first in range(0, len(users), A_PROCESS):
        some = users[first : first + A_PROCESS]
        words = [
            sys.executable,
            "-I",
            str(program),
            str(FIRST_PORT + first),
            *(str(box.database(user)) for user in some),
        ]
        server = subprocess.Popen(words, stdout=subprocess.PIPE)
        stack.callback(server.wait)
        stack.callback(server.kill)
        assert server.stdout is not None
        if server.stdout.readline() != b"ready\n":
            raise SystemExit("the stand-in servers do not start")
        for number, user in enumerate(some):
            (box.top / "etc/t3-serve" / f"{user}.env").write_text(f"T3_PORT={FIRST_PORT + first + number}\n")
            state = {"user": user, "state": "active", "main_pid": server.pid, "started_wall": time.time()}
            said[user] = {**state, "exit": None, "starts": 1, "pids": [server.pid]}
    return said


def supervisor(path: Path, said: dict[str, dict[str, object]]) -> None:
    """Answer like the sandbox's supervisor, for users whose servers always run."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection, connection.makefile() as lines:
                asked = json.loads(lines.readline())
                if asked["do"] == "list":
                    answer: dict[str, object] = {"ok": True, "servers": list(said.values())}
                elif asked["do"] == "status" and asked["user"] in said:
                    answer = {"ok": True, **said[asked["user"]]}
                else:
                    answer = {"ok": False, "error": f"nothing but to look, not {asked}"}
                connection.sendall(json.dumps(answer).encode() + b"\n")

    threading.Thread(target=serve, daemon=True).start()


def prepare(box: Sandbox, users: list[str]) -> None:
    """Create two slots, an assignment of each user, and the files that the servers open."""
    versions_dir = box.settings.paths.versions_dir
    for version in (DEFAULT, TARGET):
        slot = slots.slot_path(versions_dir, version)
        slot.mkdir(parents=True)
        (slot / slots.MANIFEST).write_text(json.dumps({"version": version}))
    slots.set_default(versions_dir, DEFAULT)
    for user in users:
        slots.assign(versions_dir, user, DEFAULT)
        box.database(user).parent.mkdir()
        box.database(user).touch()


def fill(box: Sandbox, users: list[str]) -> None:
    """Give each user a running turn, which begins after the start of the server, and a deferral. The checks are spread over an hour from soon on."""
    create_state_dir(box.settings.paths.state_dir)
    journal = open_journal(box.settings, create=True)
    seed = box.top / "seed.sqlite"
    shutil.copyfile(LEVEL30, seed)
    with closing(sqlite3.connect(seed)) as connection, connection:
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        connection.execute("update projection_thread_sessions set active_turn_id = 'turn', updated_at = ?", (now,))
    # With other settings than the last consumer's, the consumer would check all deferrals when it starts.
    facts.write(journal, "deferral_rules", box.settings.deferral._asdict())
    for user in users:
        shutil.copyfile(seed, box.database(user))  # into the file that the server has open
        run = new_run(journal, "drain", {"user": user})
        assert run is not None
        deferral_records.put_deferral(journal, user, run, TARGET, "quiet_period", time.time())
    began = time.time() + START_SECONDS
    with journal.transaction() as connection:
        for number, user in enumerate(users):
            due = began + SPREAD_SECONDS * number / len(users)
            connection.execute("update deferrals set next_check = ? where user = ?", (due, user))
            connection.execute(
                "update runs set wake_at = ? where id = (select run from deferrals where user = ?)", (due, user)
            )


def lateness(box: Sandbox, due: dict[str, float]) -> list[float]:
    """Return the lateness of each user's check that was due then. Exit if a check is missing or wrong."""
    with waiting(f"the checks of {len(due)} users"):
        return _lateness(box, due, PATIENCE_SECONDS + A_CHECK_SECONDS * len(due))


def _lateness(box: Sandbox, due: dict[str, float], seconds: float) -> list[float]:
    deadline = time.time() + seconds
    late: dict[str, float] = {}
    while len(late) < len(due) and time.time() < deadline:
        for user, at in box.journal.query(
            "select deferrals.user, at from deferrals join events on events.run = deferrals.run and kind = 'waiting'"
        ):
            if user in due and at >= due[user]:
                late[user] = min(late.get(user, float("inf")), at - due[user])
        time.sleep(1)
    found = Counter(
        f"{each.waiting_for}: {each.detail}" for each in deferral_records.deferrals(box.journal) if each.user in late
    )
    if wrong := {line: count for line, count in found.items() if not line.startswith("active_turn:")}:
        raise SystemExit(f"{sum(wrong.values())} of {len(late)} checks did not find the turn that runs: {wrong}")
    if len(late) < len(due):
        raise SystemExit(f"{len(due) - len(late)} of {len(due)} users were not checked within {seconds:.0f} s")
    return sorted(late.values())


def watched(box: Sandbox, users: int, watch_seconds: float) -> float:
    """Sample the first minutes of the hour. Return how long the consumer took to start."""
    started = time.monotonic()
    consumer = psutil.Process(box.start_consumer().pid)
    start_seconds = time.monotonic() - started
    time.sleep(SETTLE_SECONDS)
    before, began = consumer.cpu_times(), time.time()
    soon = began + watch_seconds - 5
    due = {
        each.user: each.next_check for each in deferral_records.deferrals(box.journal) if (each.next_check or 0) < soon
    }
    time.sleep(watch_seconds)
    spent, seconds = consumer.cpu_times(), time.time() - began
    own = spent.user + spent.system - before.user - before.system
    readers = spent.children_user + spent.children_system - before.children_user - before.children_system
    if not due:
        raise SystemExit(f"nothing was due within {watch_seconds:.0f} s: there is nothing to measure")
    late = lateness(box, due)
    print(f"{users} deferrals over an hour, watched for {seconds:.0f} s, {len(due)} due and checked:")
    memory = consumer.memory_info().rss / 1e6
    print(f"  consumer {own / seconds:.2%} of one core, its readers {readers / seconds:.2%}; {memory:.0f} MB")
    print(f"  p50 {late[len(late) // 2]:.2f} s, latest {late[-1]:.2f} s after the due time")
    print(
        f"  a check takes {(own + readers) / len(due) * 1000:.0f} ms of a processor, all that the consumer does beside it included"
    )
    return start_seconds


def burst(box: Sandbox, users: list[str], start_seconds: float) -> None:
    """Make all of these due in one second, once the consumer has started again."""
    box.kill("consumer")
    at = time.time() + 3 + 2 * start_seconds
    with box.journal.transaction() as connection:
        for user in users:
            connection.execute(
                "update runs set wake_at = ?, message = null where id = (select run from deferrals where user = ?)",
                (at, user),
            )
    box.start_consumer()
    late = lateness(box, dict.fromkeys(users, at))
    print(
        f"{len(users)} due in one second: the last was checked {late[-1]:.1f} s later, half within {late[len(late) // 2]:.1f} s"
    )


def main() -> None:
    """Measure a sample of the hour, then the burst."""
    count = int(arguments()[0]) if arguments() else USERS
    watch_seconds = float(arguments()[1]) if len(arguments()) > 1 else WATCH_SECONDS
    users = [f"user{number:04}" for number in range(count)]
    with sandbox(users, quiet_seconds=900) as box, ExitStack() as stack:
        box.config.write_text(box.config.read_text().replace("max_check_interval_s = 5", "max_check_interval_s = 3600"))
        prepare(box, users)
        supervisor(box.top / "etc/t3-serve/supervisor.sock", start_servers(box, users, stack))
        fill(box, users)
        start_seconds = watched(box, count, watch_seconds)
        burst(box, users[-count // 5 :], start_seconds)


if __name__ == "__main__":
    go_inside()
    sys.exit(main())
