"""A host with the real 0.0.42 is adopted, updated to a later build of its generation, and rolled back."""

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from old_host import pids
from playing import (
    LEVEL52,
    LONG_SECONDS,
    USERS,
    all_is_well,
    begin_turn,
    end_turn,
    findings,
    nobody_is_shut_out,
    patient,
    publish,
    rows,
)
from scenes import bump, deferrals, drained, results

from t3flow.sandbox import real, shell_tracker
from t3flow.sandbox.host import Sandbox

LATER = "0.0.43-nightly.20260920.601"


def processes_from(folder: Path) -> list[str]:
    """Return the processes that run a program of a folder."""
    found = []
    for process in psutil.process_iter(["exe", "cmdline"]):
        words = [process.info["exe"] or "", *(process.info["cmdline"] or [])[:2]]
        if any(word.startswith(f"{folder}/") for word in words):
            found.append(f"{process.pid} {' '.join(words)}")
    return found


@pytest.mark.timeout(1800)
def test_taken_over_and_moved_on(make_box: Callable[..., Sandbox]) -> None:
    """The adoption stops no server. Then Ada is idle, Grace has a running turn, and the server of Linus is stopped."""
    box = patient(make_box)
    box.copy_databases(dict.fromkeys(USERS, LEVEL52))
    box.start_registry()
    publish(box)
    shell_tracker.start_published(box, real.VERSION, "--ignore-scripts")  # bundled packages are already compiled
    box.start_consumer()
    had, servers = {user: rows(box, user) for user in USERS}, pids(box)
    plan = box.document("adopt", "--dry-run", timeout_seconds=LONG_SECONDS)
    assert (plan["outcome"], plan["target"]) == ("dry_run_passed", real.VERSION), plan
    with nobody_is_shut_out(box, USERS):
        done = box.document("adopt", timeout_seconds=LONG_SECONDS)
    assert (done["outcome"], done["target"]) == ("done", real.VERSION), done
    assert pids(box) == servers
    all_is_well(box, dict.fromkeys(USERS, real.VERSION))
    assert all("from the shell tracker's install" in found for found in findings(box)), findings(box)
    assert deferrals(box) == {}

    # A later build: idle users leave no process of the old server, busy users are not touched.
    thread = begin_turn(box, "grace")
    box.supervise("stop", "linus")
    box.publish(LATER, generation="C")
    with nobody_is_shut_out(box, ["ada", "grace"]):
        moved = bump(box, timeout_seconds=LONG_SECONDS)
        assert moved["outcome"] == "updated", moved
        assert results(moved) == {"ada": "restarted", "grace": "deferred", "linus": "deferred"}, moved
        waits = {user: entry["waiting_for"] for user, entry in deferrals(box).items()}
        assert waits == {"grace": "active_turn", "linus": "server_stopped"}
        assert pids(box)["grace"] == servers["grace"]
        end_turn(box, "grace", thread)
        drained(box, "grace", LATER, LONG_SECONDS)
    assert processes_from(box.top / "usr") == []
    box.supervise("start", "linus")
    drained(box, "linus", LATER, LONG_SECONDS)
    all_is_well(box, dict.fromkeys(USERS, LATER))
    assert findings(box) == []

    # An operator rolls back to the real one while one user is busy.
    back = box.document("enqueue", "rollback", "--to", real.VERSION, "--wait", timeout_seconds=LONG_SECONDS)
    assert back["outcome"] == "done", back
    all_is_well(box, dict.fromkeys(USERS, real.VERSION))
    assert {user: rows(box, user) for user in USERS} == had
