"""Freeze, pin, revoke: by command and by plain touch and rm."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import RedisServer
from scenes import FIRST, LATER, NEXT, bump, deferrals, drained, everybody_is_well, is_busy, results

from t3flow.engine.queue import HintQueue, open_queue, queue_key
from t3flow.sandbox.host import Sandbox


def scheduled(box: Sandbox) -> list[str]:
    """Return the runs that have a task in Huey's queue or schedule that is not revoked."""
    settings = box.settings
    queue: HintQueue = open_queue(settings.queue.url, queue_key(settings.paths.state_dir / "queue.key"))
    queue.register(lambda run: None, ["await_idle"])
    tasks = [task for task in (*queue.pending(), *queue.scheduled()) if not queue.is_revoked(task, peek=True)]
    return [task.args[0] for task in tasks]


def drains(box: Sandbox) -> list[dict[str, Any]]:
    return [run for run in box.document("runs") if run["workflow"] == "drain" and run["status"] == "running"]


def test_freeze_takes_the_tasks_out_and_unfreeze_puts_them_back(
    make_box: Callable[..., Sandbox], queue_url: str
) -> None:
    box = make_box(["ada", "grace", "linus"], queue_url=queue_url)
    turns = {user: is_busy(box, user) for user in ("grace", "linus")}
    box.publish(NEXT, {"schema_level": 32})
    bump(box)
    waiting = sorted(run["run"] for run in drains(box))
    assert len(waiting) == 2
    box.until(lambda: sorted(set(scheduled(box)) & set(waiting)) == waiting, "each deferral is a task of Huey's")
    freeze_file = box.top / "etc" / "t3-autoupdate.freeze"

    for way in ("command", "touch"):
        began = time.monotonic()
        if way == "command":
            assert box.t3flow("freeze", "--reason", "release party").returncode == 0
            assert box.document("status")["frozen"]["reason"] == "release party"
        else:
            freeze_file.touch()
        box.until(
            lambda: all(entry["waiting_for"] == "frozen" for entry in deferrals(box).values()), "deferrals say so", 5
        )
        box.until(lambda: not set(scheduled(box)) & set(waiting), "the tasks are out of the queue", 5)
        assert time.monotonic() - began < 6
        assert box.t3flow("enqueue", "bump", "--wait").returncode == 3
        assert box.t3flow("enqueue", "drain", "--wait").returncode == 3
        if way == "command":
            assert box.t3flow("unfreeze").returncode == 0
        else:
            freeze_file.unlink()
        box.until(lambda: sorted(set(scheduled(box)) & set(waiting)) == waiting, "the tasks are back", 5)
        box.until(
            lambda: all(entry["waiting_for"] == "active_turn" for entry in deferrals(box).values()), "and ask again", 8
        )
        assert box.document("status")["frozen"] is None
    assert sorted(run["run"] for run in drains(box)) == waiting, "none was lost, none was added"
    for user, turn in turns.items():
        box.control(user, "turn/end", turn=turn)
    for user in turns:
        drained(box, user, NEXT)


def test_a_freeze_stops_a_bump_before_its_first_restart(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    box = make_box(["ada"], queue_url=queue_url)
    box.publish(NEXT, {"schema_level": 32, "rules": [{"fault": "slow_start", "seconds": 12, "when": {}}]})
    run = box.document("enqueue", "bump")["run"]
    box.until(
        lambda: any(event["step"] == "run_trials" for event in box.document("show", run)["events"]),
        "the gate is at work",
    )
    (box.top / "etc" / "t3-autoupdate.freeze").touch()
    box.until(lambda: box.has_ended(run), "it has ended", 6)
    assert box.document("show", run)["outcome"] == "frozen"
    assert [entry.name for entry in (box.top / "opt/t3/versions").iterdir()] == [FIRST]
    (box.top / "etc" / "t3-autoupdate.freeze").unlink()
    everybody_is_well(box, {"ada": FIRST})


def test_a_freeze_after_the_first_restart_defers_the_rest(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    """The present user is finished, and no further user is restarted."""
    box = make_box(["ada", "grace"], queue_url=queue_url)
    box.publish(
        NEXT, {"schema_level": 32, "rules": [{"fault": "slow_start", "seconds": 6, "when": {"not_scratch": True}}]}
    )
    run = box.document("enqueue", "bump")["run"]
    box.until(
        lambda: any(event["step"] == "start_server" for event in box.document("show", run)["events"]), "one is started"
    )
    box.t3flow("freeze")
    box.until(lambda: box.has_ended(run), "it has ended")
    shown = box.document("show", run)
    assert shown["outcome"] == "frozen"
    users = shown["events"][-1]["data"]["users"]
    assert sorted(entry["result"] for entry in users.values()) == ["deferred", "restarted"]
    assert {box.assigned(user) for user in box.users} == {FIRST, NEXT}
    later = next(user for user in box.users if box.assigned(user) == FIRST)
    assert deferrals(box)[later]["waiting_for"] == "frozen"
    box.t3flow("unfreeze")
    drained(box, later, NEXT)


def test_a_single_deferral_is_revoked_and_restored(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    box = make_box(["ada", "grace"], queue_url=queue_url)
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    bump(box)
    assert box.t3flow("deferrals", "revoke", "grace").returncode == 0
    box.until(lambda: deferrals(box)["grace"]["waiting_for"] == "revoked", "it says so", 5)
    box.control("grace", "turn/end", turn=turn)
    time.sleep(3)
    assert box.assigned("grace") == FIRST
    box.end("consumer")
    box.start_consumer()
    time.sleep(1)
    assert box.assigned("grace") == FIRST, "recovery leaves it out"
    assert box.t3flow("deferrals", "restore", "grace").returncode == 0
    drained(box, "grace", NEXT)
    nobody = box.t3flow("deferrals", "revoke", "nobody-here")
    assert nobody.returncode in (1, 2)
    assert len(nobody.stderr.strip().splitlines()) == 1


def test_a_flushed_queue_loses_no_deferral(make_box: Callable[..., Sandbox], queue_url: str, queue_kind: str) -> None:
    box = make_box(["ada", "grace"], queue_url=queue_url)
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    bump(box)
    settings = box.settings
    box.kill("consumer")
    if queue_kind == "sqlite":
        for path in Path(settings.queue.url.removeprefix("sqlite://")).parent.glob("queue.db*"):
            path.unlink()
    else:
        open_queue(settings.queue.url, queue_key(settings.paths.state_dir / "queue.key")).storage.flush_all()
    box.control("grace", "turn/end", turn=turn)
    box.start_consumer()
    drained(box, "grace", NEXT)


def test_pin_and_unpin(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    box = make_box(["ada"], queue_url=queue_url)
    box.publish(NEXT, {"schema_level": 32})
    box.publish(LATER, {"schema_level": 32})
    assert box.t3flow("pin", NEXT).returncode == 0
    assert box.document("status")["pin"] == NEXT
    assert bump(box)["target"] == NEXT
    assert bump(box)["outcome"] == "up_to_date"
    assert box.t3flow("unpin").returncode == 0
    assert bump(box)["target"] == LATER
    for bad in ("latest", "1.2", "../x", "v1.0.0.0", ""):
        refused = box.t3flow("pin", bad)
        assert refused.returncode == 2, bad
        assert len(refused.stderr.strip().splitlines()) == 1
    box.end("consumer")
    box.environment["T3_PIN"] = LATER
    box.start_consumer()
    del box.environment["T3_PIN"]
    refused = box.t3flow("unpin")
    assert refused.returncode == 2
    assert "T3_PIN" in refused.stderr
    assert bump(box)["outcome"] == "up_to_date"


def test_a_pin_that_is_no_version_stops_the_consumer_by_name(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"], consumer=False)
    box.environment["T3_PIN"] = "latest"
    said = box.t3flow("consumer")
    del box.environment["T3_PIN"]
    assert said.returncode == 2
    assert "T3_PIN" in said.stderr
    assert "Traceback" not in said.stderr


def test_enqueue_drain_checks_now(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    """Outside the window a deferral waits; `enqueue drain` moves idle users anyway, and only those."""
    now = time.localtime()
    window = f"{(now.tm_hour + 2) % 24:02d}:00-{(now.tm_hour + 3) % 24:02d}:00"
    box = make_box(["ada", "grace"], queue_url=queue_url, start=False)
    box.config.write_text(box.config.read_text().replace('window = ""', f'window = "{window}"'))
    box.start(FIRST, None, {"schema_level": 30})
    box.start_consumer()
    turns = {user: is_busy(box, user) for user in box.users}
    box.publish(NEXT, {"schema_level": 32})
    bump(box)
    box.control("ada", "turn/end", turn=turns["ada"])
    time.sleep(2.5)
    box.until(
        lambda: all(entry["waiting_for"] == "window" for entry in deferrals(box).values()), "the window is shut", 8
    )
    assert box.assigned("ada") == FIRST
    looked = box.document("enqueue", "drain", "--wait", "--dry-run")
    assert looked["outcome"] == "dry_run_passed"
    assert box.assigned("ada") == FIRST
    said = box.document("enqueue", "drain", "--wait")
    assert results(said) == {"ada": "restarted", "grace": "deferred"}
    everybody_is_well(box, {"ada": NEXT, "grace": FIRST})


def test_redis_may_go_and_come(make_box: Callable[..., Sandbox], redis_server: RedisServer) -> None:
    """It is down at the start and again during a bump: `status` says so, and nothing is lost."""
    redis_server.stop()
    box = make_box(["ada", "grace"], queue_url=redis_server.url)
    box.until(
        lambda: box.document("status")["consumer"]["waiting_for"] == "the queue", "status says what it waits for", 10
    )
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    run = box.document("enqueue", "bump")["run"]
    redis_server.start()
    box.until(
        lambda: any(event["step"] == "run_trials" for event in box.document("show", run)["events"]), "it goes on", 20
    )
    redis_server.stop()
    box.until(lambda: box.has_ended(run), "a bump under way needs no queue", 60)
    assert box.document("show", run)["outcome"] == "updated"
    redis_server.start()
    box.until(lambda: box.document("status")["consumer"]["waiting_for"] is None, "the queue is back", 10)
    box.control("grace", "turn/end", turn=turn)
    drained(box, "grace", NEXT)
