"""Users whom a bump leaves behind: each is deferred with the cause, stands in `status` with the remedy, and is moved by the next bump or a drain."""

import time
from collections.abc import Callable

import pytest
from scenes import (
    ALL,
    FIRST,
    LATER,
    NEXT,
    bump,
    deferrals,
    drained,
    everybody_is_well,
    is_busy,
    results,
    write,
)

from t3flow.sandbox.host import Sandbox

ODD = "update projection_projects set title = 'odd'"
EVEN = "update projection_projects set title = 'even'"


def lines_of(box: Sandbox, user: str) -> list[str]:
    """Return the lines of `status` about a user."""
    said = box.t3flow("status").stdout
    return [line for line in said.splitlines() if user in line and ";" in line]


def corrupt(box: Sandbox, user: str) -> bytes:
    """Stop a user's server and damage the database, so that there is no backup; returns what was there."""
    box.supervise("stop", user)
    database = box.database(user)
    was = database.read_bytes()
    database.write_bytes(was[:8192] + b"\xff" * 50_000)
    return was


def mended(box: Sandbox, user: str, was: bytes) -> None:
    """Undo `corrupt`."""
    box.database(user).write_bytes(was)
    for suffix in ("-wal", "-shm"):
        box.database(user).with_name(f"state.sqlite{suffix}").unlink(missing_ok=True)
    box.supervise("start", user)
    box.await_pairing(user)


@pytest.mark.both_queues
def test_who_was_left_out_is_moved_by_the_next_bump(box: Sandbox) -> None:
    """A user who was left out is named until the next bump, which moves only them; then all are up to date."""
    box.publish(NEXT, {"schema_level": 32})
    said = bump(box, "--without", "grace")
    assert results(said) == {"ada": "restarted", "grace": "skipped", "linus": "restarted"}
    assert "grace" in said["reason"]
    waiting = deferrals(box)["grace"]
    assert (waiting["target"], waiting["waiting_for"]) == (NEXT, "held")
    assert waiting["detail"] == f"left out of {NEXT} as requested: t3flow enqueue drain grace"
    assert any(line.endswith(": t3flow enqueue drain grace") for line in lines_of(box, "grace"))
    time.sleep(6)  # longer than a drain waits before it asks again
    assert (box.assigned("grace"), deferrals(box)["grace"]["waiting_for"]) == (FIRST, "held")
    servers = {user: box.supervise("status", user)["main_pid"] for user in ("ada", "linus")}
    said = bump(box)
    assert said["outcome"] == "updated", said
    assert results(said) == {"ada": "untouched", "grace": "restarted", "linus": "untouched"}
    assert {user: box.supervise("status", user)["main_pid"] for user in servers} == servers
    everybody_is_well(box, dict.fromkeys(ALL, NEXT))
    assert (deferrals(box), lines_of(box, "grace")) == ({}, [])
    shown = box.document("show", said["run"])
    started = [(each["step"], each["data"]["args"]) for each in shown["events"] if each["kind"] == "started"]
    assert [list(given[0]) for step, given in started if step == "back_up_users"] == [["grace"]]
    assert {given[0] for step, given in started if step == "back_up"} <= {"grace"}, (
        "the check of the dispatch pairs one"
    )
    assert bump(box)["outcome"] == "up_to_date"


@pytest.mark.parametrize("words", [("bump", "--target", NEXT), ("bump", "--again"), ("drain",), ("drain", "grace")])
def test_what_moves_who_was_left_out(make_box: Callable[..., Sandbox], words: tuple[str, ...]) -> None:
    box = make_box(["ada", "grace"])
    box.publish(NEXT, {"schema_level": 32})
    bump(box, "--without", "grace")
    said = box.document("enqueue", *words, "--wait")
    assert said["outcome"] == "updated", said
    everybody_is_well(box, dict.fromkeys(box.users, NEXT))
    assert deferrals(box) == {}


def test_left_out_again_stays_left_out(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada", "grace"])
    for version in (NEXT, LATER):
        box.publish(version, {"schema_level": 32})
        assert results(bump(box, "--without", "grace")) == {"ada": "restarted", "grace": "skipped"}
        assert deferrals(box)["grace"]["target"] == version
    assert bump(box, "--without", "grace")["outcome"] == "up_to_date"
    assert (deferrals(box)["grace"]["waiting_for"], box.assigned("grace")) == ("held", FIRST)


def test_who_had_no_backup_is_deferred_and_moved_once_there_is_one(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada", "grace"])
    was = corrupt(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    said = bump(box)
    assert results(said) == {"ada": "restarted", "grace": "skipped"}
    assert deferrals(box)["grace"]["target"] == NEXT
    line = next(line for line in lines_of(box, "grace") if "no backup" in line)
    assert line.endswith(": t3flow enqueue drain grace")
    said = bump(box)
    assert (said["outcome"], results(said)) == ("updated", {"ada": "untouched", "grace": "skipped"}), said
    mended(box, "grace", was)
    drained(box, "grace", NEXT)
    everybody_is_well(box, dict.fromkeys(box.users, NEXT))
    assert lines_of(box, "grace") == []


def test_an_accepted_version_is_not_blamed_for_one_users_databases(make_box: Callable[..., Sandbox]) -> None:
    """The gate fails for a user who was left behind: deferred with the evidence, and nothing is rejected or frozen."""
    box = make_box(["ada", "grace", "linus"])
    rule = {"fault": "mint_fails", "when": {"database_has_project_title": "odd"}}
    box.publish(NEXT, {"schema_level": 32, "rules": [rule]})
    bump(box, "--without", "grace", "--without", "linus")
    write(box.database("grace"), ODD)
    time.sleep(1.2)
    said = bump(box)
    assert said["outcome"] == "updated", said
    assert results(said) == {"ada": "untouched", "grace": "skipped", "linus": "restarted"}
    status = box.document("status")
    assert (status["rejected"], status["frozen"], status["default_version"]) == ({}, None, NEXT)
    assert "t3 auth pairing create" in deferrals(box)["grace"]["detail"]
    assert any(
        "t3 auth pairing create" in line and line.endswith(": t3flow enqueue drain grace")
        for line in lines_of(box, "grace")
    )
    write(box.database("grace"), EVEN)
    drained(box, "grace", NEXT)


def test_a_restart_that_fails_for_one_is_theirs_where_others_run_the_version(make_box: Callable[..., Sandbox]) -> None:
    """Two users run the accepted version and pair: the third is rolled back and held, and nothing is rejected or frozen."""
    box = make_box(["ada", "grace", "linus"])
    rule = {"fault": "pairing_500", "when": {"not_scratch": True, "database_has_project_title": "odd"}}
    box.publish(NEXT, {"schema_level": 32, "rules": [rule]})
    bump(box, "--without", "grace")
    write(box.database("grace"), ODD)
    time.sleep(1.2)
    said = bump(box)
    assert said["outcome"] == "updated", said
    assert results(said)["grace"] == "skipped"
    status = box.document("status")
    assert (status["rejected"], status["frozen"]) == ({}, None)
    everybody_is_well(box, {"ada": NEXT, "grace": FIRST, "linus": NEXT})
    assert (box.level("grace"), deferrals(box)["grace"]["waiting_for"]) == (30, "held")
    by_hand = box.document("enqueue", "drain", "grace", "--wait")
    assert by_hand["users"]["grace"]["result"] == "skipped", by_hand
    assert box.document("status")["frozen"] is None
    time.sleep(6)
    assert (deferrals(box)["grace"]["waiting_for"], box.assigned("grace")) == ("held", FIRST)
    write(box.database("grace"), EVEN)
    time.sleep(1.2)
    assert results(bump(box))["grace"] == "restarted"


def test_a_version_that_fails_for_several_users_is_to_blame_though_others_run_it(
    make_box: Callable[..., Sandbox],
) -> None:
    """If it fails for a second user as well, it is at fault: both are rolled back, and no third user is stopped for it."""
    box = make_box(["ada", "grace", "ken", "linus", "zoe"])
    rule = {"fault": "pairing_500", "when": {"not_scratch": True, "database_has_project_title": "odd"}}
    box.publish(NEXT, {"schema_level": 32, "rules": [rule]})
    bump(box, "--without", "grace", "--without", "ken", "--without", "linus")
    for user in ("grace", "ken", "linus"):
        write(box.database(user), ODD)
    time.sleep(1.2)
    said = bump(box)
    assert said["outcome"] == "rolled_back", said
    assert [results(said)[user] for user in ("grace", "ken", "linus")] == ["skipped", "rolled_back", "untouched"]
    status = box.document("status")
    assert (list(status["rejected"]), bool(status["frozen"])) == ([NEXT], True)
    everybody_is_well(box, {"ada": NEXT, "grace": FIRST, "ken": FIRST, "linus": FIRST, "zoe": NEXT})


def test_stopped_and_busy_users_are_asked_again(make_box: Callable[..., Sandbox]) -> None:
    """A bump to the default moves the users who do not run it, and is up to date only when all do."""
    box = make_box(["ada", "grace", "linus"])
    box.supervise("stop", "linus")
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    assert results(bump(box)) == {"ada": "restarted", "grace": "deferred", "linus": "deferred"}
    said = bump(box)
    assert (said["outcome"], said["status"]) == ("updated", "succeeded")
    assert results(said) == {"ada": "untouched", "grace": "deferred", "linus": "deferred"}
    box.control("grace", "turn/end", turn=turn)
    drained(box, "grace", NEXT)
    box.supervise("start", "linus")
    box.await_pairing("linus")
    drained(box, "linus", NEXT)
    assert bump(box)["outcome"] == "up_to_date"


def test_a_server_that_runs_another_program_than_its_link_is_behind(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada", "grace"])
    box.publish(NEXT, {"schema_level": 30})
    bump(box, "--without", "grace")
    box.t3flow("deferrals", "revoke", "grace")
    box.assign("grace", NEXT)  # by hand: the server goes on with the program that it was started from
    said = bump(box)
    assert results(said) == {"ada": "untouched", "grace": "restarted"}, said
    everybody_is_well(box, dict.fromkeys(box.users, NEXT))


def test_who_is_on_a_newer_version_is_left_there(make_box: Callable[..., Sandbox]) -> None:
    """A user was verified on a version that then failed for another user. The tag goes back; the databases stay with a version that knows them."""
    box = make_box(["ada", "grace"])
    write(box.database("grace"), "create table mine as select hex(randomblob(900000)) as word")  # restarted last
    rule = {"fault": "pairing_500", "when": {"not_scratch": True, "user": "grace"}}
    box.publish(LATER, {"schema_level": 33, "rules": [rule]})
    assert results(bump(box)) == {"ada": "restarted", "grace": "rolled_back"}
    box.t3flow("unfreeze")
    box.publish(NEXT, {"schema_level": 32})
    said = bump(box)
    assert results(said) == {"ada": "untouched", "grace": "restarted"}, said
    assert "enqueue rollback" in said["users"]["ada"]["reason"]
    everybody_is_well(box, {"ada": LATER, "grace": NEXT})
    said = bump(box)
    assert (said["outcome"], "ada" in said["reason"]) == ("up_to_date", True)


def test_adopt_leaves_nobody_behind_in_silence(make_box: Callable[..., Sandbox]) -> None:
    """A user who is assigned an older version than the default has a deferral afterwards."""
    box = make_box(["ada", "grace"])
    box.publish(NEXT, {"schema_level": 32})
    bump(box, "--without", "grace")
    with box.journal.transaction() as connection:  # as an earlier t3flow left it
        connection.execute("delete from deferrals")
        connection.execute("delete from left_behind")
    assert any(line.endswith(": t3flow enqueue bump") for line in lines_of(box, "grace"))
    said = box.t3flow("adopt")
    assert said.returncode == 0, said
    drained(box, "grace", NEXT)
