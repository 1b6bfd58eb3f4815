"""A thousand pending deferrals: what the consumer costs while they wait, and how late each check is; then 200 due in one second.

The servers are one small program that says of each user that they run; databases and the reading of them are real.
"""

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import psutil
from sandboxed import LEVEL30, go_inside, sandbox

from t3flow.consumer import open_journal, prepare
from t3flow.engine.runs import new_run
from t3flow.host import records, slots
from t3flow.sandbox.host import Sandbox

USERS, BURST, SPREAD_SECONDS, WATCH_SECONDS = 1000, 200, 3600.0, 120.0


def supervisor(path: Path, main_pid: int, started: float) -> None:
    """Says of everybody that their server runs."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    answer = json.dumps({"ok": True, "state": "active", "main_pid": main_pid, "started_wall": started}).encode() + b"\n"

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()


def fill(box: Sandbox, users: list[str]) -> None:
    """Everybody has a database with a turn that runs, a slot, and a deferral."""
    prepare(box.settings.paths.state_dir)
    journal = open_journal(box.settings, create=True)
    versions_dir = box.settings.paths.versions_dir
    for version in ("0.0.24", "0.0.25-nightly.1"):
        slot = slots.slot_path(versions_dir, version)
        slot.mkdir(parents=True)
        (slot / slots.MANIFEST).write_text(json.dumps({"version": version}))
    slots.set_default(versions_dir, "0.0.24")
    seed = box.top / "seed.sqlite"
    shutil.copyfile(LEVEL30, seed)
    with closing(sqlite3.connect(seed)) as connection, connection:
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        connection.execute("update projection_thread_sessions set active_turn_id = 'turn', updated_at = ?", (now,))
    began = time.time()
    for number, user in enumerate(users):
        box.database(user).parent.mkdir()
        shutil.copyfile(seed, box.database(user))
        due = began + 20 + SPREAD_SECONDS * number / len(users)
        run = new_run(journal, "drain", {"user": user}, wake_at=due)
        assert run is not None
        records.put_deferral(journal, user, run, "0.0.25-nightly.1", "active_turn", due)
        with journal.transaction(synced=False) as connection:
            connection.execute("update deferrals set next_check = ? where user = ?", (due, user))


def lateness(box: Sandbox, due: dict[str, float], seconds: float) -> list[float]:
    """How late the first check of each of these users was; one without a check counts as late for ever."""
    deadline = time.time() + seconds
    late: dict[str, float] = {}
    while len(late) < len(due) and time.time() < deadline:
        for user, checks, at in box.journal.query(
            "select deferrals.user, checks, at from deferrals join events on events.run = deferrals.run and kind = 'waiting'"
        ):
            if user in due and checks and user not in late:
                late[user] = at - due[user]
        time.sleep(1)
    return sorted(late.get(user, float("inf")) for user in due)


def main() -> None:
    """The hour, sampled; then the burst."""
    users = [f"user{number:04}" for number in range(USERS)]
    with sandbox(users, quiet_seconds=900) as box:
        box.config.write_text(box.config.read_text().replace("max_check_interval_s = 5", "max_check_interval_s = 3600"))
        server = subprocess.Popen(["sleep", "100000"])
        supervisor(box.top / "etc" / "t3-serve" / "supervisor.sock", server.pid, time.time())
        try:
            fill(box, users)
            consumer = psutil.Process(box.start_consumer().pid)
            time.sleep(15)
            before, began = consumer.cpu_times(), time.time()
            due = {
                entry.user: entry.next_check
                for entry in records.deferrals(box.journal)
                if entry.next_check < began + WATCH_SECONDS
            }
            time.sleep(WATCH_SECONDS)
            spent = consumer.cpu_times()
            seconds = time.time() - began
            own = spent.user + spent.system - before.user - before.system
            readers = spent.children_user + spent.children_system - before.children_user - before.children_system
            late = lateness(box, due, 5)
            print(f"{USERS} deferrals over an hour, watched for {seconds:.0f} s ({len(due)} due):")
            print(
                f"  consumer {own / seconds:.2%} of one core, its readers {readers / seconds:.2%}; {consumer.memory_info().rss / 1e6:.0f} MB"
            )
            print(
                f"  latest check {late[-1]:.2f} s after its due time (reference: Huey looks at its schedule once a second)"
            )
            chosen = users[-BURST:]
            at = time.time() + 3
            box.kill("consumer")
            with box.journal.transaction() as connection:
                for user in chosen:
                    connection.execute(
                        "update runs set wake_at = ?, message = null where id = (select run from deferrals where user = ?)",
                        (at, user),
                    )
            box.start_consumer()
            late = lateness(box, dict.fromkeys(chosen, at), 120)
            print(
                f"{BURST} due in one second: the last was checked {late[-1]:.1f} s later, half within {late[len(late) // 2]:.1f} s"
            )
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    go_inside()
    sys.exit(main())
