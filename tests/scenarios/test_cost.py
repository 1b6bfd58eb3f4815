"""What a bump does for each user, counted: nothing of it grows with the number of users, whatever the machine's load."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from conftest import LEVEL30
from scenes import FIRST, NEXT, bump, results, write

from t3flow.sandbox.host import Sandbox

COUNTED = """#!/bin/sh
printf 'process %s\\n' "$*" >> "{log}"
exec {real} "$@"
"""
OWNER = "host/home/program.py"
MOST_REQUESTS_WHILE_STOPPED = 5
"""Two after the stop (is a process left, was it started again), two around the assignment, one before the start."""


def counted(make_box: Callable[..., Sandbox], count: int) -> tuple[Sandbox, Path]:
    """Return a host whose requests to the manager and whose starts of processes by t3flow are appended to one file, in their order."""
    box = make_box([f"user{number}" for number in range(count)], start=False)
    text = box.config.read_text().replace("[gate]", "[gate]\nseeds = 'largest'", 1)
    box.config.write_text(text)
    log = box.requests = box.top / "log" / "happened"
    program = box.top / "tools" / "setpriv"
    program.write_text(COUNTED.format(log=log, real=shutil.which("setpriv")))
    program.chmod(0o755)
    box.start(FIRST, dict.fromkeys(box.users, LEVEL30), {"schema_level": 30})
    box.start_consumer()
    box.publish(NEXT, {"schema_level": 30})
    log.write_text("")
    return box, log


def happened(log: Path) -> list[str]:
    """Return what happened, without the looks of the consumer's observer, which come by the clock."""
    return [line for line in log.read_text().splitlines() if not line.startswith("request list")]


def while_stopped(lines: list[str], user: str) -> list[str]:
    """Return what happened between the stop and the start of a user's server."""
    stopped, started = (lines.index(f"request {verb} {user}") for verb in ("stop", "reset-failed"))
    return lines[stopped + 1 : started]


def owners(lines: list[str]) -> Counter[tuple[str, str]]:
    """Return how many processes worked in each home: (command, user) → number."""
    words = [line.partition(OWNER)[2].split() for line in lines if OWNER in line]
    return Counter((each[0], Path(each[1]).parent.name) for each in words)


def test_a_bump_costs_each_user_the_same_on_a_larger_host(make_box: Callable[..., Sandbox]) -> None:
    found = {}
    for count in (2, 5):
        box, log = counted(make_box, count)
        said = bump(box)
        assert results(said) == dict.fromkeys(box.users, "restarted"), said
        lines = happened(log)
        for command in ("backup", "state"):
            starts = sorted(owners(lines)[command, user] for user in box.users)
            assert starts == [1] * (count - 1) + [2], (
                "one for each user, and one more for who was paired last before the first restart"
            )
        gaps = [while_stopped(lines, user) for user in box.users]
        for user, gap in zip(box.users, gaps, strict=True):
            assert all(line == f"request status {user}" for line in gap), gap
        found[count] = min(len(gap) for gap in gaps)  # a loaded machine adds looks whether a process is left
        assert found[count] <= MOST_REQUESTS_WHILE_STOPPED, gaps
    assert found[2] == found[5], "a user is not away for longer on a larger host"


def test_databases_that_changed_since_the_gate_are_backed_up_again_before_the_stop(
    make_box: Callable[..., Sandbox],
) -> None:
    """The control of the test above: a change is noticed, and costs another snapshot while the server still runs."""
    box, log = counted(make_box, 2)
    assert box.t3flow("enqueue", "bump").returncode == 0
    sql = "select count(*) from events where kind = 'completed' and step = 'back_up_users'"
    box.until(lambda: box.journal.query(sql)[0][0], "the snapshots are taken")
    write(box.database("user1"), "create table notes (text)")
    box.until(lambda: not box.journal.runs("workflow = 'bump' and status = 'running'"), "the bump has ended", 120)
    [run] = box.journal.runs("workflow = 'bump'")
    assert results(run.result) == dict.fromkeys(box.users, "restarted"), run.result
    lines = happened(log)
    assert (owners(lines)["backup", "user1"], owners(lines)["state", "user1"]) == (2, 2)
    assert not any(OWNER in line for line in while_stopped(lines, "user1")), "the second snapshot is no outage"
    newest = max(box.journal.query("select created, path from backups where user = 'user1'"))[1]
    assert "notes" in Path(newest).read_bytes().decode(errors="replace"), "a rollback would lose nothing"
