"""Bumps from end to end, each on both queues: every outcome, and what it leaves behind."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from scenes import (
    ALL,
    FIRST,
    LATER,
    NEXT,
    bump,
    content,
    deferrals,
    drained,
    everybody_is_well,
    is_busy,
    pairing_all_the_time,
    results,
    tree,
    write,
)

from t3flow.sandbox.host import Sandbox
from t3flow.sandbox.registry import Registry

NOT_SCRATCH = {"not_scratch": True}


@pytest.mark.both_queues
def test_a_good_bump_moves_the_idle_and_defers_the_busy(box: Sandbox) -> None:
    box.publish(NEXT, {"schema_level": 32})
    turn = is_busy(box, "grace")
    said = bump(box)
    assert (said["status"], said["outcome"], said["from"], said["target"]) == ("succeeded", "updated", FIRST, NEXT)
    assert results(said) == {"ada": "restarted", "grace": "deferred", "linus": "restarted"}
    assert all(said["users"][user]["downtime_s"] < 10 for user in ("ada", "linus"))
    assert [box.level(user) for user in ALL] == [32, 30, 32]
    status = box.document("status")
    assert (status["default_version"], status["last_good"], status["frozen"]) == (NEXT, NEXT, None)
    waiting = deferrals(box)
    assert list(waiting) == ["grace"]
    assert (waiting["grace"]["target"], waiting["grace"]["waiting_for"]) == (NEXT, "active_turn")
    with pairing_all_the_time(box, "grace") as failures:
        time.sleep(2.5)
    assert failures == [], "a deferred user can pair all the time"
    assert box.level("grace") == 30, "pairing did not migrate the database"
    box.control("grace", "turn/end", turn=turn)
    drained(box, "grace", NEXT)
    everybody_is_well(box, dict.fromkeys(ALL, NEXT))
    assert bump(box)["outcome"] == "up_to_date"


def test_the_engine_shows_its_work(box: Sandbox) -> None:
    """show, runs, and the JSON that the interface fixes."""
    box.publish(NEXT, {"schema_level": 32})
    said = bump(box)
    shown = box.document("show", said["run"])
    assert set(shown) >= {"run", "workflow", "args", "status", "outcome", "created", "updated", "events"}
    assert all(set(event) >= {"seq", "at", "kind", "step", "attempt", "data"} for event in shown["events"])
    steps = [event["step"] for event in shown["events"] if event["kind"] == "completed"]
    assert steps[:3] == ["frozen_reason", "resolve", "guard"]
    assert steps.index("stage") < steps.index("back_up_users") < steps.index("run_trials") < steps.index("stop_if_idle")
    everything = json.dumps(shown) + (box.top / "log" / "consumer.log").read_text()
    assert "t3_session=" not in everything
    assert '"credential"' not in everything
    status = box.document("status")
    keys = {
        "default_version",
        "last_good",
        "tracked_tag",
        "pin",
        "frozen",
        "rejected",
        "users",
        "run",
        "next_bump",
        "consumer",
    }
    assert set(status) >= keys
    assert set(status["users"]["ada"]) >= {
        "unit",
        "active",
        "running_version",
        "assigned_version",
        "pairing",
        "deferred",
    }
    assert set(status["consumer"]) >= {"alive", "pid", "waiting_for"}


FAULTS = {
    "version_prints_nothing": {},
    "migration_throws": {},
    "mint_fails": {},
    "no_cookie": {},
    "crash_after": {"seconds": 0.5},
}


def test_the_gate_stops_what_it_can_see(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    """Some faults (tests/gate has the others), each on one user's copy: no user is restarted or assigned the version, and nothing is frozen or left."""
    box = make_box(["ada", "linus"], queue_url=queue_url)
    write(
        box.database("linus"),
        "update projection_projects set title = 'odd' where rowid = (select min(rowid) from projection_projects)",
    )
    servers = {user: box.supervise("status", user)["main_pid"] for user in box.users}
    for number, (fault, more) in enumerate(FAULTS.items()):
        version = f"0.0.25-nightly.20260609.{number + 1}"
        seen_everywhere = fault.startswith("version_")
        when = {} if seen_everywhere else {"database_has_project_title": "odd"}
        box.publish(version, {"schema_level": 32, "rules": [{"fault": fault, **more, "when": when}]})
        said = bump(box)
        assert (said["outcome"], said["status"]) == ("gate_failed", "failed"), (fault, said)
        assert version in said["reason"]
        assert seen_everywhere or "linus" in said["reason"], fault
        assert bump(box)["outcome"] == "refused_rejected"
    status = box.document("status")
    assert status["frozen"] is None
    assert len(status["rejected"]) == len(FAULTS)
    assert {user: box.supervise("status", user)["main_pid"] for user in box.users} == servers
    assert [entry.name for entry in (box.top / "opt/t3/versions").iterdir()] == [FIRST]
    everybody_is_well(box, dict.fromkeys(box.users, FIRST))


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "pairing_500", "when": NOT_SCRATCH},
        {"fault": "migration_throws", "when": NOT_SCRATCH},
        {"fault": "hang_at_start", "when": NOT_SCRATCH},
    ],
    ids=lambda fault: str(fault["fault"]),
)
def test_what_fails_after_the_restart_is_undone_and_frozen(
    make_box: Callable[..., Sandbox], queue_url: str, fault: dict[str, object]
) -> None:
    """Program and databases go back, and what the new version wrote is kept; users who were verified before keep the new version."""
    box = make_box(ALL, queue_url=queue_url)
    rule = {**fault, "when": {**NOT_SCRATCH, "user": "grace"}}
    write(box.database("grace"), "create table mine as select 'precious' as word")
    write(box.database("grace"), "insert into mine select hex(randomblob(200000)) from mine")
    write(box.database("linus"), "create table mine as select hex(randomblob(900000)) as word")
    box.publish(NEXT, {"schema_level": 32, "rules": [rule]})
    said = bump(box)
    assert (said["outcome"], said["status"]) == ("rolled_back", "failed")
    assert results(said) == {"ada": "restarted", "grace": "rolled_back", "linus": "untouched"}
    assert said["users"]["grace"]["reason"]
    everybody_is_well(box, {"ada": NEXT, "grace": FIRST, "linus": FIRST})
    assert [box.level(user) for user in ALL] == [32, 30, 30]
    status = box.document("status")
    assert NEXT in status["frozen"]["reason"]
    assert NEXT in status["rejected"]
    assert status["last_good"] == status["default_version"] == FIRST
    kept = list(box.database("grace").parent.glob("replaced-*/state.sqlite"))
    assert len(kept) == 1
    assert any("precious" in line for line in content(kept[0]))
    assert any("precious" in line for line in content(box.database("grace")))
    log = (box.top / "log" / "consumer.log").read_text()
    assert "rolling back grace" in log
    assert "FROZEN" in log
    again = box.t3flow("enqueue", "bump", "--wait")
    assert again.returncode == 3
    assert box.t3flow("unfreeze").returncode == 0
    assert bump(box)["outcome"] == "refused_rejected"


def test_a_rejected_version_is_tried_again_when_asked(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    box = make_box(["ada"], queue_url=queue_url)
    box.publish(
        NEXT, {"schema_level": 32, "rules": [{"fault": "mint_fails", "when": {"database_has_project_title": "odd"}}]}
    )
    write(box.database("ada"), "update projection_projects set title = 'odd'")
    assert bump(box)["outcome"] == "gate_failed"
    assert bump(box)["outcome"] == "refused_rejected"
    write(box.database("ada"), "update projection_projects set title = 'even'")
    assert bump(box, "--target", NEXT, "--again")["outcome"] == "updated"
    assert box.document("status")["rejected"] == {}


def test_a_version_tried_again_reaches_who_is_deferred(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    """It was rejected before and passes now: a busy user waits for the turn to end, not for a newer version."""
    box = make_box(["ada"], queue_url=queue_url)
    box.publish(
        NEXT, {"schema_level": 32, "rules": [{"fault": "mint_fails", "when": {"database_has_project_title": "odd"}}]}
    )
    write(box.database("ada"), "update projection_projects set title = 'odd'")
    assert bump(box)["outcome"] == "gate_failed"
    write(box.database("ada"), "update projection_projects set title = 'even'")
    turn = is_busy(box, "ada")
    assert results(bump(box, "--target", NEXT, "--again")) == {"ada": "deferred"}
    box.control("ada", "turn/end", turn=turn)
    drained(box, "ada", NEXT)
    assert box.document("status")["rejected"] == {}


def test_refusals_name_the_mend(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    box = make_box(["ada"], queue_url=queue_url)
    box.publish("0.0.23-nightly.20260101.1", {"schema_level": 30})
    older = bump(box)
    assert (older["outcome"], older["status"]) == ("refused_downgrade", "succeeded")
    assert "enqueue rollback" in older["reason"]
    box.publish("0.0.26-alpha.1", {"schema_level": 30})
    foreign = bump(box)
    assert foreign["outcome"] == "refused_channel"
    assert "--target 0.0.26-alpha.1" in foreign["reason"]
    none = bump(box, "--target", "0.0.99")
    assert (none["outcome"], none["status"]) == ("error", "failed")
    assert "0.0.99" in none["reason"]
    assert "publish" in none["reason"]
    box.publish(NEXT, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    box.publish("0.0.25-nightly.20260608.1", {"schema_level": 30}, tag=None)
    across = bump(box, "--target", "0.0.25-nightly.20260608.1")
    assert across["outcome"] == "refused_downgrade"
    assert "schema level 30" in across["reason"]
    box.publish("0.0.25-nightly.20260608.2", {"schema_level": 32}, tag=None)
    assert bump(box, "--target", "0.0.25-nightly.20260608.2")["outcome"] == "updated", (
        "within a level a person may go back"
    )


def test_a_refused_target_stays_installed_for_who_may_go_back_to_it(make_box: Callable[..., Sandbox]) -> None:
    """The refusal names a rollback to that version, so its slot must still exist."""
    box = make_box(["ada"])
    box.publish(NEXT, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    refused = bump(box, "--target", FIRST)
    assert (refused["outcome"], "rollback --to" in refused["reason"]) == ("refused_downgrade", True)
    back = box.t3flow("enqueue", "rollback", "--to", FIRST, "--wait")
    assert back.returncode == 0, back.stdout
    everybody_is_well(box, {"ada": FIRST})


def test_a_dry_run_changes_nothing(box: Sandbox) -> None:
    before = tree(box.top, "state", "log", "registry", "home"), [content(box.database(user)) for user in ALL]
    servers = {user: box.supervise("status", user)["main_pid"] for user in ALL}
    box.publish(NEXT, {"schema_level": 32})
    assert bump(box, "--dry-run")["outcome"] == "dry_run_passed"
    box.publish(LATER, {"schema_level": 33, "rules": [{"fault": "migration_throws", "when": {}}]})
    failed = bump(box, "--dry-run")
    assert (failed["outcome"], failed["status"]) == ("dry_run_failed", "failed")
    after = tree(box.top, "state", "log", "registry", "home"), [content(box.database(user)) for user in ALL]
    assert after == before
    assert servers == {user: box.supervise("status", user)["main_pid"] for user in ALL}
    assert box.document("backups") == []
    assert box.document("status")["rejected"] == {}
    assert bump(box, "--target", NEXT)["outcome"] == "updated", "a dry run and a pin leave no trace that hinders"
    box.t3flow("freeze", "--reason", "looking")
    assert bump(box, "--dry-run", "--target", LATER)["outcome"] == "dry_run_failed", "a freeze holds no dry run"


def test_a_trouble_of_one_is_no_trouble_of_others(box: Sandbox) -> None:
    """A corrupt database skips its user; so does `--without`; a bad line of the map is named."""
    box.supervise("stop", "grace")
    database = box.database("grace")
    database.write_bytes(database.read_bytes()[:8192] + b"\xff" * 50_000)
    with (box.top / "etc" / "user-map").open("a") as file:
        file.write("mallory=;rm -rf\nmallory=../x\n")
    box.publish(NEXT, {"schema_level": 32})
    said = bump(box, "--without", "linus")
    assert said["outcome"] == "updated"
    assert results(said) == {"ada": "restarted", "grace": "skipped", "linus": "skipped"}
    assert "backup" in said["users"]["grace"]["reason"]
    assert said["users"]["linus"]["reason"] == "left out as requested"
    everybody_is_well(box, {"ada": NEXT, "linus": FIRST})
    assert "user map: " in (box.top / "log" / "consumer.log").read_text()


def test_no_backup_no_restart(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    box = make_box(["ada"], queue_url=queue_url)
    box.publish(NEXT, {"schema_level": 32})
    (box.top / "backups").rmdir()
    (box.top / "backups").write_text("a file where a folder should be")
    said = bump(box)
    assert (said["outcome"], said["status"]) == ("backup_failed", "failed")
    assert "paths.backup_dir" in said["reason"]
    assert box.document("status")["frozen"] is None
    everybody_is_well(box, {"ada": FIRST})


def test_a_registry_that_does_not_answer_as_it_should(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    """Down, answering HTML, without the tag, with a changed tarball, with a package that names another version."""
    box = make_box(["ada"], queue_url=queue_url, consumer=False)
    box.environment["T3FLOW_NPM__TIMEOUT_S"] = "8"
    box.start_consumer()
    box.publish(NEXT, {"schema_level": 32}, tag="other")
    box.kill("registry_server")
    down = bump(box)
    assert (down["outcome"], down["status"]) == ("registry_unreachable", "failed")
    box._python("registry_server", "--port", str(box.registry_port), "--folder", str(box.top / "registry"))
    box.until(lambda: box._listens(box.registry_port), "it listens")
    registry = Registry(box.top / "registry")
    for fault in ({"html": True}, {"status": 503}, {"hang": True}):
        registry.set_faults(**fault)
        assert bump(box)["outcome"] == "registry_unreachable", fault
    registry.set_faults(slow_seconds=1)
    assert bump(box)["outcome"] == "up_to_date", "slow is not down"
    registry.set_faults()
    (box.config).write_text(box.config.read_text().replace('tag = "nightly"', 'tag = "nosuch"'))
    box.end("consumer")
    box.start_consumer()
    missing = bump(box)
    assert missing["outcome"] == "error"
    assert "dist-tag nosuch" in missing["reason"]
    everybody_is_well(box, {"ada": FIRST})


def test_a_changed_tarball_is_not_installed(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    box = make_box(["ada"], queue_url=queue_url)
    box.publish(NEXT, {"schema_level": 32})
    Registry(box.top / "registry").set_faults(corrupt=True)
    said = bump(box)
    assert said["status"] == "failed"
    assert said["outcome"] == "error"
    assert "EINTEGRITY" in said["reason"]
    everybody_is_well(box, {"ada": FIRST})


def test_two_bumps_at_once(box: Sandbox) -> None:
    """They run one after the other; the second is a no-op."""
    box.publish(NEXT, {"schema_level": 32})
    first = box.document("enqueue", "bump")["run"]
    second = box.document("enqueue", "bump")["run"]
    assert first != second

    def bumps() -> list[dict[str, str]]:
        return [run for run in box.document("runs") if run["workflow"] == "bump"]

    box.until(lambda: all(run["status"] != "running" for run in bumps()), "both have ended", 60)
    assert {run["run"]: run["outcome"] for run in bumps()} == {first: "updated", second: "up_to_date"}
    starts = [
        line for line in (box.top / "log" / "consumer.log").read_text().splitlines() if "Started the server of" in line
    ]
    assert len(starts) == 3


def test_a_second_consumer_is_refused(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"])
    second = box.t3flow("consumer")
    assert second.returncode not in (0, 4)
    assert f"pid {box.processes['consumer'].pid}" in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1


def test_all_deferred_then_the_first_drained_is_the_canary(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    """Default and last-good stay until a user was verified on the new version."""
    box = make_box(["ada", "grace"], queue_url=queue_url)
    turns = {user: is_busy(box, user) for user in box.users}
    box.publish(NEXT, {"schema_level": 32})
    assert results(bump(box)) == {"ada": "deferred", "grace": "deferred"}
    status = box.document("status")
    assert (status["default_version"], status["last_good"]) == (FIRST, FIRST)
    box.control("ada", "turn/end", turn=turns["ada"])
    drained(box, "ada", NEXT)
    status = box.document("status")
    assert (status["default_version"], status["last_good"]) == (NEXT, NEXT)
    assert box.assigned("grace") == FIRST
    box.control("grace", "turn/end", turn=turns["grace"])
    drained(box, "grace", NEXT)


@pytest.mark.both_queues
def test_a_drain_that_fails_is_undone_and_freezes(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    box = make_box(["ada", "grace"], queue_url=queue_url)
    turn = is_busy(box, "grace")
    box.publish(
        NEXT, {"schema_level": 32, "rules": [{"fault": "pairing_500", "when": {"not_scratch": True, "user": "grace"}}]}
    )
    assert results(bump(box)) == {"ada": "restarted", "grace": "deferred"}
    box.control("grace", "turn/end", turn=turn)
    box.until(lambda: box.document("status")["frozen"] is not None, "tracking is frozen")
    everybody_is_well(box, {"ada": NEXT, "grace": FIRST})
    assert deferrals(box)["grace"]["waiting_for"] == "frozen", (
        "the deferral stays until a newer version or a person ends it"
    )
    box.publish(LATER, {"schema_level": 33})
    box.t3flow("unfreeze")
    assert results(bump(box)) == {"ada": "restarted", "grace": "restarted"}
    assert deferrals(box) == {}


@pytest.mark.both_queues
def test_a_newer_bump_supersedes_the_target(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    box = make_box(["ada", "grace"], queue_url=queue_url)
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    bump(box)
    since = deferrals(box)["grace"]["since"]
    box.publish(LATER, {"schema_level": 32})
    bump(box)
    waiting = deferrals(box)
    assert (waiting["grace"]["target"], waiting["grace"]["since"]) == (LATER, since)
    drains = [run for run in box.document("runs") if run["workflow"] == "drain"]
    assert len(drains) == 1
    box.control("grace", "turn/end", turn=turn)
    drained(box, "grace", LATER)


def test_stopped_and_databaseless_users(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    """A stopped server keeps its version and is deferred; one that was never started has no database, and is deferred too."""
    box = make_box(["ada", "grace", "newbie"], queue_url=queue_url, start=False)
    box.start(
        FIRST,
        dict.fromkeys(["ada", "grace"], Path(__file__).parent.parent / "data" / "state-level30.sqlite"),
        {"schema_level": 30},
    )
    box.supervise("stop", "newbie")
    for path in box.database("newbie").parent.iterdir():
        if path.is_file():
            path.unlink()
    box.supervise("stop", "grace")
    box.start_consumer()
    box.publish(NEXT, {"schema_level": 32})
    said = bump(box)
    assert said["outcome"] == "updated"
    assert results(said) == {"ada": "restarted", "grace": "deferred", "newbie": "deferred"}
    assert {user: entry["waiting_for"] for user, entry in deferrals(box).items()} == dict.fromkeys(
        ["grace", "newbie"], "server_stopped"
    )
    assert box.assigned("grace") == box.assigned("newbie") == FIRST
    assert not box.supervise("status", "grace").get("main_pid"), "it was stopped before and stays so"
    box.supervise("start", "grace")
    box.await_pairing("grace")
    drained(box, "grace", NEXT)


def test_cancel_during_the_gate(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    """It stops within seconds, ends its children, and is undone."""
    box = make_box(["ada"], queue_url=queue_url)
    box.publish(NEXT, {"schema_level": 32, "rules": [{"fault": "slow_start", "seconds": 12, "when": {}}]})
    run = box.document("enqueue", "bump")["run"]
    box.until(lambda: _is_at(box, run, "run_trials"), "the gate is at work")
    began = time.monotonic()
    assert box.t3flow("cancel", run).returncode == 0
    box.until(lambda: box.has_ended(run), "it has ended")
    assert time.monotonic() - began < 6
    shown = box.document("show", run)
    assert (shown["status"], shown["outcome"]) == ("cancelled", "cancelled")
    assert [entry.name for entry in (box.top / "opt/t3/versions").iterdir()] == [FIRST]
    everybody_is_well(box, {"ada": FIRST})


def _is_at(box: Sandbox, run: str, step: str) -> bool:
    events = box.document("show", run)["events"]
    return bool(events) and (events[-1]["kind"], events[-1]["step"]) == ("started", step)


def test_the_waiting_end_of_a_follow(make_box: Callable[..., Sandbox]) -> None:
    """Without a consumer `--wait` says so and exits 4; piped progress is plain lines."""
    box = make_box(["ada"], consumer=False)
    box.publish(NEXT, {"schema_level": 32})
    alone = box.t3flow("enqueue", "bump", "--wait", timeout_seconds=60)
    assert alone.returncode == 4
    assert "consumer" in alone.stderr
    assert box.document("runs") == [], "what nobody would do is not queued"
    box.start_consumer()
    assert box.t3flow("enqueue", "bump", "--wait").returncode == 0
    followed = box.t3flow("enqueue", "bump", "--wait")
    assert followed.returncode == 0
    assert "\x1b" not in followed.stderr + followed.stdout
    assert "up_to_date" in followed.stdout


def test_a_deferral_without_room_for_its_backup_waits(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    """Without a backup there is no restart: the deferral stays, says why, and does not loop."""
    box = make_box(["ada", "grace"], queue_url=queue_url)
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    bump(box)
    (box.top / "backups").rename(box.top / "away")
    (box.top / "backups").write_text("a file where a folder should be")
    box.control("grace", "turn/end", turn=turn)
    box.until(lambda: "paths.backup_dir" in deferrals(box)["grace"]["detail"], "it says why", 15)
    run = next(run["run"] for run in box.document("runs") if run["workflow"] == "drain")
    before = len(box.document("show", run)["events"])
    time.sleep(6)
    assert len(box.document("show", run)["events"]) - before < 40
    assert box.assigned("grace") == FIRST
    (box.top / "backups").unlink()
    (box.top / "away").rename(box.top / "backups")
    drained(box, "grace", NEXT)
