"""Hosts as they are: odd names, users that cannot be managed, a launcher that a person overwrites, homes that come and go."""

import os
import subprocess
from collections.abc import Callable

from scenes import FIRST, NEXT, bump, deferrals, drained, everybody_is_well, is_busy, results, write

from t3flow.deferrals import long_waits
from t3flow.host import slots
from t3flow.host.records import deferral_records
from t3flow.sandbox.host import Sandbox


def map_of(box: Sandbox, *lines: str) -> None:
    """Another user map."""
    (box.top / "etc/user-map").write_text("".join(f"{line}\n" for line in lines))


def lines_of_status(box: Sandbox) -> list[str]:
    """Return what `status` says to people."""
    return box.t3flow("status").stdout.splitlines()


def test_names_as_linux_allows_them(make_box: Callable[..., Sandbox]) -> None:
    """Dots, capitals, a domain, a backslash: each is restarted and pairs."""
    users = ["ada.lovelace", "Grace", "bob@corp.example", "CORP\\eve"]
    box = make_box(users)
    box.publish(NEXT, {"schema_level": 32})
    assert results(bump(box)) == dict.fromkeys(users, "restarted")
    everybody_is_well(box, dict.fromkeys(users, NEXT))


def test_everybody_has_a_link_before_the_default_moves(box: Sandbox) -> None:
    """Also who is in a line that is refused, has settings or a state alone, or an unknown name."""
    for user in ("stray", "has space"):
        (box.base_dir(user) / "userdata").mkdir(parents=True)
    (box.top / "etc/t3-serve/spare.env").write_text("T3_PORT=4123\n")
    map_of(box, *(f"{user}@example.test={user}" for user in box.users), "x@example.test=odd;name", "y=..")
    box.publish(NEXT, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    found = slots.links(box.settings.paths.versions_dir)
    assert {user for user, version in found.items() if version == FIRST} >= {"stray", "has space", "spare", "odd;name"}
    assert {found[user] for user in box.users} == {NEXT}
    shown = box.document("status")["users"]["spare"]
    assert (shown["managed"], "not in the user map" in shown["why_unmanaged"]) == (False, True)


def test_an_overwritten_launcher_stops_nobody_and_is_put_back(box: Sandbox) -> None:
    """Status says so first; bump, drain and rollback end before the first stop; `doctor --fix` mends it."""
    box.publish(NEXT, {"schema_level": 32})
    launcher = box.settings.paths.launcher
    pids = [box.supervise("status", user)["main_pid"] for user in box.users]
    launcher.write_text("#!/usr/bin/env node\n")
    assert f"{launcher} was overwritten" in lines_of_status(box)[0]
    ended = bump(box)
    assert (ended["outcome"], "was overwritten" in ended["reason"]) == ("gate_inconclusive", True), ended
    assert [box.supervise("status", user)["main_pid"] for user in box.users] == pids
    shown = box.document("status")
    assert (shown["frozen"], shown["rejected"]) == (None, {})
    fixed = box.t3flow("doctor", "--fix")
    assert f"fixed: {launcher} is the launcher again" in fixed.stdout
    assert not any(line.startswith(f"{launcher} was") for line in lines_of_status(box))
    assert not any(each["check"] == "launcher" for each in box.document("doctor"))
    assert results(bump(box)) == dict.fromkeys(box.users, "restarted")


def test_a_node_that_is_gone_is_found_before_the_stop(box: Sandbox) -> None:
    """The Node of a slot in use is gone: no server of that version can be started."""
    box.publish(NEXT, {"schema_level": 32})
    is_busy(box, "ada")
    assert results(bump(box))["ada"] == "deferred"
    gated = slots.slot_path(box.settings.paths.versions_dir, NEXT) / ".node"
    target = os.readlink(gated)
    gated.unlink()
    gated.symlink_to("/nonexistent/node")
    ended = box.document("enqueue", "drain", "ada", "--wait")
    assert ended["users"]["ada"]["result"] == "deferred"
    gated.unlink()
    gated.symlink_to(target)
    assert box.assigned("ada") == FIRST


def test_a_server_beside_the_unit_makes_its_user_unmanaged(box: Sandbox) -> None:
    """It is named, it lives on, and everybody else is moved."""
    box.publish(NEXT, {"schema_level": 32})
    words = [str(box.settings.paths.launcher), "serve", "--port", "0", "--base-dir", str(box.base_dir("linus"))]
    beside = subprocess.Popen(
        words,
        env={**box.environment, "T3FLOW_SANDBOX_USER": "linus"},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        box.until(lambda: not box.document("status")["users"]["linus"]["managed"], "linus is not managed")
        assert any(line.startswith("linus is not managed: process ") for line in lines_of_status(box))
        ended = bump(box)
        assert results(ended) == {"ada": "restarted", "grace": "restarted", "linus": "skipped"}, ended
        assert "also serves" in ended["users"]["linus"]["reason"]
        assert beside.poll() is None
        assert box.assigned("linus") == FIRST
    finally:
        beside.kill()
        beside.wait()
    everybody_is_well(box, {"ada": NEXT, "grace": NEXT, "linus": FIRST})


def test_a_deferral_outlives_a_slip_in_the_user_map(box: Sandbox) -> None:
    """Out of the map while deferred, back later: they are moved then. Meanwhile the doctor says so."""
    box.publish(NEXT, {"schema_level": 32})
    turn = is_busy(box, "ada")
    bump(box)
    map_of(box, *(f"{user}@example.test={user}" for user in box.users if user != "ada"))
    box.control("ada", "turn/end", turn=turn)
    box.until(lambda: "is not in the user map" in deferrals(box)["ada"]["detail"], "the deferral says why it waits")
    assert deferrals(box)["ada"]["waiting_for"] == "unreadable_state"
    assert any("ada is deferred" in each["problem"] for each in box.document("doctor"))
    map_of(box, *(f"{user}@example.test={user}" for user in box.users))
    drained(box, "ada", NEXT)


def test_a_home_that_was_away_at_the_bump_is_tried_before_it_is_moved(box: Sandbox) -> None:
    """A build that is bad for that database alone never runs on it."""
    fault = {"fault": "migration_throws", "when": {"database_has_project_title": "compiler"}}

    write(box.database("linus"), "update projection_projects set title = 'compiler'")
    box.supervise("stop", "linus")
    home = box.base_dir("linus")
    away = home.with_name("away")
    home.rename(away)
    box.publish(NEXT, {"schema_level": 32, "rules": [fault]})
    ended = bump(box)
    assert results(ended) == {"ada": "restarted", "grace": "restarted", "linus": "deferred"}, ended
    away.rename(home)
    box.supervise("start", "linus")
    box.until(
        lambda: "linus" in deferrals(box) and deferrals(box)["linus"]["waiting_for"] == "unreadable_state",
        "it was tried",
    )
    assert (box.assigned("linus"), box.document("status")["frozen"]) == (FIRST, None)
    assert box.pairs("linus")


def test_a_wait_that_never_ends_is_said(box: Sandbox) -> None:
    """After many checks of one cause, status has a line with the command to run."""
    box.publish(NEXT, {"schema_level": 32})
    is_busy(box, "ada")
    bump(box)
    for _ in range(long_waits.OLD_CHECKS):
        long_waits.note(box.journal, "ada", "active_turn", "a turn is running")
    lines = lines_of_status(box)
    assert any(line.startswith("ada has waited") and line.endswith("t3flow enqueue drain ada") for line in lines), lines
    assert deferral_records.deferral(box.journal, "ada") is not None


def test_a_consumer_renews_the_launcher_of_an_earlier_t3flow(box: Sandbox) -> None:
    """An upgrade changes its text; what is not ours stays, and is said."""
    launcher = box.settings.paths.launcher
    wanted = launcher.read_text()
    for text, renewed in ((wanted.replace("exec ", "exec  "), True), ("#!/bin/sh\nexec node /x\n", False)):
        box.end("consumer")
        launcher.write_text(text)
        box.start_consumer()
        assert (launcher.read_text() == wanted) is renewed
