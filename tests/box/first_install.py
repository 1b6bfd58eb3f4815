"""The first installation on a host that the shell tracker left during a rollout: install, adopt, undo and uninstall, each killed and repeated.

No kill affects a server, and the host is unchanged in the end.
"""

from box import Box
from killing import (
    ADA,
    FIRST,
    GRACE,
    INSTALL,
    UNINSTALL,
    USERS,
    configure,
    consumer_runs,
    killed_at,
    line_of,
    servers,
    standin,
)

NEXT = "0.0.25-nightly.20260601.1"
TIMER = "t3-autoupdate.timer"
DELAYS = (0.3, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 10.0)
"""Seconds from the start of an adoption to the kill of its command and of the consumer with all its children."""
OURS = (
    "/opt/t3flow",
    "/opt/t3flow.gone",
    "/usr/local/bin/t3flow",
    "/usr/local/lib/systemd/system/t3flow.service",
    "/usr/local/lib/systemd/system/t3flow-web.service",
    "/usr/local/lib/systemd/system/t3flow-web.socket",
    "/usr/local/lib/systemd/system/t3-serve@.service.d",
    "/usr/local/lib/sysusers.d/t3flow.conf",
    "/usr/local/lib/tmpfiles.d/t3flow.conf",
)
KEPT = ("/etc/t3flow", "/var/lib/t3flow", "/opt/t3")
HOST = """
for path in /usr/bin/t3 /usr/bin/.t3.before-t3flow; do [ ! -L $path ] || echo "$path $(readlink $path)"; done
[ ! -e /usr/bin/t3 ] || sha256sum /usr/bin/t3
find /var/lib/t3-autoupdate /var/backups/t3-state/*/ ! -path '*before-t3flow' ! -type f -printf '%p %U %m\\n' | sort
find /var/lib/t3-autoupdate /var/backups/t3-state/*/ -type f -printf '%p %U %s\\n' | sort
systemctl is-enabled t3-autoupdate.timer; systemctl is-active t3-autoupdate.timer
"""


def leave_in_the_middle(box: Box) -> None:
    """Install NEXT over FIRST: ada was restarted on it; grace is busy and deferred, and still runs FIRST."""
    box.publish(NEXT, {"schema_level": 32})
    box.run("npm", "install", "--global", "--prefix", "/usr", "--ignore-scripts", f"t3@{NEXT}")
    box.write("/var/lib/t3-autoupdate/last-good", f"{NEXT}\n")
    box.write(f"/var/lib/t3-autoupdate/deferred/{GRACE}", f"{NEXT}\n")
    for user in USERS:
        name = f"state-prebump-{NEXT}-20260609T041500Z.sqlite"
        box.sh(
            'mkdir -p /var/backups; install -d -m 755 /var/backups/t3-state; install -d -o "$1" -g "$1" -m 700 "/var/backups/t3-state/$1"; '
            'runuser -u "$1" -- cp "/home/$1/.t3/userdata/state.sqlite" "/var/backups/t3-state/$1/$2"',
            user,
            name,
        )
    standin(box, GRACE, "turn/start", '{"agent": "claude"}')
    box.run("systemctl", "restart", f"t3-serve@{ADA}")
    box.until(lambda: box.pairs(ADA), "ada pairs")


def sweep_install(box: Box, points: int, first: int) -> int:
    """Kill the first installation at this many evenly spread lines, and return the number of failures."""
    leave_in_the_middle(box)
    before = box.sh(HOST)
    install_lines, uninstall_lines = int(killed_at(box, INSTALL, 0)), 0
    uninstall_lines = int(killed_at(box, UNINSTALL, 0))
    failures = 0
    for number in range(points):
        box.run("rm", "-rf", *KEPT)
        at = line_of(number, points, first, install_lines)
        off = line_of(number, points, 1, uninstall_lines)
        pids = servers(box)
        said = killed_at(box, INSTALL, at)
        wrong = well(box, pids, before)
        try:
            box.run(INSTALL)
            consumer_runs(box)
            configure(box)
            delay = DELAYS[number % len(DELAYS)]
            wrong += adopted(box, delay) + given_back(box, delay) + well(box, pids, before)
            said += f"; adoption after {delay} s; off: {killed_at(box, UNINSTALL, off)}"
            wrong += off_again(box) + well(box, pids, before)
        except AssertionError as error:
            wrong.append(str(error)[:1500])
        failures += bool(wrong)
        print(f"install killed at line {at} of {install_lines} ({said}): {wrong or 'well'}", flush=True)
        if wrong:
            print(box.try_run("journalctl", "--no-pager", "-u", "t3flow", "-n", "40").stdout, flush=True)
    return failures


def well(box: Box, pids: dict[str, str], before: str) -> list[str]:
    """Return the host's state under the shell tracker: servers, launcher, markers, backups, timer, pairing."""
    wrong = [] if servers(box) == pids else [f"the servers are {servers(box)}, and were {pids}"]
    if (now := box.sh(HOST)) != before:
        wrong.append(
            f"the host is {set(now.splitlines()) - set(before.splitlines())}, and was {set(before.splitlines()) - set(now.splitlines())}"
        )
    return wrong if box.pairs(ADA) else [*wrong, "ada does not pair"]


def cut_off(box: Box, delay_seconds: float, *words: str) -> None:
    """Start an adoption or its undo, and kill the command, the consumer and its children."""
    box.sh(
        'setsid t3flow "$@" >/dev/null 2>&1 & command=$!; sleep "$DELAY"; kill -9 "$command" 2>/dev/null || true; systemctl kill --signal=KILL t3flow'.replace(
            '"$DELAY"', str(delay_seconds)
        ),
        *words,
    )
    consumer_runs(box)
    box.until(lambda: box.document("status")["run"] is None, "the run that was cut off has ended", 120)


def adopted(box: Box, delay_seconds: float) -> list[str]:
    """Return what is wrong after an adoption that was killed and repeated."""
    cut_off(box, delay_seconds, "adopt")
    again = box.document("adopt")
    shown = box.document("status")
    seen = {
        "outcome": again["outcome"],
        "links": {user: shown["users"][user]["assigned_version"] for user in USERS},
        "runs": {user: shown["users"][user]["running_version"] for user in USERS},
        "deferred": [each["user"] for each in box.document("deferrals")],
        "launcher": "\n# Written by t3flow" in box.run("head", "-3", "/usr/bin/t3"),
        "timer": box.try_run("systemctl", "is-enabled", TIMER).stdout.strip(),
        "pairs": [user for user in USERS if box.pairs(user)],
    }
    versions = {ADA: NEXT, GRACE: FIRST}
    wanted = {
        "outcome": "done",
        "links": versions,
        "runs": versions,
        "deferred": [GRACE],
        "launcher": True,
        "timer": "disabled",
        "pairs": USERS,
    }
    return [f"{what} is {seen[what]!r}, not {wanted[what]!r}" for what in seen if seen[what] != wanted[what]]


def given_back(box: Box, delay_seconds: float) -> list[str]:
    """Return what is wrong after an undo that was killed and repeated."""
    cut_off(box, delay_seconds / 4, "adopt", "--undo")
    again = box.document("adopt", "--undo")
    fine = again["outcome"] == "done" or "was not adopted" in again["reason"]
    return [] if fine else [f"the undo ended {again['outcome']}: {again['reason']}"]


def off_again(box: Box) -> list[str]:
    """Return what is left of t3flow after an uninstallation that was killed and repeated."""
    said = box.try_run(UNINSTALL)
    if said.returncode != 0 and "t3flow is not installed" not in said.stderr:
        return [f"uninstalling: {said.stderr}"]
    left = [path for path in OURS if box.try_run("ls", "-d", path).returncode == 0]
    left += ["the account"] if box.try_run("id", "t3flow").returncode == 0 else []
    return [f"left: {', '.join(left)}"] if left else []
