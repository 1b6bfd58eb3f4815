"""What an earlier run has left behind when a later one comes: deferrals to older versions, versions already given, slots, servers that are down."""

from collections.abc import Callable

from scenes import FIRST, LATER, NEXT, bump, deferrals, drained, everybody_is_well, is_busy, results, write

from t3flow.sandbox.host import Sandbox

GRACE_FAILS = {"fault": "pairing_500", "when": {"not_scratch": True, "user": "grace"}}
DOOMED = {"fault": "crash_after", "seconds": 0.05, "when": {"sql": "select 1 from sqlite_master where name = 'doomed'"}}


def accepted(box: Sandbox) -> tuple[str, str]:
    """Default and last good."""
    status = box.document("status")
    return status["default_version"], status["last_good"]


def test_a_drain_to_an_older_version_takes_nobody_else_back(make_box: Callable[..., Sandbox]) -> None:
    """Ada waits for a version, and is not in the map while others are given a newer one: she gets hers, and the default stays."""
    box = make_box(["ada", "grace"])
    turn = is_busy(box, "ada")
    box.publish(NEXT, {"schema_level": 31})
    assert results(bump(box)) == {"ada": "deferred", "grace": "restarted"}
    box.publish(LATER, {"schema_level": 32})
    everybody = box.settings.paths.user_map.read_text()
    box.settings.paths.user_map.write_text("grace@example.test=grace\n")
    assert bump(box)["outcome"] == "updated"
    box.settings.paths.user_map.write_text(everybody)
    box.control("ada", "turn/end", turn=turn)
    drained(box, "ada", NEXT)
    assert accepted(box) == (LATER, LATER)
    everybody_is_well(box, {"ada": NEXT, "grace": LATER})


def test_the_first_drain_of_a_version_that_nobody_could_take_accepts_it(make_box: Callable[..., Sandbox]) -> None:
    """Its slot outlives a bump to the same version that comes to nothing, and whoever is new by then stays on what they have."""
    box = make_box(["ada", "grace"])
    person = [line for line in box.settings.paths.user_map.read_text().splitlines() if line.endswith("=grace")]
    box.settings.paths.user_map.write_text("ada@example.test=ada\n")
    (box.settings.paths.versions_dir / "users/grace").unlink()
    turn = is_busy(box, "ada")
    box.publish(NEXT, {"schema_level": 32})
    assert results(bump(box)) == {"ada": "deferred"}
    assert accepted(box) == (FIRST, FIRST)
    box.settings.paths.user_map.write_text("\n".join(["ada@example.test=ada", *person, ""]))
    box.end("dispatch")
    assert bump(box)["outcome"] == "gate_inconclusive"
    box.start_dispatch()
    (box.settings.paths.versions_dir / "users/grace").unlink()  # who has come since
    box.control("ada", "turn/end", turn=turn)
    drained(box, "ada", NEXT)
    assert accepted(box) == (NEXT, NEXT)
    everybody_is_well(box, {"ada": NEXT, "grace": FIRST})


def test_who_was_verified_in_a_bump_that_failed_is_deferred_no_more(make_box: Callable[..., Sandbox]) -> None:
    """Their older deferral would take them down again, once tracking is let go on; and its run ends, held back or not."""
    box = make_box(["ada", "grace", "linus"])
    turn = is_busy(box, "ada")
    box.publish(NEXT, {"schema_level": 31})
    assert results(bump(box))["ada"] == "deferred"
    drain = deferrals(box)["ada"]["run"]
    assert box.t3flow("deferrals", "revoke", "ada").returncode == 0
    box.control("ada", "turn/end", turn=turn)
    write(box.database("grace"), "create table big as select hex(randomblob(500000)) as word")
    busy = is_busy(box, "linus")
    box.publish(LATER, {"schema_level": 32, "rules": [GRACE_FAILS]})
    box.until(lambda: box.supervise("status", "ada")["state"] == "active", "she is up")
    said = bump(box)
    assert (said["outcome"], results(said)["ada"], results(said)["grace"]) == (
        "rolled_back",
        "restarted",
        "rolled_back",
    ), said
    assert results(said)["linus"] == "untouched"
    assert deferrals(box) == {}
    runs = lambda: {run["run"]: run["status"] for run in box.document("runs") if run["workflow"] == "drain"}  # noqa: E731
    box.until(lambda: "running" not in runs().values(), f"the drain ends ({drain})")
    box.control("linus", "turn/end", turn=busy)
    assert box.t3flow("unfreeze").returncode == 0
    everybody_is_well(box, {"ada": LATER, "grace": NEXT})


def test_nobody_is_drained_to_a_version_that_was_rejected(make_box: Callable[..., Sandbox]) -> None:
    """Not by a person's drain either; and a second rollback, which somebody typed as well, takes nobody further back."""
    box = make_box(["ada", "grace"])
    turn = is_busy(box, "ada")
    box.publish(NEXT, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    back = box.document("enqueue", "rollback", "--user", "grace", "--wait")
    assert results(back) == {"grace": "rolled_back"}
    assert box.t3flow("unfreeze").returncode == 0
    box.control("ada", "turn/end", turn=turn)
    box.until(lambda: "rejected" in deferrals(box)["ada"]["detail"], "it is said")
    assert results(box.document("enqueue", "drain", "ada", "--wait")) == {"ada": "deferred"}
    again = box.document("enqueue", "rollback", "--wait")
    assert (again["outcome"], results(again)) == ("done", {"ada": "untouched", "grace": "untouched"}), again
    everybody_is_well(box, {"ada": FIRST, "grace": FIRST})


def test_a_second_rollback_is_no_step_further(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"])
    for number, version in enumerate([NEXT, LATER]):
        box.publish(version, {"schema_level": 31 + number})
        assert bump(box)["outcome"] == "updated"
    assert results(box.document("enqueue", "rollback", "--wait")) == {"ada": "rolled_back"}
    again = box.document("enqueue", "rollback", "--wait")
    assert (again["outcome"], results(again)) == ("done", {"ada": "untouched"})
    assert "--to" in again["users"]["ada"]["reason"]
    everybody_is_well(box, {"ada": NEXT})
    assert results(box.document("enqueue", "rollback", "--to", FIRST, "--wait")) == {"ada": "rolled_back"}


def test_who_is_on_the_version_already_can_still_go_back(make_box: Callable[..., Sandbox]) -> None:
    """A second bump to it takes a snapshot of the database as the version has it: the one from before it stays, and is what counts."""
    box = make_box(["ada", "grace"])
    write(box.database("grace"), "create table big as select hex(randomblob(500000)) as word")
    box.publish(NEXT, {"schema_level": 32, "rules": [GRACE_FAILS]})
    assert results(bump(box)) == {"ada": "restarted", "grace": "rolled_back"}
    assert box.t3flow("unfreeze").returncode == 0
    write(box.database("ada"), "create table newer as select 1 as one")
    assert results(bump(box, "--again", "--without", "grace")) == {"ada": "untouched", "grace": "skipped"}
    assert accepted(box) == (NEXT, NEXT)
    back = box.document("enqueue", "rollback", "--user", "ada", "--wait")
    assert (results(back), box.level("ada")) == ({"ada": "rolled_back"}, 30), back
    everybody_is_well(box, {"ada": FIRST, "grace": FIRST})


def test_a_rollback_starts_who_was_crashing(make_box: Callable[..., Sandbox]) -> None:
    """That is what rollbacks are asked for: the server was down between two tries, or had been given up."""
    box = make_box(["ada", "grace"])
    box.publish(NEXT, {"schema_level": 32, "rules": [DOOMED]})
    assert bump(box)["outcome"] == "updated"
    write(box.database("ada"), "create table doomed as select 1 as one")
    box.supervise("stop", "ada")
    box.supervise("start", "ada")
    box.until(lambda: box.supervise("status", "ada")["state"] == "failed", "her server was given up", 60)
    back = box.document("enqueue", "rollback", "--wait")
    assert (back["outcome"], results(back)) == ("done", {"ada": "rolled_back", "grace": "rolled_back"}), back
    assert back["users"]["ada"]["downtime_s"]
    everybody_is_well(box, {"ada": FIRST, "grace": FIRST})


def test_a_map_that_names_nobody_for_a_moment(make_box: Callable[..., Sandbox]) -> None:
    """Nothing is accepted that nobody runs, and no deferral is dropped."""
    box = make_box(["ada", "grace"])
    turn = is_busy(box, "ada")
    box.publish(NEXT, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    text = box.settings.paths.user_map.read_text()
    box.settings.paths.user_map.write_text("")
    box.publish(LATER, {"schema_level": 32})
    box.control("ada", "turn/end", turn=turn)
    said = bump(box)
    assert (said["outcome"], "names no user" in said["reason"]) == ("error", True), said
    assert accepted(box) == (NEXT, NEXT)
    box.until(lambda: deferrals(box)["ada"]["waiting_for"] == "unreadable_state", "her drain waits")
    box.settings.paths.user_map.write_text(text)
    assert results(box.document("enqueue", "drain", "--wait")) == {"ada": "restarted"}


def test_what_cannot_be_told_before_the_stop_is_no_failure_of_the_build(make_box: Callable[..., Sandbox]) -> None:
    """Her server's settings are gone: she is deferred, the others go on, and nothing is frozen or rejected."""
    box = make_box(["ada", "grace"])
    environment = box.settings.paths.serve_env_dir / "ada.env"
    text = environment.read_text()
    pid = box.supervise("status", "ada")["main_pid"]
    environment.unlink()
    box.publish(NEXT, {"schema_level": 32})
    said = bump(box)
    assert (said["outcome"], results(said)) == ("updated", {"ada": "deferred", "grace": "restarted"}), said
    assert "ada.env" in said["users"]["ada"]["reason"]
    assert box.supervise("status", "ada")["main_pid"] == pid
    environment.write_text(text)
    status = box.document("status")
    assert (status["frozen"], status["rejected"]) == (None, {})
