"""Time from the return of `t3flow enqueue rollback` to the first user's verified server, in several states of the host.

Arguments select states by name. In "300 due drains", 300 users have a deferral whose drain is due in the same second; 16 of them have a running
server, half of those with a live turn. In the other states all servers are real.
"""

import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from common import arguments, sized
from sandboxed import LEVEL30, go_inside, sandbox

from t3flow.engine.runs import new_run
from t3flow.host.records import deferral_records, rejections
from t3flow.sandbox.host import Sandbox

TIMES = sized(3, 1)
FIRST, NEXT, SLOW = "0.0.24", "0.0.25-nightly.20260609.501", "0.0.25-nightly.20260610.502"
GATE_SECONDS, FILLER_MEGABYTES, DEFERRED, WITH_SERVER = sized((12, 900, 300, 16), (3, 20, 10, 3))
IN_GATE = [{"fault": "slow_start", "seconds": GATE_SECONDS, "when": {"not_scratch": False}}]


def move_by_hand(box: Sandbox, user: str, version: str) -> None:
    """Put a user on a version as if a bump had, so that there is something to roll back."""
    box.supervise("stop", user)
    box.supervise("reset-failed", user)
    box.assign(user, version)
    box.supervise("start", user)
    box.await_pairing(user)


def roll_back(box: Sandbox) -> float:
    """Return the seconds from the command's return until ada's server was verified."""
    run = box.document("enqueue", "rollback", "--user", "ada", "--to", FIRST)["run"]
    returned = time.time()
    box.until(lambda: box.journal.run(run).status != "running", "the rollback has ended", 600)
    ended = box.journal.run(run)
    assert ended.outcome == "done", ended.result
    verified = [
        event.at for event in box.journal.events(run) if (event.kind, event.step) == ("completed", "verify_user")
    ]
    return verified[0] - returned


def unfreeze(box: Sandbox) -> None:
    """Unfreeze tracking by the command."""
    assert box.t3flow("unfreeze").returncode == 0


def under_way(box: Sandbox, workflow: str, step: str, since: float) -> bool:
    """Return whether a step of a running workflow has started and not ended."""
    rows = box.journal.query(
        "select kind from events join runs on runs.id = run where workflow = ? and status = 'running' and step = ? and at > ? "
        "order by at desc limit 1",
        workflow,
        step,
        since,
    )
    return bool(rows) and rows[0][0] == "started"


def measure(name: str, users: list[str], prepare: Callable[[Sandbox], None], enter: Callable[[Sandbox], None]) -> None:
    """Measure one state: `prepare` it once, and `enter` it before each rollback."""
    seconds = []
    with sandbox(users, quiet_seconds=0) as box:
        box.copy_databases(dict.fromkeys(users[:WITH_SERVER], LEVEL30))
        box.start_registry()
        box.publish(FIRST, {"schema_level": 30})
        box.install(FIRST)
        box.users = users[:WITH_SERVER]
        box.start_servers()
        box.users = users
        box.publish(NEXT, {"schema_level": 30})
        box.start_consumer()
        assert box.document("enqueue", "bump", "--target", NEXT, "--wait", timeout_seconds=600)["outcome"] == "updated"
        box.publish(SLOW, {"schema_level": 30, "rules": IN_GATE})
        prepare(box)
        for _ in range(TIMES):
            if box.assigned("ada") != NEXT:
                move_by_hand(box, "ada", NEXT)
            enter(box)
            seconds.append(roll_back(box))
    each_round = ", ".join(f"{each:.1f}" for each in seconds)
    print(
        f"{name:<16} p50 {statistics.median(seconds):6.1f} s   max {max(seconds):6.1f} s   ({each_round})", flush=True
    )


def defer(box: Sandbox, user: str, *, untried: bool, at: float | None = None) -> None:
    """Record a pending deferral and its drain."""
    run = new_run(box.journal, "drain", {"user": user}, wake_at=at)
    assert run is not None
    deferral_records.put_deferral(box.journal, user, run, SLOW, "active_turn", at or time.time())
    if untried:
        rejections.note_untried(box.journal, SLOW, [user])


def is_under_way_since_now(box: Sandbox, workflow: str, step: str) -> Callable[[], bool]:
    """Return a predicate: whether a step has started since now and not ended."""
    since = time.time()
    return lambda: under_way(box, workflow, step, since)


def quiet(box: Sandbox) -> None:
    """Leave the host idle."""


def bump_in_gate(box: Sandbox) -> None:
    """Start a bump to a slow version, and wait for its gate."""
    unfreeze(box)
    has_started = is_under_way_since_now(box, "bump", "run_trials")
    box.document("enqueue", "bump", "--target", SLOW, "--again")
    box.until(has_started, "the gate is running", 120)
    time.sleep(1)


def drain_in(step: str) -> Callable[[Sandbox], None]:
    """Return a function that brings the drain of grace into a step."""

    def enter(box: Sandbox) -> None:
        if box.assigned("grace") != FIRST:
            move_by_hand(box, "grace", FIRST)
        grow(box, 1)
        has_started = is_under_way_since_now(box, "drain", step)
        for pending in deferral_records.deferrals(box.journal):
            box.t3flow("cancel", pending.run)
        box.until(lambda: not deferral_records.deferrals(box.journal), "no deferral is left", 60)
        defer(box, "grace", untried=step == "run_trials")
        unfreeze(box)
        box.until(has_started, f"the drain is in {step}", 180)
        time.sleep(0.5)

    return enter


def grow(box: Sandbox, megabytes: int) -> None:
    """Enlarge the database of grace, so that its last snapshot is stale."""
    with closing(sqlite3.connect(box.database("grace"), timeout=30)) as connection, connection:
        connection.execute("create table if not exists filler (bytes blob)")
        for _ in range(megabytes):
            connection.execute("insert into filler values (randomblob(1000000))")


def slot_of_slow(box: Sandbox) -> None:
    """Install the deferred version, as a bump would have."""
    box.install_slot(SLOW)


def large(box: Sandbox) -> None:
    """Install the deferred version, and make the database of grace slow to copy."""
    slot_of_slow(box)
    box.supervise("stop", "grace")
    grow(box, FILLER_MEGABYTES)
    box.supervise("reset-failed", "grace")
    box.supervise("start", "grace")
    box.await_pairing("grace")


def all_due(box: Sandbox) -> None:
    """Make every deferral due in the same second."""
    box.kill("consumer")
    box.settings.paths.freeze_file.unlink(missing_ok=True)
    at = time.time() + 6
    with box.journal.transaction() as connection:
        connection.execute("delete from deferrals")
        connection.execute("delete from facts where key = 'freeze'")
        connection.execute("delete from locks")
        connection.execute("update runs set status = 'cancelled', wake_at = null where status = 'running'")
    for user in box.users[1:]:
        if user in box.users[1:WITH_SERVER] and box.assigned(user) != FIRST:
            move_by_hand(box, user, FIRST)
        defer(box, user, untried=False, at=at)
    with box.journal.transaction() as connection:
        connection.execute(
            "update runs set wake_at = ? where workflow = 'drain' and status = 'running'", (at := time.time() + 6,)
        )
    box.start_consumer()
    time.sleep(max(0.0, at + 1.5 - time.time()))


def busy_half(box: Sandbox) -> None:
    """Give half of the running servers a live turn."""
    slot_of_slow(box)
    for number, user in enumerate(box.users[1:WITH_SERVER]):
        if number % 2:
            box.control(user, "turn/start", agent="claude")


def main() -> None:
    """Measure each state in its own sandbox."""
    few = ["ada", "grace", "linus"]
    many = [*few, *(f"user{number:03}" for number in range(DEFERRED + 1 - len(few)))]
    states: dict[str, tuple[list[str], Any, Any]] = {
        "idle host": (few, quiet, quiet),
        "bump in gate": (few, quiet, bump_in_gate),
        "drain in gate": (few, slot_of_slow, drain_in("run_trials")),
        "drain in backup": (few, large, drain_in("back_up")),
        "300 due drains": (many, busy_half, all_due),
    }
    selected = arguments() or sized(list(states), ["bump in gate"])
    print(f"rollback, from the command's return to the first user's verified server, {TIMES} times each:", flush=True)
    for name in selected:
        measure(name, *states[name])


if __name__ == "__main__":
    go_inside()
    main()
