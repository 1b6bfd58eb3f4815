"""Faults of others, at the steps that meet them: the right outcome, a line that says what to do, and everybody as they were or moved."""

import os
import resource
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
from scenes import FIRST, NEXT, bump, drained, everybody_is_well, is_busy, results

from t3flow.sandbox.host import Sandbox
from t3flow.sandbox.registry import Registry

CANCEL_SECONDS = 10.0


def under(box: Sandbox, word: str) -> list[psutil.Process]:
    """Return the processes below the consumer with a word in their command line."""
    found = []
    for process in psutil.Process(box.processes["consumer"].pid).children(recursive=True):
        with suppress(psutil.Error):
            if any(word in part for part in process.cmdline()):
                found.append(process)
    return found


def test_npm_hangs_and_the_run_is_cancelled(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    """Though npm would wait for minutes, in each of the steps that start it."""
    box = make_box(["ada"], queue_url=queue_url)
    for stage in (False, True):
        box.publish(NEXT, {"schema_level": 32})
        faults = {"hang": True, "only": "tarball"} if stage else {"hang": True}
        Registry(box.top / "registry").set_faults(**faults)
        run = box.document("enqueue", "bump")["run"]
        box.until(lambda: under(box, "npm"), "npm runs")
        time.sleep(0.5)
        began = time.monotonic()
        assert box.t3flow("cancel", run).returncode == 0
        box.until(lambda run=run: box.has_ended(run), "it has ended")
        assert time.monotonic() - began < CANCEL_SECONDS
        assert box.document("show", run)["outcome"] == "cancelled"
        assert under(box, "npm") == []
    Registry(box.top / "registry").set_faults()
    everybody_is_well(box, {"ada": FIRST})
    assert bump(box)["outcome"] == "updated"


def test_npm_is_killed(make_box: Callable[..., Sandbox]) -> None:
    """As by the kernel for its appetite: the run ends with a line, leaves no half of a slot, and the next one works."""
    box = make_box(["ada"])
    box.publish(NEXT, {"schema_level": 32})
    Registry(box.top / "registry").set_faults(slow_seconds=1)
    run = box.document("enqueue", "bump")["run"]
    deadline = time.monotonic() + 60
    killed = 0
    journal = box.journal
    while journal.run(run).status == "running":
        for process in under(box, "npm-cli.js"):
            with suppress(psutil.Error):
                process.kill()
                killed += 1
        time.sleep(0.02)
        assert time.monotonic() < deadline
    assert killed
    shown = box.document("show", run)
    assert shown["outcome"] in ("error", "registry_unreachable"), shown["reason"]
    assert shown["reason"]
    assert [entry.name for entry in (box.top / "opt/t3/versions").iterdir()] == [FIRST]
    Registry(box.top / "registry").set_faults()
    everybody_is_well(box, {"ada": FIRST})
    assert bump(box)["outcome"] == "updated"


def test_no_file_descriptors_are_left(make_box: Callable[..., Sandbox]) -> None:
    """The consumer runs out of them: it ends the run, or waits, and with enough of them it works."""
    box = make_box(["ada", "grace"])
    box.publish(NEXT, {"schema_level": 32})
    consumer = box.processes["consumer"].pid
    before = resource.prlimit(consumer, resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path(f"/proc/{consumer}/fd").iterdir())
    resource.prlimit(consumer, resource.RLIMIT_NOFILE, (highest + 2, before[1]))
    run = box.document("enqueue", "bump")["run"]
    time.sleep(3)
    resource.prlimit(consumer, resource.RLIMIT_NOFILE, before)
    box.until(lambda: box.has_ended(run), "the run ends", 90)
    shown = box.document("show", run)
    if shown["outcome"] != "updated":
        assert shown["outcome"] in ("error", "backup_failed", "registry_unreachable", "rolled_back"), shown
        box.t3flow("unfreeze")
        everybody_is_well(box, {"ada": FIRST, "grace": FIRST})
        assert bump(box, "--again")["outcome"] == "updated"
    everybody_is_well(box, {"ada": NEXT, "grace": NEXT})


def test_a_server_that_ignores_sigterm(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"], behavior={"schema_level": 30, "rules": [{"fault": "ignores_sigterm", "when": {}}]})
    box.publish(NEXT, {"schema_level": 32})
    said = bump(box)
    assert said["outcome"] == "updated"
    assert said["users"]["ada"]["downtime_s"] < 5
    everybody_is_well(box, {"ada": NEXT})


def test_a_server_that_dies_after_it_was_verified(make_box: Callable[..., Sandbox]) -> None:
    """Its manager starts it again; it is on the version that was verified."""
    box = make_box(["ada", "grace"])
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    box.supervise("kill-main", "ada")
    box.until(lambda: box.supervise("status", "ada")["main_pid"], "it is back")
    box.await_pairing("ada")
    box.control("grace", "turn/end", turn=turn)
    drained(box, "grace", NEXT)
    everybody_is_well(box, {"ada": NEXT, "grace": NEXT})


@pytest.mark.parametrize("back", [True, False])
def test_the_dispatch_is_down_while_a_user_is_verified(make_box: Callable[..., Sandbox], back: bool) -> None:
    """Back within the time that verifying takes: nothing happened. Not back: the user is taken back, program and database."""
    box = make_box(["ada"])
    box.publish(NEXT, {"schema_level": 32})
    run = box.document("enqueue", "bump")["run"]
    box.until(lambda: box.assigned("ada") == NEXT, "ada is led there", 60)
    box.kill("dispatch")
    if back:
        time.sleep(1)
        box.start_dispatch()
    box.until(lambda: box.has_ended(run), "the run ends", 60)
    shown = box.document("show", run)
    if back:
        assert shown["outcome"] == "updated", shown["reason"]
        everybody_is_well(box, {"ada": NEXT})
        return
    box.start_dispatch()
    assert shown["outcome"] == "rolled_back", shown["reason"]
    assert "does not answer" in shown["reason"]
    assert box.document("status")["frozen"] is not None
    assert box.level("ada") == 30
    everybody_is_well(box, {"ada": FIRST})


def test_somebody_holds_the_database_locked(make_box: Callable[..., Sandbox]) -> None:
    """Nobody knows what they are about to write: no restart; the others go on."""
    box = make_box(["ada", "grace"])
    box.publish(NEXT, {"schema_level": 32})
    with closing(sqlite3.connect(box.database("ada"), isolation_level=None)) as holder:
        holder.execute("begin exclusive")
        said = bump(box)
        holder.execute("rollback")
    assert said["outcome"] == "updated", said
    assert results(said)["grace"] == "restarted"
    assert results(said)["ada"] == "deferred"
    assert "is writing to the database" in said["users"]["ada"]["reason"]
    box.until(lambda: box.t3flow("verify", "ada").returncode == 0, "the server of ada has its database again")
    everybody_is_well(box, {"ada": FIRST, "grace": NEXT})


def test_a_home_that_vanishes(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada", "grace"])
    box.publish(NEXT, {"schema_level": 32})
    home = box.base_dir("ada").parent
    away = home.with_name("away")
    home.rename(away)
    said = bump(box)
    assert said["outcome"] == "updated", said
    assert results(said)["grace"] == "restarted"
    assert results(said)["ada"] in ("skipped", "deferred")
    assert said["users"]["ada"]["reason"]
    shutil.rmtree(home, ignore_errors=True)
    away.rename(home)
    box.supervise("stop", "ada")
    box.supervise("start", "ada")
    box.await_pairing("ada")
    assert box.level("ada") == 30
    assert box.assigned("ada") == FIRST


def test_a_child_is_held_still(make_box: Callable[..., Sandbox]) -> None:
    """A reader in a home that never answers (its owner stopped it) costs its time-out, and its user is left alone."""
    box = make_box(["ada", "grace"], extra="\n[backup]\ntimeout_s = 3\n")
    box.publish(NEXT, {"schema_level": 32})
    run = box.document("enqueue", "bump")["run"]
    stopped: list[psutil.Process] = []
    deadline = time.monotonic() + 90
    while box.document("show", run)["status"] == "running":
        for process in under(box, "home/program.py") if not stopped else []:
            if any(part == "backup" for part in process.cmdline()):
                os.kill(process.pid, signal.SIGSTOP)
                stopped.append(process)
        assert time.monotonic() < deadline
    shown = box.document("show", run)
    assert shown["outcome"] in ("updated", "backup_failed"), shown["reason"]
    assert not any(process.is_running() for process in stopped)
