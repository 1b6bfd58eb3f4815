"""Kill scripts in a box at a chosen command, and check the host afterwards."""

from typing import Any

from box import SOURCE, Box

USERS = ADA, GRACE = ["ada", "grace"]
FIRST = "0.0.24"
INSTALL, UNINSTALL = f"{SOURCE}/deploy/install.sh", f"{SOURCE}/deploy/uninstall.sh"
SETTINGS = {
    "quiet_seconds": "1",
    "window": '""',
    "seeds": '"largest"',
    "max_check_interval_s": "3",
    "order": '"map_order"',
    "verify_timeout_s": "90",
}
ACTIVE_SECONDS, END_SECONDS = 60, 180

KILL_AT = """
import os, signal, subprocess, sys
words = ["sh", "-x", sys.argv[1]]
child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, text=True)
number, last = 0, ""
for line in child.stderr:
    number, last = number + 1, line
    if number == int(sys.argv[2]) if sys.argv[2].isdigit() else sys.argv[2] in line:
        os.killpg(child.pid, signal.SIGKILL)
        print(line.strip()[:100])
        break
else:
    assert child.wait() == 0, last
    print(number)
"""
"""Kill a script and its children when its trace has that many lines, or a line with that text, and print the line; 0: print the number of lines."""


def killed_at(box: Box, script: str, line: int | str) -> str:
    """Kill a script at a line of its trace, by number or text. Return the line, or the number of lines if it was not reached."""
    return box.run("python3", "-c", KILL_AT, script, str(line), timeout_seconds=300).strip()


def line_of(number: int, points: int, first: int, last: int) -> int:
    """Return the line of the `number`th kill, evenly spread between a first and a last line."""
    return first + (last - first) * number // max(points - 1, 1)


def configure(box: Box) -> None:
    """Write settings that make runs quick."""
    for key, value in SETTINGS.items():
        box.sh(
            'sed -i "s|^#$1 = .*|$1 = $2|" /etc/t3flow/config.toml; grep -q "^$1 = " /etc/t3flow/config.toml',
            key,
            value,
        )
    box.run("systemctl", "restart", "t3flow")


def consumer_runs(box: Box) -> None:
    """Wait until the service is up."""
    box.until(
        lambda: box.try_run("systemctl", "is-active", "t3flow").returncode == 0,
        "the consumer is active",
        ACTIVE_SECONDS,
    )


def ended(box: Box, run: str) -> dict[str, Any]:
    """Wait for the end of a run."""
    found: dict[str, Any] = box.until(
        lambda: (shown := box.document("show", run))["status"] != "running" and shown, f"{run} has ended", END_SECONDS
    )
    return found


def servers(box: Box) -> dict[str, str]:
    """Return the main pid of each user's server."""
    show = ("systemctl", "show", "--value", "--property=MainPID")
    return {user: box.run(*show, f"t3-serve@{user}").strip() for user in USERS}


def standin(box: Box, user: str, path: str, body: str) -> str:
    """Make a user's server act as if the user worked with it."""
    url = f"http://127.0.0.1:{box.ports[user]}/__standin/{path}"
    return box.run("curl", "-sf", "-m", "5", "-X", "POST", "-d", body, url)
