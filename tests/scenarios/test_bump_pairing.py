"""Users who cannot pair before a bump or a drain: they stop nobody else, and a build that breaks pairing can be left forwards."""

import time
from collections.abc import Callable

from scenes import FIRST, LATER, NEXT, bump, deferrals, drained, everybody_is_well, is_busy, results, write

from t3flow.sandbox.host import Sandbox

BROKEN_WHILE_ODD = {
    "schema_level": 30,
    "rules": [{"fault": "pairing_500", "when": {"not_scratch": True, "database_has_project_title": "odd"}}],
}
"""A build whose pairing breaks for users with a project of that name, and works for others."""


def break_pairing(box: Sandbox, *users: str) -> None:
    """Let these users fail to pair, on a build that is broken so."""
    for user in users:
        write(box.database(user), "update projection_projects set title = 'odd'")
        assert not box.pairs(user, tries=1)
    time.sleep(1.2)


def test_three_who_cannot_pair_stop_neither_a_bump_nor_a_drain(make_box: Callable[..., Sandbox]) -> None:
    """They are moved too, and the new version repairs them; the last one, who is busy, is drained when the turn ends."""
    box = make_box(["ada", "bea", "cleo", "grace"], behavior=BROKEN_WHILE_ODD)
    break_pairing(box, "ada", "bea", "cleo")
    turn = is_busy(box, "cleo")
    box.publish(NEXT, {"schema_level": 32})
    began = time.monotonic()
    said = bump(box)
    print(f"3 broken of 4: {said['outcome']} in {time.monotonic() - began:.1f} s")
    assert said["outcome"] == "updated", said
    assert results(said) == {"ada": "restarted", "bea": "restarted", "cleo": "deferred", "grace": "restarted"}
    assert box.document("status")["rejected"] == {}
    box.control("cleo", "turn/end", turn=turn)
    drained(box, "cleo", NEXT)
    everybody_is_well(box, dict.fromkeys(box.users, NEXT))


def test_who_could_not_pair_before_is_no_fault_of_the_build(make_box: Callable[..., Sandbox]) -> None:
    """A user who pairs neither before nor after is rolled back and held; the others are moved, and nothing is rejected or frozen."""
    box = make_box(["ada", "grace", "linus"], behavior=BROKEN_WHILE_ODD)
    break_pairing(box, "ada")
    box.publish(NEXT, {**BROKEN_WHILE_ODD, "schema_level": 32})
    said = bump(box)
    assert said["outcome"] == "updated", said
    assert results(said) == {"ada": "skipped", "grace": "restarted", "linus": "restarted"}
    status = box.document("status")
    assert (status["rejected"], status["frozen"], status["default_version"]) == ({}, None, NEXT)
    assert (box.assigned("ada"), box.level("ada")) == (FIRST, 30)
    assert box.supervise("status", "ada")["main_pid"]
    assert deferrals(box)["ada"]["waiting_for"] == "held"
    lines = box.t3flow("status").stdout.splitlines()
    assert any("ada stays on" in line and line.endswith(": t3flow enqueue drain ada") for line in lines), lines


def test_a_build_that_breaks_pairing_for_all_is_left_by_an_exact_target(make_box: Callable[..., Sandbox]) -> None:
    """A scheduled bump is inconclusive and names the command; with a named version it continues, and the verification decides."""
    box = make_box(["ada", "grace"], behavior=BROKEN_WHILE_ODD)
    break_pairing(box, "ada", "grace")
    box.publish(NEXT, {"schema_level": 32})
    said = bump(box)
    assert said["outcome"] == "gate_inconclusive", said
    assert f"t3flow enqueue bump --target {NEXT}" in said["reason"]
    assert results(bump(box, "--target", NEXT)) == {"ada": "restarted", "grace": "restarted"}
    everybody_is_well(box, dict.fromkeys(box.users, NEXT))


def test_a_target_that_does_not_pair_either_is_undone_and_blamed_on_nobody(make_box: Callable[..., Sandbox]) -> None:
    """Also for the only user of a host, where there is no witness for the dispatch."""
    for users in (["ada"], ["ada", "grace"]):
        box = make_box(users, behavior=BROKEN_WHILE_ODD)
        break_pairing(box, *users)
        box.publish(NEXT, {**BROKEN_WHILE_ODD, "schema_level": 32})
        said = bump(box, "--target", NEXT)
        assert said["outcome"] == "gate_inconclusive", said
        assert any("no user pairs" in notice for notice in said["notices"])
        status = box.document("status")
        assert (status["rejected"], status["frozen"], status["default_version"]) == ({}, None, FIRST)
        for user in users:
            assert (box.assigned(user), box.level(user)) == (FIRST, 30)
            assert box.supervise("status", user)["main_pid"]


def test_who_could_not_pair_before_is_no_witness_against_the_dispatch(make_box: Callable[..., Sandbox]) -> None:
    """A version that breaks pairing is blamed although the only other user cannot pair: she could not before, and the previous version pairs again."""
    box = make_box(["ada", "grace"], behavior=BROKEN_WHILE_ODD)
    break_pairing(box, "grace")
    box.publish(NEXT, {"schema_level": 32, "rules": [{"fault": "pairing_500", "when": {"not_scratch": True}}]})
    said = bump(box)
    assert (said["outcome"], results(said)) == ("rolled_back", {"ada": "rolled_back", "grace": "untouched"}), said
    status = box.document("status")
    assert (list(status["rejected"]), bool(status["frozen"])) == ([NEXT], True)
    assert (box.assigned("ada"), box.pairs("ada")) == (FIRST, True)


def test_who_is_left_out_never_speaks_against_the_dispatch(make_box: Callable[..., Sandbox]) -> None:
    """The broken users are left out, so nothing counts against the stopped one: nothing is inconclusive."""
    box = make_box(["ada", "bea", "grace"], behavior=BROKEN_WHILE_ODD)
    break_pairing(box, "ada", "bea")
    box.supervise("stop", "grace")
    box.publish(NEXT, {"schema_level": 32})
    said = bump(box, "--without", "ada", "--without", "bea")
    assert said["outcome"] == "updated", said
    assert results(said) == {"ada": "skipped", "bea": "skipped", "grace": "deferred"}


def test_a_drain_by_name_moves_a_user_though_no_user_pairs(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada", "grace"], behavior=BROKEN_WHILE_ODD)
    box.publish(NEXT, BROKEN_WHILE_ODD)
    bump(box, "--without", "grace")
    break_pairing(box, "ada", "grace")
    box.publish(LATER, {"schema_level": 32})
    turn = is_busy(box, "ada")
    box.supervise("stop", "grace")
    said = bump(box, "--target", LATER)
    assert results(said) == {"ada": "deferred", "grace": "deferred"}, said
    box.control("ada", "turn/end", turn=turn)
    box.until(lambda: "cannot pair" in deferrals(box)["ada"]["detail"], "on its own it waits")
    assert box.document("enqueue", "drain", "ada", "--wait")["outcome"] == "updated"
    assert box.assigned("ada") == LATER
