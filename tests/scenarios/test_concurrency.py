"""Many at once."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from scenes import NEXT, everybody_is_well, is_busy

from t3flow.sandbox.host import Sandbox

AT_ONCE = 50
VERBS = (
    ("enqueue", "bump"),
    ("enqueue", "bump", "--dry-run"),
    ("enqueue", "drain"),
    ("enqueue", "drain", "--dry-run"),
    ("enqueue", "drain", "grace"),
)


@pytest.mark.timeout(900)
def test_fifty_at_once(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    """All are taken, one after the other has the host, and the host is as after one of each."""
    box = make_box(["ada", "grace"], queue_url=queue_url)
    is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    asked = [
        subprocess.Popen(
            [sys.executable, "-m", "t3flow", *VERBS[number % len(VERBS)], "--json"],
            env=box.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(AT_ONCE)
    ]
    said = [child.communicate(timeout=300) for child in asked]
    assert [child.returncode for child in asked] == [0] * AT_ONCE, [errors for _, errors in said if errors]
    box.until(lambda: all(run["status"] != "running" for run in runs(box)), "all have ended", 120)
    ended = [run for run in runs(box) if not run["run"].startswith("drain-")]
    assert len(ended) == AT_ONCE
    outcomes = {run["outcome"] for run in ended}
    assert outcomes <= {"updated", "up_to_date", "dry_run_passed"}, outcomes
    events = [event for run in ended for event in box.journal.events(run["run"])]
    started = [event for event in events if (event.kind, event.step) == ("completed", "start_server")]
    assert len(started) == 1, "each later bump asks grace again, and restarts nobody"
    everybody_is_well(box, {"ada": NEXT, "grace": "0.0.24"})
    held = [(event.at, event.kind) for event in events if event.kind in ("acquired", "released")]
    kinds = [kind for _, kind in sorted(held)]
    assert kinds == ["acquired", "released"] * (len(kinds) // 2), "one at a time"


def runs(box: Sandbox) -> list[dict[str, str]]:
    """All runs but the sleeping drain of who is at work, and the watch after a bump."""
    found: list[dict[str, str]] = box.document("runs", "--limit", "200")
    sleeping = {entry["run"] for entry in box.document("deferrals")}
    return [run for run in found if run["run"] not in sleeping and run["workflow"] != "bake"]


def test_freeze_is_hammered(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    """Frozen and let go again all the time while a bump runs: it ends as one or the other, and everybody is well."""
    box = make_box(["ada", "grace", "linus"], queue_url=queue_url)
    box.publish(NEXT, {"schema_level": 32})
    run = box.document("enqueue", "bump")["run"]
    path = box.settings.paths.freeze_file

    def flip() -> bool:
        path.touch()
        path.unlink()
        return box.journal.run(run).status != "running"

    box.until(flip, "the bump has ended", 60)
    shown = box.document("show", run)
    assert shown["outcome"] in ("updated", "frozen"), shown
    moved = [user for user, entry in box.journal.run(run).result["users"].items() if entry["result"] == "restarted"]
    assert box.t3flow("unfreeze").returncode == 0
    if moved:
        box.until(lambda: box.document("deferrals") == [], "who was left is seen through", 60)
        everybody_is_well(box, dict.fromkeys(box.users, NEXT))
    else:
        everybody_is_well(box, dict.fromkeys(box.users, "0.0.24"))
