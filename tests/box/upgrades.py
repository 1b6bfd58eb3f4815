"""Upgrades with a run in flight (a bump in its gate, a bump between two users, or a drain), killed or cut off from power, and repeated."""

import json

from box import Box
from killing import ADA, GRACE, INSTALL, USERS, configure, consumer_runs, ended, killed_at, line_of, standin

SLOW_SECONDS = 30
"""Start time of a version that keeps its run in flight until the upgrade restarts the consumer."""
IN_FLIGHT = {
    "the gate": {"not_scratch": False},
    "two users": {"not_scratch": True, "user": ADA},
    "a drain": {"not_scratch": True, "user": GRACE},
}


def sweep_upgrade(box: Box, points: int, first: int) -> int:
    """Kill an upgrade at this many evenly spread lines, and return the number of failures."""
    box.run(INSTALL)
    configure(box)
    box.run("t3flow", "adopt")
    commands = int(killed_at(box, INSTALL, 0))
    failures = still = 0
    for number in range(points):
        at, kind = line_of(number, points, first, commands), list(IN_FLIGHT)[number % 3]
        target = f"0.0.25-nightly.20260602.{number + 1}"
        wrong = ""
        try:
            run = begin(box, kind, target)
            said = killed_at(box, INSTALL, at)
            still += box.document("show", run)["status"] == "running"
            if number // 3 % 3 == 2:
                said += ", and the power with it"
                box.lose_power()
                box.boot()
            wrong = look(box, run, target)
        except AssertionError as error:
            wrong, said = str(error)[:1500], "?"
        failures += bool(wrong)
        print(f"upgrade during {kind} killed at line {at} of {commands} ({said}): {wrong or 'well'}", flush=True)
        if wrong:
            print(box.try_run("journalctl", "--no-pager", "-u", "t3flow", "-n", "40").stdout, flush=True)
    box.run(INSTALL)
    left = box.run("sh", "-c", "ls -d /opt/t3flow/program-* | wc -l").strip()
    print(f"{still} of {points} runs were still in flight at the kill; {left} programs kept")
    return failures + (left != "2")


def begin(box: Box, kind: str, target: str) -> str:
    """Start a bump, and return its run once it has reached the wanted state."""
    rule = {"fault": "slow_start", "seconds": SLOW_SECONDS, "when": IN_FLIGHT[kind]}
    box.publish(target, {"schema_level": 32, "rules": [rule]})
    turn = json.loads(standin(box, GRACE, "turn/start", '{"agent": "claude"}'))["turn"] if kind == "a drain" else ""
    run: str = json.loads(box.t3flow("enqueue", "bump", "--json").stdout)["run"]
    if kind == "a drain":
        ended(box, run)
        standin(box, GRACE, "turn/end", json.dumps({"turn": turn}))
        run = box.until(
            lambda: [each for each in box.document("deferrals") if each["user"] == GRACE], "she is deferred"
        ) and drain_of(box)
    steps = (
        {"try_on", "run_trials"} if kind == "the gate" else {"assign_version"}
    )  # by the program before or after the rename
    box.until(
        lambda: any(event["step"] in steps for event in box.document("show", run)["events"]),
        f"{kind} is in flight",
        60,
        0.1,
    )
    return run


def drain_of(box: Box) -> str:
    """Return the running drain."""
    [run] = [
        each["run"] for each in box.document("runs") if each["workflow"] == "drain" and each["status"] == "running"
    ]
    return str(run)


def look(box: Box, run: str, target: str) -> str:
    """Return what is wrong after a kill, or "". The run must succeed, and all users must run the new version and pair."""
    consumer_runs(box)
    found = ended(box, run)
    if found["outcome"] != "updated":
        return f"{run} ended {found['outcome']}: {found['reason']}"
    box.until(lambda: box.document("deferrals") == [], "nobody is deferred", 120)
    runs = {user: each["running_version"] for user, each in box.document("status")["users"].items()}
    if runs != dict.fromkeys(USERS, target):
        return f"they run {runs}, not {target}"
    box.until(
        lambda: all(box.pairs(user) for user in USERS), "everybody pairs", 3 * SLOW_SECONDS
    )  # servers that a boot has started are slow, too
    return ""
