"""usage: sweep.py [POINTS]: kills an upgrade before so many of its commands, a run in flight. As root; a minute for three points.

After each kill the consumer runs, everybody pairs, and the run that was in flight ends as if nothing had been; every third time the power goes
with it. At the end the installation is run once more, and is the new one.
"""

import json
import sys
import tempfile
from pathlib import Path

from box import ROOT, SOURCE, Box, fetch_wheels

USERS = ["ada", "grace"]
FIRST = "0.0.24"
SETTINGS = {"quiet_seconds": "1", "window": '""', "seeds": '"largest"'}

KILL_AT = """
import os, signal, subprocess, sys
words = ["sh", "-x", sys.argv[1]]
child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, text=True)
number = 0
for line in child.stderr:
    number += 1
    if number == int(sys.argv[2]):
        os.killpg(child.pid, signal.SIGKILL)
        print(line.strip()[:100])
        break
else:
    assert child.wait() == 0, line
    print(number)
"""
"""Kills it with all that it started as soon as its trace has that many lines, and prints the last; 0: prints how many lines there are."""


def look(box: Box, run: str) -> str:
    """What is wrong after a kill, or ""."""
    active = box.try_run("systemctl", "is-active", "t3flow").stdout.strip()
    if active != "active":
        return f"the consumer is {active}"
    ended = box.until(
        lambda: (found := box.document("show", run))["status"] != "running" and found, "the run has ended", 120
    )
    if ended["outcome"] != "updated":
        return f"{run} ended {ended['outcome']}: {ended['reason']}"
    return "".join(f"{user} does not pair; " for user in USERS if not box.pairs(user))


def main(points: int) -> int:
    """Returns 1 if anything was wrong at any point."""
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        box = Box(USERS, fetch_wheels(Path(folder)))
        try:
            box.boot()
            box.set_up(FIRST, dict.fromkeys(USERS, ROOT / "tests/data/state-level30.sqlite"), {"schema_level": 30})
            install = f"{SOURCE}/deploy/install.sh"
            box.run(install)
            for key, value in SETTINGS.items():
                box.sh('sed -i "s|^#$1 = .*|$1 = $2|" /etc/t3flow/config.toml', key, value)
            box.run("systemctl", "restart", "t3flow")
            box.run("t3flow", "adopt")
            commands = int(box.run("python3", "-c", KILL_AT, install, "0"))
            for number in range(points):
                at = 1 + commands * number // points
                box.publish(f"0.0.25-nightly.20260601.{number + 1}", {"schema_level": 32})
                run = json.loads(box.t3flow("enqueue", "bump", "--json").stdout)["run"]
                killed = box.run("python3", "-c", KILL_AT, install, str(at)).strip()
                if number % 3 == 2:
                    box.lose_power()
                    box.boot()
                wrong = look(box, run)
                failures += bool(wrong)
                print(f"killed at line {at} of {commands} ({killed}): {wrong or 'well'}", flush=True)
            box.run(install)
            left = box.run("sh", "-c", "ls -d /opt/t3flow/program-* | wc -l").strip()
            print(f"{failures} failures at {points} points; {left} programs kept")
        finally:
            box.close()
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 12))
