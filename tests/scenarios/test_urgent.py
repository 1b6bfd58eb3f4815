"""What goes before everything else: a rollback, whatever has the host and whatever the queue does; and an end that cuts no restart off."""

import json
import os
import signal
import time
from collections.abc import Callable

import pytest
from conftest import RedisServer
from scenes import FIRST, LATER, NEXT, bump, deferrals, drained, everybody_is_well, is_busy

from t3flow.host.records import deferral_records, rejections
from t3flow.rollout.bake import ROLLBACK_PRIORITY
from t3flow.sandbox.host import Sandbox

GATE_SECONDS = 13.0
RESTORED_SECONDS = 10.0


def restored(box: Sandbox, run: str) -> float:
    """When the first user of a rollback was verified on the version before (epoch seconds)."""
    box.until(lambda: box.journal.run(run).status != "running", "the rollback has ended", 60)
    ended = box.journal.run(run)
    assert ended.outcome == "done", ended.result
    return next(
        event.at for event in box.journal.events(run) if (event.kind, event.step) == ("completed", "verify_user")
    )


def steps(box: Sandbox, run: str, kind: str) -> list[str | None]:
    """Return the steps of a run that have such an event."""
    return [event.step for event in box.journal.events(run) if event.kind == kind]


def test_tracking_is_frozen_when_the_command_returns(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    """The command itself freezes: here the consumer stands still. Without a way back nothing is frozen."""
    box = make_box(["ada"], queue_url=queue_url)
    box.publish(NEXT, {"schema_level": 30})
    assert bump(box)["outcome"] == "updated"
    consumer = box.processes["consumer"].pid
    os.kill(consumer, signal.SIGSTOP)
    try:
        refused = box.document("enqueue", "rollback", "--to", "9.9.9")["run"]
        assert box.document("status")["frozen"] is None
        unknown = box.t3flow("restore", "ada", "no-such-backup")
        assert (unknown.returncode, len(unknown.stderr.strip().splitlines())) == (2, 1)
        assert box.document("status")["frozen"] is None
        run = box.document("enqueue", "rollback")["run"]
        assert box.settings.paths.freeze_file.exists()
        assert box.document("status")["frozen"]["reason"] == "a rollback of all users to the version before"
        assert box.t3flow("unfreeze").returncode == 0
        backup = box.document("backups", "ada")[0]["backup"]
        assert box.t3flow("restore", "ada", backup).returncode == 0
        assert box.document("status")["frozen"]["reason"] == f"restoring {backup} of ada"
    finally:
        os.kill(consumer, signal.SIGCONT)
    for asked in (run, refused):  # the restore of the same may come first, and leave nothing to do
        box.until(lambda asked=asked: box.journal.run(asked).status != "running", f"{asked} has ended", 60)  # type: ignore[misc]
    assert [box.journal.run(asked).outcome for asked in (run, refused)] == ["done", "error"]
    priorities = [box.journal.run(asked).priority for asked in (run, refused)]
    assert priorities == [ROLLBACK_PRIORITY, 0], "a version that is not there stops no run that is under way"
    assert box.assigned("ada") == FIRST


def test_a_drain_in_its_gate_lets_a_rollback_go_first(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    """It waited for the whole trial. The deferral is kept, and its drain goes through the gate once tracking goes on."""
    box = make_box(["ada", "grace"], queue_url=queue_url)
    box.publish(NEXT, {"schema_level": 30})
    turn = is_busy(box, "grace")
    assert bump(box)["outcome"] == "updated"
    slow = {"fault": "slow_start", "seconds": GATE_SECONDS, "when": {"not_scratch": False}}
    box.publish(LATER, {"schema_level": 30, "rules": [slow]}, tag=None)
    box.install_slot(LATER)
    pending = deferral_records.deferral(box.journal, "grace")
    assert pending is not None
    drain = pending.run
    deferral_records.put_deferral(box.journal, "grace", drain, LATER, "active_turn", time.time())
    rejections.note_untried(box.journal, LATER, ["grace"])
    box.control("grace", "turn/end", turn=turn)
    box.until(lambda: "run_trials" in steps(box, drain, "started"), "the drain's gate is at work", 75)
    time.sleep(0.5)
    run = box.document("enqueue", "rollback", "--user", "ada", "--to", FIRST)["run"]
    returned = time.time()
    assert restored(box, run) - returned < RESTORED_SECONDS
    assert "yield" in steps(box, drain, "signal")
    assert box.journal.run(drain).status == "running"
    kept = deferrals(box)["grace"]
    assert (kept["target"], kept["waiting_for"]) in [(LATER, "host_busy"), (LATER, "frozen")]
    assert list((box.top / "scratch").iterdir()) == []
    assert box.t3flow("unfreeze").returncode == 0
    drained(box, "grace", LATER, 90)
    everybody_is_well(box, {"ada": FIRST, "grace": LATER})


def test_a_rollback_needs_no_redis(make_box: Callable[..., Sandbox], redis_server: RedisServer) -> None:
    box = make_box(["ada"], queue_url=redis_server.url)
    box.publish(NEXT, {"schema_level": 30})
    assert bump(box)["outcome"] == "updated"
    redis_server.child.send_signal(signal.SIGSTOP)
    try:
        said = box.t3flow("enqueue", "rollback", "--json")
        returned = time.time()
        assert "starts within seconds" in said.stderr
        assert restored(box, json.loads(said.stdout)["run"]) - returned < 2 * RESTORED_SECONDS
    finally:
        redis_server.child.send_signal(signal.SIGCONT)
    everybody_is_well(box, {"ada": FIRST})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_an_end_cuts_no_restart_off(make_box: Callable[..., Sandbox], number: signal.Signals) -> None:
    """Ctrl-C goes to the whole process group, and is pressed twice: the user in hand is verified before the consumer ends."""
    box = make_box(["ada", "grace"])
    slow = {"fault": "slow_start", "seconds": 3, "when": {"not_scratch": True}}
    box.publish(NEXT, {"schema_level": 32, "rules": [slow]})
    run = box.document("enqueue", "bump")["run"]
    box.until(lambda: "start_server" in steps(box, run, "completed"), "the first one is started", 60)
    consumer = box.processes.pop("consumer")
    for _ in range(2):
        os.killpg(consumer.pid, number)
        time.sleep(0.3)
    assert consumer.wait(60) == 0
    assert "kill -9" in (box.top / "log/consumer.log").read_text()
    assert len([step for step in steps(box, run, "completed") if step == "verify_user"]) == 1
    assert box.journal.run(run).status == "running"
    assert box.journal.run(run).claim is None
    assert all(box.pairs(user) for user in box.users)
    box.start_consumer()
    box.until(lambda: box.journal.run(run).status != "running", "the bump ends", 60)
    assert box.journal.run(run).outcome == "updated"
    everybody_is_well(box, dict.fromkeys(box.users, NEXT))
