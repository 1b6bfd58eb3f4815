"""The real t3 0.0.42 on a real systemd: update, failure in place, rollback, and adoption of a host that already runs it."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from box import ROOT, SOURCE, Box, fetch_wheels
from looks import ADA, ALL, GRACE, LINUS, bump, everybody_is_well, main_pid, results
from playing import FAILS_IN_PLACE, MARK
from programs import JOINS_UNIT

from t3flow.engine.journal import Event
from t3flow.sandbox import real
from t3flow.sandbox.probes import restarts_in

BEFORE = "0.0.33"
DATA = ROOT / "tests/data/state-level32.sqlite"
SHARED = "/srv/real"
SETTINGS = {
    "quiet_seconds": "2",
    "window": '""',
    "max_check_interval_s": "5",
    "verify_timeout_s": "90",
    "max_failures": "1000",  # on a busy machine, minting takes longer than the timeout of the dispatch
    "start_timeout_s": "90",
    "seeds": '"largest"',
    "order": '"map_order"',
}
LONG_SECONDS = 900
INSTALL, UNINSTALL = f"{SOURCE}/deploy/install.sh", f"{SOURCE}/deploy/uninstall.sh"

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(real.cached() is None, reason=f"{real.PACKAGE}@{real.VERSION} was not fetched"),
]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Box]:
    """Return the box for all scenes, adopted on a Node build. After a failure, print the service's log."""
    tarball = real.cached()
    assert tarball is not None
    box = Box(ALL, fetch_wheels(tmp_path_factory.mktemp("wheels")), share=f"{tarball.parent}:{SHARED}")
    try:
        box.boot()
        box.set_up(BEFORE, dict.fromkeys(ALL, DATA), {"schema_level": 32})
        box.lab(
            "from t3flow.sandbox import real; import sys; real.publish(Path('/srv/registry'), Path(sys.argv[1]), prelude=sys.argv[2])",
            f"{SHARED}/{tarball.name}",
            FAILS_IN_PLACE,
        )
        install(box)
        adopted = box.document("adopt", timeout_seconds=LONG_SECONDS)
        assert adopted["outcome"] == "done", adopted
        yield box
    finally:
        if request.session.testsfailed:
            print(box.try_run("journalctl", "--no-pager", "-u", "t3flow", "-n", "150").stdout, file=sys.stderr)
        box.close()


def install(box: Box) -> None:
    """Install t3flow as the docs say, with settings of a test."""
    box.run(INSTALL, timeout_seconds=300)
    for key, value in SETTINGS.items():
        box.sh(
            'sed -i "s|^#$1 = .*|$1 = $2|" /etc/t3flow/config.toml; grep -q "^$1 = " /etc/t3flow/config.toml',
            key,
            value,
        )
    box.run("systemctl", "restart", "t3flow")


def findings(box: Box, tries: int = 3) -> list[str]:
    """Return the findings of `t3flow doctor` except for the clock. Retries if a pairing timed out."""
    found = [each for each in box.document("doctor") if each["check"] != "clock"]
    if tries > 1 and any(each["check"] == "pairing" for each in found):
        return findings(box, tries - 1)
    return [f"{each['check']}: {each['problem']}" for each in found]


def level(box: Box, user: str) -> int:
    """Return the schema level of a user's database, read as its owner."""
    program = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('select max(migration_id) from effect_sql_migrations').fetchone()[0])"
    return int(
        box.run("runuser", "-u", user, "--", "python3", "-c", program, f"/home/{user}/.t3/userdata/state.sqlite")
    )


def verified(box: Box, *users: str) -> bool:
    """Return whether `t3flow verify` reports that these users (default: all) can pair, one after the other."""
    return all(box.t3flow("verify", user).returncode == 0 for user in users or ALL)


@contextmanager
def nobody_is_shut_out(box: Box, *users: str) -> Iterator[None]:
    """Let a browser pair for each user in a loop. Only pairings during a restart of the user's own server may fail."""
    stop, tried, failed = threading.Event(), [0], list[tuple[str, float, float, str]]()

    def browse(user: str) -> None:
        while True:
            began = time.time()
            tried[0] += 1
            if fault := box.pairing_fault(user):
                failed.append((user, began, time.time(), fault))
            if stop.wait(1.5):
                return

    threads = [threading.Thread(target=browse, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    away = restarts_in([events(box, run["run"]) for run in box.document("runs")])
    outside = [
        (user, began, ended, fault)
        for user, began, ended, fault in failed
        if not any(began < end and ended > start for start, end in away.get(user, []))
    ]
    assert not outside, (outside, away)
    assert tried[0] >= len(users)


def events(box: Box, run: str) -> list[Event]:
    """Return the journaled events of a run."""
    shown: list[dict[str, Any]] = box.document("show", run)["events"]
    return [
        Event(**{**event, "at": datetime.fromisoformat(event["at"]).timestamp(), "step": event["step"] or ""})
        for event in shown
    ]


def test_a_failure_in_place_is_undone(box: Box) -> None:
    """The real t3 passes the gate and fails in Ada's home: she is rolled back, and no other user is touched."""
    box.run("systemctl", "stop", f"t3-serve@{LINUS}")
    box.run("touch", f"/home/{ADA}/{MARK}")
    pid = main_pid(box, f"t3-serve@{GRACE}")
    with nobody_is_shut_out(box, ADA, GRACE):
        undone = bump(box, "--target", real.VERSION, timeout_seconds=LONG_SECONDS)
    assert undone["outcome"] == "rolled_back", undone
    assert results(undone) == {ADA: "rolled_back", GRACE: "untouched", LINUS: "untouched"}, undone
    assert main_pid(box, f"t3-serve@{GRACE}") == pid
    assert verified(box, ADA, GRACE)
    assert [level(box, user) for user in ALL] == [32, 32, 32]
    assert real.VERSION in box.document("status")["rejected"]
    assert real.VERSION not in box.run("systemctl", "status", "--no-pager", f"t3-serve@{ADA}"), "nothing of it is left"


def test_everybody_moves_to_it(box: Box) -> None:
    """Ada is updated at once; Grace (a job runs) and Linus (server stopped) later."""
    box.run("rm", "-f", f"/home/{ADA}/{MARK}")
    box.run("systemctl", "stop", f"t3-serve@{LINUS}")
    box.sh(f"{JOINS_UNIT} setsid sleep 1000 > /dev/null 2>&1 & echo $! > /run/job", GRACE)
    box.t3flow("unfreeze")
    with nobody_is_shut_out(box, ADA, GRACE):
        done = bump(box, "--target", real.VERSION, "--again", timeout_seconds=LONG_SECONDS)
        assert done["outcome"] == "updated", done
        assert results(done) == {ADA: "restarted", GRACE: "deferred", LINUS: "deferred"}, done
        waits = {entry["user"]: entry["waiting_for"] for entry in box.document("deferrals")}
        assert waits == {GRACE: "running_process", LINUS: "server_stopped"}
        box.sh("kill $(cat /run/job)")
        box.until(lambda: GRACE not in json.dumps(box.document("deferrals")), "Grace has moved", 300)
    box.run("systemctl", "start", f"t3-serve@{LINUS}")
    box.until(lambda: box.document("deferrals") == [], "Linus has moved", 300)
    everybody_is_well(box, real.VERSION)
    assert verified(box)
    assert findings(box) == []
    assert [level(box, user) for user in ALL] == [real.LEVEL] * 3


def test_a_person_takes_everybody_back(box: Box) -> None:
    """A rollback from the native to the Node program restores snapshots and keeps newer data."""
    back = box.document("enqueue", "rollback", "--to", BEFORE, "--wait", timeout_seconds=LONG_SECONDS)
    assert back["outcome"] == "done", back
    everybody_is_well(box, BEFORE)
    assert [level(box, user) for user in ALL] == [32, 32, 32]
    assert all(box.sh('ls -d /home/"$1"/.t3/userdata/replaced-*/state.sqlite', user) for user in ALL)


def test_a_host_that_runs_it_is_taken_over(box: Box) -> None:
    """t3flow is uninstalled, the real t3 installed globally, and t3flow installed again without stopping a server."""
    box.run(UNINSTALL)
    box.run("rm", "-rf", "/opt/t3", "/var/lib/t3flow")  # as on a host that t3flow has never seen
    box.run(
        "npm", "install", "--global", "--prefix", "/usr", "--ignore-scripts", f"t3@{real.VERSION}", timeout_seconds=300
    )
    box.run("systemctl", "restart", *(f"t3-serve@{user}" for user in ALL))
    box.until(lambda: all(box.pairs(user) for user in ALL), "everybody pairs on the real one", 300)
    box.write("/var/lib/t3-autoupdate/last-good", f"{real.VERSION}\n")
    pids = [main_pid(box, f"t3-serve@{user}") for user in ALL]
    install(box)
    box.t3flow("unfreeze")
    with nobody_is_shut_out(box, *ALL):
        done = box.document("adopt", timeout_seconds=LONG_SECONDS)
    assert (done["outcome"], done["target"]) == ("done", real.VERSION), done
    assert [main_pid(box, f"t3-serve@{user}") for user in ALL] == pids
    everybody_is_well(box, real.VERSION)
    assert verified(box)
    assert all("from the shell tracker's install" in found for found in findings(box)), findings(box)
    assert Path(box.run("readlink", "-f", f"/opt/t3/users/{ADA}").strip()).name == real.VERSION
