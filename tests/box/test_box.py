"""From a clean host with systemd to a running tracker, and back: one box, with scenes in the order of a host's life.

Real units, users, journald, npm and power cuts. Each scene begins where the one before it ended.
"""

import base64
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import ROOT, SOURCE, TOKEN, Box, documented, fetch_wheels, pattern_of
from killing import killed_at
from looks import (
    ADA,
    ALL,
    GRACE,
    LINUS,
    bump,
    cursor,
    everybody_is_well,
    logged,
    main_pid,
    results,
    standin,
    status_text,
)
from programs import BURNS, JOINS_UNIT, LIMITS, STOPS, TAKES_MEMORY, TAKES_PROCESSES, WHAT_IT_SEES

DATA = ROOT / "tests/data"
FIRST = "0.0.24"
TRACKED, GOOD, BUSY, BAD, CUT, UPGRADED = (
    f"0.0.25-nightly.2026060{day}.{number}" for number, day in enumerate((1, 2, 3, 4, 5, 6), 501)
)
LEVEL = {"schema_level": 32}
SETTINGS = {
    "quiet_seconds": "2",
    "window": '""',
    "max_check_interval_s": "5",
    "verify_timeout_s": "8",
    "seeds": '"largest"',
    "order": '"map_order"',
    "retry_for_s": "10",
}
MAX_SECONDS_TO_FIRST_BUMP = 120


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the packages of an installation for the box's Python."""
    return fetch_wheels(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def box(wheels: Path, request: pytest.FixtureRequest) -> Iterator[Box]:
    """Return the box for all scenes. After a failure, print the service's log."""
    box = Box(ALL, wheels)
    try:
        box.boot()
        box.set_up(FIRST, dict.fromkeys(ALL, DATA / "state-level30.sqlite"), {"schema_level": 30})
        yield box
    finally:
        if request.session.testsfailed:
            print(box.try_run("journalctl", "--no-pager", "-u", "t3flow", "-n", "150").stdout, file=sys.stderr)
        box.close()


# Installing ---------------------------------------------------------------------------------------------------------


def test_a_host_is_installed_by_the_lines_of_the_docs(box: Box) -> None:
    """From the first line typed to the first verified bump in under two minutes; nothing is restarted before the bump.

    The shell tracker has just given everybody a version but Grace, whom it deferred, and somebody has frozen the host with `touch`.
    """
    box.publish(TRACKED, {"schema_level": 30})
    box.run("npm", "install", "--global", "--prefix", "/usr", "--ignore-scripts", f"t3@{TRACKED}")
    box.run("systemctl", "restart", f"t3-serve@{ADA}", f"t3-serve@{LINUS}")
    box.write(f"/var/lib/t3-autoupdate/deferred/{GRACE}", f"{TRACKED}\n")
    box.write("/var/lib/t3-autoupdate/last-good", f"{TRACKED}\n")
    box.run("touch", "/etc/t3-autoupdate.freeze")
    began = time.monotonic()
    lines = documented("# Installing t3flow")
    assert len(lines) <= 5
    assert [line.partition(" ")[0] for line in lines] == [
        "git",
        f"{SOURCE}/deploy/install.sh",
        "editor",
        "t3flow",
        "t3flow",
    ]
    said = box.sh(lines[1])
    assert "t3flow adopt" in said
    for key, value in SETTINGS.items():  # the third line
        box.sh(
            'sed -i "s|^#$1 = .*|$1 = $2|" /etc/t3flow/config.toml; grep -q "^$1 = " /etc/t3flow/config.toml',
            key,
            value,
        )
    pids = [main_pid(box, f"t3-serve@{user}") for user in ALL]
    box.run("systemctl", "restart", "t3flow")
    planned = box.try_run(*lines[3].split())
    assert (planned.returncode, " assigned a version" in planned.stdout + planned.stderr) == (0, True), planned
    assert box.run("readlink", "-f", "/usr/bin/t3").startswith("/usr/lib/node_modules/t3/")
    adopted = box.try_run(*lines[4].split())
    assert adopted.returncode == 0, adopted
    assert "\n# Written by t3flow" in box.run("head", "-3", "/usr/bin/t3")
    assert box.try_run("systemctl", "is-enabled", "t3-autoupdate.timer").stdout.strip() == "disabled"
    assert [main_pid(box, f"t3-serve@{user}") for user in ALL] == pids
    everybody_is_well(box, TRACKED, FIRST, TRACKED)
    (waits,) = box.document("deferrals")
    assert (waits["user"], waits["target"], waits["waiting_for"]) == (GRACE, TRACKED, "frozen")
    assert bump(box)["outcome"] == "frozen"
    box.run("rm", "/etc/t3-autoupdate.freeze")
    installed = time.monotonic() - began

    box.sh(f"systemd-run --quiet --unit=eyes python3 {SOURCE}/tests/box/eyes.py /srv/eyes")
    program = base64.b64encode(WHAT_IT_SEES.encode()).decode()
    script = f"node -e \"eval(Buffer.from('{program}', 'base64').toString())\""
    box.publish(GOOD, LEVEL, manifest={"scripts": {"install": script}})
    done = bump(box)
    assert (done["outcome"], results(done)) == ("updated", dict.fromkeys(ALL, "restarted")), done
    took = time.monotonic() - began
    print(f"\ninstalled and adopted in {installed:.0f} s, first verified bump after {took:.0f} s")
    assert took < MAX_SECONDS_TO_FIRST_BUMP
    everybody_is_well(box, GOOD)


def test_the_page_is_served_by_an_account_of_its_own(box: Box) -> None:
    """Enabled by one command; it reads what the consumer notes, hands a freeze over, and a user of the host cannot reach its socket."""
    ask = (
        'curl -sS --max-time 20 --unix-socket /run/t3flow/web.sock -H "X-authentik-username: owner@example.test" '
        '-H "Sec-Fetch-Site: same-origin" "$@"'
    )
    assert box.try_run("systemctl", "is-enabled", "t3flow-web.socket").stdout.strip() == "disabled"
    box.sh("sed -i 's|^#admins = .*|admins = [\"owner@example.test\"]|' /etc/t3flow/config.toml")
    box.run("systemctl", "restart", "t3flow")
    box.run("systemctl", "enable", "--now", "t3flow-web.socket")
    box.until(lambda: "✓</span> up to date" in box.sh(ask, "http://page/"), "the page shows the users", 60)
    text = box.sh(ask, "http://page/")
    assert "✓</span> running</span>" in text
    assert "/actions/freeze" in text
    assert "owner@example.test" in box.sh(ask, "http://page/settings")
    process = main_pid(box, "t3flow-web")
    assert box.run("ps", "-o", "user=", "-p", str(process)).strip() == "t3flow-web"
    assert "CapEff:\t0000000000000000" in box.run("cat", f"/proc/{process}/status")
    connect = "import socket; socket.socket(socket.AF_UNIX).connect('/run/t3flow/web.sock')"
    for account in (ADA, "t3flow"):
        refused = box.try_run("runuser", "-u", account, "--", "python3", "-c", connect)
        assert "PermissionError" in refused.stderr, refused
    forged = box.try_run("runuser", "-u", ADA, "--", "touch", f"/var/lib/t3flow/requests/{'0' * 32}.json")
    assert "Permission denied" in forged.stderr
    for action, is_frozen in (("freeze", True), ("unfreeze", False)):
        asked = box.sh(
            ask, "-w", "%{http_code}", "-d", f"id={action.encode().hex():0>32}", f"http://page/actions/{action}"
        )
        assert asked == "303", asked
        box.until(lambda is_frozen=is_frozen: (box.document("status")["frozen"] is not None) is is_frozen, action, 30)
    assert "owner@example.test on the page" in box.sh(ask, "http://page/actions")
    box.run("systemctl", "stop", "t3flow")
    box.until(
        lambda: "No consumer is running" in box.sh(ask, "http://page/"), "the page says that the consumer is down", 60
    )
    box.run("systemctl", "start", "t3flow")  # and the page is served on, until the uninstallation


def test_nothing_of_the_registry_ran_as_root(box: Box) -> None:
    """Install scripts and trials run as t3flow in their own scopes, servers and mints as their users; none sees root's token."""
    noted = [json.loads(line) for line in box.run("cat", "/srv/eyes").splitlines()]  # before root reads anything there
    seen = json.loads(box.sh('cat "/opt/t3/versions/$1/node_modules/t3/seen.json"', GOOD))
    gate_uid = int(box.run("id", "-u", "t3flow"))
    assert (seen["uid"], seen["read"]) == (gate_uid, [])
    assert gate_uid != 0
    assert TOKEN not in seen["environment"]
    assert json.dumps(seen["groups"]) in (f"[{gate_uid}]", "[]", f"[{box.run('id', '-g', 't3flow').strip()}]")

    ours = [note for note in noted if any(f"/opt/t3/versions/{GOOD}/" in word for word in note["words"][:2])]
    uids = {user: int(box.run("id", "-u", user)) for user in ALL}
    assert {note["uid"] for note in ours} == {gate_uid, *uids.values()}
    tried = [note for note in ours if note["uid"] == gate_uid]
    assert tried
    assert all(re.search(r":/system\.slice/run-\w+\.scope$", note["groups"], re.MULTILINE) for note in tried), tried
    installs = [
        note
        for note in noted
        if "rebuild" in note["words"] and "--offline" in note["words"] and note["words"][0] == "node"
    ]
    assert {note["uid"] for note in installs} <= {gate_uid}

    box.try_run(
        f"/opt/t3/versions/{GOOD}/.node", f"/opt/t3/versions/{GOOD}/node_modules/.bin/t3", "--version"
    )  # the control
    box.until(
        lambda: f'{{"uid": 0, "words": ["/opt/t3/versions/{GOOD}/.node' in box.run("cat", "/srv/eyes"),
        "root is seen doing so",
    )
    box.run("systemctl", "stop", "eyes")
    refused = box.try_run("/usr/bin/t3", "auth", "pairing", "create")
    assert (refused.returncode, "as root" in refused.stderr) == (77, True)


def test_everything_belongs_to_whom_it_must(box: Box) -> None:
    """Databases belong to their users, snapshots, slots and journal to root; no user can read what belongs to others."""
    stat = lambda *paths: box.sh('stat -c "%U %a" "$@"', *paths).splitlines()  # noqa: E731
    for user in ALL:
        assert stat(f"/home/{user}/.t3/userdata/state.sqlite") == [f"{user} 644"]
        assert set(box.sh('stat -c "%U %a" /var/backups/t3-state/"$1"/*', user).splitlines()) == {"root 600"}
    assert stat("/var/backups/t3-state", "/var/backups/t3-state/ada") == ["root 711", "root 700"]
    assert stat("/var/lib/t3flow", "/var/lib/t3flow/journal.db", "/var/lib/t3flow/queue.key") == [
        "root 711",
        "root 640",  # for the group of the page's account
        "root 600",
    ]
    assert stat("/opt/t3/versions", "/usr/bin/t3", "/opt/t3flow") == ["root 755", "root 755", "root 755"]
    assert (
        box.run(
            "find", "/opt/t3", "/opt/t3flow", "(", "!", "-user", "root", "-o", "!", "-type", "l", "-perm", "/022", ")"
        )
        == ""
    )
    state = "/var/lib/t3flow"
    for user in (GRACE, "t3flow"):
        for folder in ("/var/backups/t3-state/ada", state, f"{state}/requests", f"{state}/users"):
            assert box.try_run("runuser", "-u", user, "--", "ls", folder).returncode != 0, (user, folder)
        for path in (f"{state}/journal.db", f"{state}/queue.key", f"{state}/queue.db", f"{state}/users/ada/me.json"):
            assert box.try_run("runuser", "-u", user, "--", "cat", path).returncode != 0, (user, path)
    log = ("journalctl", "--unit=t3flow", "--no-pager", "--quiet")
    assert "is ready" in box.run(*log)
    assert box.try_run("runuser", "-u", GRACE, "--", *log).stdout == ""


def test_users_ask_for_themselves_without_root(box: Box) -> None:
    """`t3flow me` as a real account: what waits, a later date, its withdrawal; root has no such page. The login hint is one line or none."""
    as_grace = ("runuser", "-u", GRACE, "--", "env", "-u", "T3FLOW_CONFIG", "t3flow", "me")
    box.until(lambda: box.try_run(*as_grace).returncode == 0, "the consumer has written it")
    found = json.loads(box.run(*as_grace, "--json"))
    assert (found["user"], found["managed"]) == (GRACE, True)
    assert "does not move you before" in box.run(*as_grace, "later")
    assert json.loads(box.run(*as_grace, "--json"))["wish"]["kind"] == "later"
    assert "you have no wish any more" in box.run(*as_grace, "later", "--cancel").lower()
    by = [(each["by"], each["via"]) for each in json.loads(box.run("t3flow", "actions", "--json"))]
    assert by[:2] == [(GRACE, "user")] * 2
    assert box.try_run("t3flow", "me").returncode == 2
    others = box.sh('stat -c "%U %a" /var/lib/t3flow/users/*/me.json').splitlines()
    assert sorted(others) == sorted(f"{user} 400" for user in ALL)


def test_the_units_are_clean(box: Box) -> None:
    """`systemd-analyze verify` finds nothing, the exposure is as documented, and the status text names what t3flow waits for."""
    verified = box.try_run("systemd-analyze", "verify", "t3flow.service", "t3flow-web.service", "t3-serve@ada.service")
    assert (verified.stdout, verified.stderr) == ("", "")
    box.sh('sed "s/^WatchdogSec/Watchdog/" /usr/local/lib/systemd/system/t3flow.service > /run/wrong.service')
    assert "Unknown key" in box.try_run("systemd-analyze", "verify", "/run/wrong.service").stderr  # the control
    exposure = re.search(
        r"for t3flow.service: ([\d.]+)", box.run("systemd-analyze", "security", "--no-pager", "t3flow")
    )
    stated = re.search(r"security t3flow` rates it ([\d.]+)", (ROOT / "docs/install.md").read_text())
    assert exposure
    assert stated
    assert float(exposure[1]) <= float(stated[1])
    box.until(lambda: re.search(r"next bump \w{3} \d\d:\d\d", status_text(box)), "the status says what is next")
    assert box.run("systemctl", "show", "t3-serve@ada", "--value", "--property=SuccessExitStatus").strip() == "130 143"


def test_the_limits_of_a_trial_bind(box: Box) -> None:
    """The scope of a cell limits memory, tasks and CPU: what exceeds them is killed, refused or slowed."""
    assert int(re.search(r"killed (\d)", box.inside(LIMITS, TAKES_MEMORY))[1]) >= 1  # type: ignore[index]
    assert 400 < int(re.search(r"refused after (\d+)", box.inside(LIMITS, TAKES_PROCESSES))[1]) < 513  # type: ignore[index]
    said = re.findall(r"cores (\d+) of mine ([\d.]+)", box.inside(LIMITS, BURNS))
    assert said
    used = sum(float(mine) for _, mine in said)
    assert used < 2 * max(1, int(said[0][0]) // 2) * 1.3, said


def test_what_does_not_stop_when_asked_is_killed(box: Box) -> None:
    """A unit may allow minutes for a stop; a hanging process does not delay other users."""
    box.sh("systemd-run --quiet --unit=stubborn sh -c 'trap \"\" TERM; while :; do sleep 1; done'")
    box.inside(STOPS, "stubborn")
    assert box.try_run("systemctl", "is-active", "stubborn").stdout.strip() in ("failed", "inactive")


# A host's life ------------------------------------------------------------------------------------------------------


def test_who_is_at_work_is_moved_after_a_reboot(box: Box) -> None:
    """Grace's agent and a detached job of Ada defer them. The reboot ends both, and their drains continue after it."""
    standin(box, GRACE, "turn/start", agent="claude")
    box.sh(f"{JOINS_UNIT} setsid sleep 1000 > /dev/null 2>&1 &", ADA)
    box.publish(BUSY, LEVEL)
    done = bump(box)
    assert results(done) == {ADA: "deferred", GRACE: "deferred", LINUS: "restarted"}, done
    assert "sleep (pid " in done["users"][ADA]["reason"]
    everybody_is_well(box, GOOD, GOOD, BUSY)
    box.until(lambda: "grace waits: " in status_text(box), "the status names her")
    box.reboot()
    box.until(lambda: box.document("deferrals") == [], "their deferrals are over", 60)
    everybody_is_well(box, BUSY)


def test_a_bad_build_is_taken_back_and_the_alerts_would_fire(box: Box) -> None:
    """A version that fails in place at the first user is rolled back and tracking is frozen; no other server is touched."""
    rule = {"fault": "pairing_500", "when": {"not_scratch": True}}
    box.publish(BAD, {"schema_level": 33, "rules": [rule]})
    since = cursor(box)
    pids = {user: main_pid(box, f"t3-serve@{user}") for user in ALL}
    done = bump(box)
    assert done["outcome"] == "rolled_back", done
    touched = [user for user, result in results(done).items() if result == "rolled_back"]
    assert len(touched) == 1
    assert {user: main_pid(box, f"t3-serve@{user}") for user in ALL if user not in touched} == {
        user: pid for user, pid in pids.items() if user not in touched
    }
    everybody_is_well(box, BUSY)
    assert "rolled back" in box.run("cat", "/etc/t3-autoupdate.freeze") or box.document("status")["frozen"]
    lines = logged(box, since).splitlines()
    for name, fires in {
        "T3AutoUpdateRolledBack": True,
        "T3AutoUpdateFrozen": True,
        "T3AutoUpdateRollbackFailed": False,
    }.items():
        assert any(re.search(pattern_of(name), line) for line in lines) is fires, name
    said = box.run("journalctl", "--no-pager", "-o", "cat", "-u", "t3-dispatch").splitlines()
    assert sum(bool(re.search(pattern_of("T3PairingBroken"), line)) for line in said) > 3
    assert "FROZEN: " in box.until(lambda: "FROZEN" in status_text(box) and status_text(box), "the status says so")
    assert (bump(box)["outcome"], box.t3flow("unfreeze").returncode) == ("frozen", 0)


def test_a_power_cut_in_mid_canary_loses_nothing(box: Box) -> None:
    """After a power cut between the first user's assignment and pairing, the run resumes and succeeds."""
    box.publish(
        CUT, {**LEVEL, "rules": [{"fault": "slow_start", "seconds": 4, "when": {"not_scratch": True, "user": ADA}}]}
    )
    run = json.loads(box.t3flow("enqueue", "bump", "--json").stdout)["run"]

    def steps() -> list[str]:
        return [event["step"] for event in box.document("show", run)["events"] if event["kind"] == "completed"]

    box.until(lambda: "assign_version" in steps(), "the first user is assigned", 60, every_seconds=0.1)
    assert "verify_user" not in steps()
    box.lose_power()
    box.boot()
    ended = box.until(
        lambda: (found := box.document("show", run))["status"] != "running" and found, "the run has ended", 90
    )
    assert ended["outcome"] == "updated", ended
    everybody_is_well(box, CUT)
    assert box.run("sh", "-c", "ls -A /var/tmp | grep -v systemd || true") == ""


def test_an_upgrade_takes_over_a_run_in_flight(box: Box) -> None:
    """install.sh during a gate: the consumer stops within seconds, and the next one ends the run. A killed install.sh can be repeated."""
    box.publish(UPGRADED, LEVEL)
    program = box.run("readlink", "/opt/t3flow/current")
    run = json.loads(box.t3flow("enqueue", "bump", "--json").stdout)["run"]
    box.until(lambda: "run_trials" in json.dumps(box.document("show", run)["events"]), "the gate is at work")
    began = time.monotonic()
    box.run("systemctl", "restart", "t3flow")
    assert time.monotonic() - began < 10
    box.try_run("timeout", "-s", "KILL", "3", f"{SOURCE}/deploy/install.sh")
    assert box.run("readlink", "/opt/t3flow/current") == program
    said = box.run(f"{SOURCE}/deploy/install.sh")
    assert "adopt" not in said
    assert box.run("readlink", "/opt/t3flow/current") != program
    assert len(box.run("ls", "-d", *box.sh("echo /opt/t3flow/program-*").split()).split()) == 2
    ended = box.until(
        lambda: (found := box.document("show", run))["status"] != "running" and found, "the run has ended", 90
    )
    assert ended["outcome"] == "updated", ended
    everybody_is_well(box, UPGRADED)
    assert f"quiet_seconds = {SETTINGS['quiet_seconds']}" in box.run("cat", "/etc/t3flow/config.toml")


def test_an_upgrade_that_cannot_read_the_settings_changes_nothing(box: Box) -> None:
    """A refused upgrade reports the problem in one line, and the running consumer continues."""
    before = (box.run("readlink", "/opt/t3flow/current"), main_pid(box, "t3flow"))
    box.sh("cp /etc/t3flow/config.toml /root/; echo nonsense >> /etc/t3flow/config.toml")
    refused = box.try_run(f"{SOURCE}/deploy/install.sh")
    assert refused.returncode == 1
    assert "/etc/t3flow/config.toml: not TOML" in refused.stderr
    assert (box.run("readlink", "/opt/t3flow/current"), main_pid(box, "t3flow")) == before
    box.run("mv", "/root/config.toml", "/etc/t3flow/config.toml")


def test_a_consumer_that_hangs_is_restarted(box: Box) -> None:
    """The watchdog restarts a suspended consumer. A consumer that cannot start is not restarted forever."""
    box.write(
        "/run/systemd/system/t3flow.service.d/quick.conf", "[Service]\nWatchdogSec=5\nTimeoutAbortSec=2\nRestartSec=1\n"
    )
    box.sh("systemctl daemon-reload; systemctl restart t3flow; sleep 6")
    pid = main_pid(box, "t3flow")
    assert box.run("systemctl", "show", "t3flow", "--value", "--property=NRestarts").strip() == "0"
    box.run("kill", "-STOP", pid)
    box.until(lambda: main_pid(box, "t3flow") not in ("0", pid), "another consumer runs", 20)
    box.sh("rm -r /run/systemd/system/t3flow.service.d; systemctl daemon-reload; systemctl restart t3flow")
    assert bump(box)["outcome"] == "up_to_date"


def test_a_rollback_asked_for_in_a_session_survives_its_end(box: Box) -> None:
    """A rollback that is requested from below Ada's server continues after ending that server. All users are back, newer data is kept."""
    script = f'{JOINS_UNIT} exec t3flow enqueue rollback --to "$2" --wait'
    asked = box.try_run("sh", "-euc", script, "sh", ADA, BUSY)
    assert asked.returncode in (130, 137, 143), asked  # it ended with the session
    ended = box.until(
        lambda: [run for run in box.document("runs") if run["workflow"] == "rollback" and run["status"] != "running"],
        "it has ended",
        90,
    )
    assert ended[0]["outcome"] == "done", ended
    everybody_is_well(box, BUSY)
    assert box.document("status")["frozen"]
    box.t3flow("unfreeze")


# Off again ----------------------------------------------------------------------------------------------------------


def test_uninstalling_leaves_plain_t3(box: Box) -> None:
    """Uninstalling stops no server; they also restart without t3flow. Kept data is reported and exists."""
    pids = {user: main_pid(box, f"t3-serve@{user}") for user in ALL}
    (line,) = documented("## Removing t3flow")
    assert "rmdir" in killed_at(box, line, "rmdir"), "killed half-way, it is run again"
    said = box.run(line)
    assert {user: main_pid(box, f"t3-serve@{user}") for user in ALL} == pids
    assert f"/usr/bin/t3 is now t3 {BUSY} itself" in said
    assert "kept: /usr/bin/.t3.before-t3flow" in said
    for path in (
        "/opt/t3flow",
        "/usr/local/bin/t3flow",
        "/usr/local/lib/systemd/system/t3flow.service",
        "/usr/local/lib/systemd/system/t3flow-web.service",
        "/usr/local/lib/systemd/system/t3flow-web.socket",
        "/usr/local/lib/sysusers.d/t3flow.conf",
        "/run/t3flow/web.sock",
    ):
        assert box.try_run("ls", path).returncode != 0, path
    for account in ("t3flow", "t3flow-web"):
        assert box.try_run("id", account).returncode != 0
    for path in (
        "/opt/t3/versions",
        "/var/backups/t3-state",
        "/var/lib/t3flow",
        "/etc/t3flow",
        "/var/lib/t3-autoupdate/last-good",
    ):
        assert path.removesuffix("/versions") in said
        assert box.try_run("ls", path).returncode == 0, path
    box.run("systemctl", "restart", *(f"t3-serve@{user}" for user in ALL))
    box.until(lambda: all(box.pairs(user) for user in ALL), "everybody pairs on plain t3")
    assert box.run("runuser", "-u", ADA, "--", "t3", "--version").strip() == f"t3 v{BUSY}"
    again = box.try_run(line)
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
