"""Holds: one user stays on their version, whatever the others do, until released or until the date."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from scenes import FIRST, LATER, NEXT, bump, deferrals, drained, is_busy, results

from t3flow.sandbox.host import Sandbox


def until(seconds: float) -> str:
    return (datetime.now().astimezone() + timedelta(seconds=seconds)).isoformat()


def test_a_held_user_stays_and_moves_once_released(box: Sandbox) -> None:
    """Bump, a second bump and drains skip them and say so; `status` shows the hold and no problem; the release moves them by itself."""
    said = box.t3flow("hold", "grace", "--reason", "a talk")
    assert said.stdout == "grace stays on their version until: t3flow release grace\n", said
    box.publish(NEXT, {"schema_level": 32})
    found = bump(box)
    assert (found["outcome"], results(found)["grace"]) == ("updated", "skipped")
    assert found["reason"] == "2 restarted, 1 held: grace"
    reason = found["users"]["grace"]["reason"]
    assert reason.startswith("held by ")
    assert reason.endswith("(a talk): t3flow release grace")
    assert box.assigned("grace") == FIRST
    state = box.document("status")
    assert state["default_version"] == NEXT
    assert state["users"]["grace"]["held"]["reason"] == "a talk"
    assert state["users"]["ada"]["held"] is None
    assert [each for each in state["problems"] if each["user"] == "grace"] == []
    assert "held by" in box.t3flow("status").stdout
    waiting = deferrals(box)["grace"]
    assert (waiting["waiting_for"], waiting["detail"]) == ("held", reason)
    again = bump(box)
    assert (again["outcome"], box.assigned("grace")) == ("up_to_date", FIRST)
    named = box.document("enqueue", "drain", "grace", "--wait")
    assert (results(named), named["users"]["grace"]["reason"]) == ({"grace": "deferred"}, reason)
    assert (box.level("grace"), box.level("ada")) == (30, 32)
    box.t3flow("hold", "grace", "--reason", "another talk")
    assert box.document("status")["users"]["grace"]["held"]["reason"] == "another talk"
    assert box.t3flow("release", "grace").stdout == "grace is no longer held and moves with the next drain or bump\n"
    drained(box, "grace", NEXT)
    assert box.document("status")["users"]["grace"]["held"] is None
    assert box.t3flow("release", "grace").stdout == "grace was not held\n"
    assert [each["action"] for each in box.document("actions")][:2] == ["release", "release"]


def test_a_hold_with_a_date_ends_by_itself(make_box: Callable[..., Sandbox]) -> None:
    """Also one that was set while the user already waits for idleness."""
    box = make_box(["ada", "grace"])
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    bump(box)
    assert box.t3flow("hold", "grace", "--until", until(3600)).returncode == 0
    box.control("grace", "turn/end", turn=turn)
    box.until(lambda: deferrals(box)["grace"]["waiting_for"] == "held", "the deferral says so")
    assert box.assigned("grace") == FIRST
    assert box.t3flow("hold", "grace", "--until", until(6)).returncode == 0
    drained(box, "grace", NEXT)


def test_a_rollback_of_all_skips_the_held_user_unless_named(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada", "grace"])
    box.publish(NEXT, {"schema_level": 32})
    bump(box)
    box.t3flow("hold", "grace")
    found = box.document("enqueue", "rollback", "--wait")
    assert (found["outcome"], results(found)) == ("done", {"ada": "rolled_back", "grace": "skipped"})
    assert "held and skipped: grace" in found["reason"]
    state = box.document("status")
    assert (box.assigned("ada"), box.assigned("grace"), state["default_version"]) == (FIRST, NEXT, FIRST)
    assert box.pairs("grace")
    named = box.document("enqueue", "rollback", "--user", "grace", "--wait")
    assert results(named) == {"grace": "rolled_back"}
    assert box.assigned("grace") == FIRST


def test_what_fails_for_a_held_user_alone_does_not_stop_the_others(make_box: Callable[..., Sandbox]) -> None:
    """The version is not tried on their databases; the drain after the release does, and leaves them where they are."""
    box = make_box(["ada", "grace"])
    box.database("grace").write_text("rubbish")
    box.t3flow("hold", "grace")
    box.publish(NEXT, {"schema_level": 32})
    found = bump(box)
    assert (found["outcome"], results(found)) == ("updated", {"ada": "restarted", "grace": "skipped"})
    box.t3flow("release", "grace")
    box.until(lambda: deferrals(box)["grace"]["waiting_for"] == "unreadable_state", "the drain says why not", 20)
    assert box.assigned("grace") == FIRST


def test_a_hold_during_a_bump_reaches_a_user_who_was_not_restarted_yet(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada", "grace"])
    box.publish(
        NEXT, {"schema_level": 32, "rules": [{"fault": "slow_start", "seconds": 4, "when": {"not_scratch": True}}]}
    )
    run = box.document("enqueue", "bump")["run"]
    box.until(lambda: NEXT in (box.assigned("ada"), box.assigned("grace")), "the first is being restarted", 60)
    second = "grace" if box.assigned("ada") == NEXT else "ada"
    box.t3flow("hold", second)
    box.until(lambda: box.document("show", run)["status"] == "succeeded", "the bump ended", 60)
    assert box.assigned(second) == FIRST
    assert deferrals(box)[second]["waiting_for"] == "held"
    box.t3flow("release", second)
    drained(box, second, NEXT)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["hold", "nobody"], "'nobody' is not in "),
        (["hold", "ada", "--until", "2020-01-01"], "2020-01-01 has passed: write for example 2026-12-24"),
        (["hold", "ada", "--until", "tomorrow"], "'tomorrow' is no date: write for example 2026-12-24"),
        (["hold", "ada", "--until", "2999-01-01"], "2999-01-01 is more than ten years ahead"),
        (["release", "nobody"], "'nobody' is not in "),
    ],
    ids=" ".join,
)
def test_a_wrong_hold_is_one_line(make_box: Callable[..., Sandbox], words: list[str], line: str) -> None:
    box = make_box(["ada"], start=False)
    from t3flow.service.consumer import create_state_dir, open_journal

    create_state_dir(box.settings.paths.state_dir)
    open_journal(box.settings, create=True)
    said = box.t3flow(*words)
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1), said
    assert said.stderr.startswith(f"t3flow: {line}"), said
    assert box.document("actions")[0]["result"].startswith(f"refused: {line}")


def test_a_held_user_who_left_the_map_can_be_released(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada", "grace"])
    box.publish(LATER, {"schema_level": 32})
    box.t3flow("hold", "grace")
    (box.top / "etc/user-map").write_text("ada@example.test=ada\n")
    time.sleep(0.1)
    assert box.t3flow("release", "grace").returncode == 0
