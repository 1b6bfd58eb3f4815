"""From a Node build to the real 0.0.42 and back: idle, busy and stopped users, a failure in place, an operator's rollback."""

from collections.abc import Callable

import pytest
from playing import (
    FAILS_IN_PLACE,
    LEVEL32,
    LONG_SECONDS,
    MARK,
    USERS,
    all_is_well,
    findings,
    level_of,
    nobody_is_shut_out,
    patient,
    publish,
    rows,
)
from scenes import bump, deferrals, drained, is_busy, results

from t3flow.sandbox import real
from t3flow.sandbox.host import Sandbox

BEFORE = "0.0.33"


@pytest.mark.timeout(1800)
def test_there_and_back(make_box: Callable[..., Sandbox]) -> None:
    """Ada is idle, Grace's agent is running, and the server of Linus is stopped."""
    box = patient(make_box)
    box.start(BEFORE, dict.fromkeys(USERS, LEVEL32), {"schema_level": 32})
    publish(box, FAILS_IN_PLACE)
    box.supervise("stop", "linus")
    box.start_consumer()
    had = {user: rows(box, user) for user in USERS}
    turn = is_busy(box, "grace")

    # It passes the gate and fails in place: database and program of ada are rolled back, no other user was touched.
    mark = box.base_dir("ada").parent / MARK
    mark.touch()
    with nobody_is_shut_out(box, ["ada", "grace"]):
        undone = bump(box, "--target", real.VERSION, timeout_seconds=LONG_SECONDS)
    assert undone["outcome"] == "rolled_back", undone
    assert results(undone) == {"ada": "rolled_back", "grace": "untouched", "linus": "untouched"}, undone
    all_is_well(box, {"ada": BEFORE, "grace": BEFORE})
    assert [box.level(user) for user in USERS] == [32, 32, 32]
    assert rows(box, "ada") == had["ada"]
    (kept,) = box.database("ada").parent.glob("replaced-*/state.sqlite")
    assert level_of(kept) == real.LEVEL, "it had migrated"
    assert box.document("status")["frozen"]
    assert real.VERSION in box.document("status")["rejected"]

    # The home is repaired: idle users move at once, the others when they can.
    mark.unlink()
    assert box.t3flow("unfreeze").returncode == 0
    with nobody_is_shut_out(box, ["ada", "grace"]):
        done = bump(box, "--target", real.VERSION, "--again", timeout_seconds=LONG_SECONDS)
        assert done["outcome"] == "updated", done
        assert results(done) == {"ada": "restarted", "grace": "deferred", "linus": "deferred"}, done
        waits = {user: entry["waiting_for"] for user, entry in deferrals(box).items()}
        assert waits == {"grace": "active_turn", "linus": "server_stopped"}
        all_is_well(box, {"ada": real.VERSION, "grace": BEFORE})
        box.control("grace", "turn/end", turn=turn)
        drained(box, "grace", real.VERSION, LONG_SECONDS)
    box.supervise("start", "linus")
    drained(box, "linus", real.VERSION, LONG_SECONDS)
    all_is_well(box, dict.fromkeys(USERS, real.VERSION))
    assert [box.level(user) for user in USERS] == [real.LEVEL] * 3
    assert {user: rows(box, user) for user in USERS} == had
    assert findings(box) == []

    # An operator rolls all users back: snapshots are restored, current databases are kept.
    back = box.document("enqueue", "rollback", "--to", BEFORE, "--wait", timeout_seconds=LONG_SECONDS)
    assert back["outcome"] == "done", back
    all_is_well(box, dict.fromkeys(USERS, BEFORE))
    assert [box.level(user) for user in USERS] == [32, 32, 32]
    assert {user: rows(box, user) for user in USERS} == had
    assert all(list(box.database(user).parent.glob("replaced-*/state.sqlite")) for user in USERS)
