"""Checks of users and units that the tests in a box share."""

import json
from typing import Any

from box import Box

ADA, GRACE, LINUS = ALL = ["ada", "grace", "linus"]


def bump(box: Box, *words: str, timeout_seconds: float = 180) -> dict[str, Any]:
    """Run `t3flow enqueue bump --wait` to its end."""
    document: dict[str, Any] = box.document("enqueue", "bump", "--wait", *words, timeout_seconds=timeout_seconds)
    return document


def results(document: dict[str, Any]) -> dict[str, str]:
    """Return the result of each user."""
    return {user: entry["result"] for user, entry in document["users"].items()}


def everybody_is_well(box: Box, *versions: str) -> None:
    """Check that Ada, Grace and Linus run these versions (or all the one given) and can pair."""
    wanted = dict(zip(ALL, versions * (3 // len(versions)), strict=True))
    shown = box.document("status")["users"]
    assert {user: (shown[user]["running_version"], shown[user]["active"]) for user in ALL} == {
        user: (version, True) for user, version in wanted.items()
    }
    assert all(box.pairs(user) for user in ALL)


def logged(box: Box, since: str) -> str:
    """Return the log of t3flow's service since a cursor."""
    return box.run("journalctl", "--no-pager", "-o", "cat", "-u", "t3flow", f"--after-cursor={since}")


def cursor(box: Box) -> str:
    """Return the current cursor of the system's journal."""
    return box.run("journalctl", "-n", "0", "--show-cursor").rpartition("-- cursor: ")[2].strip()


def status_text(box: Box) -> str:
    """Return the status text of t3flow's service."""
    return box.run("systemctl", "show", "t3flow", "--value", "--property=StatusText")


def main_pid(box: Box, unit: str) -> str:
    """Return the main pid of a unit."""
    return box.run("systemctl", "show", unit, "--value", "--property=MainPID").strip()


def standin(box: Box, user: str, path: str, **body: Any) -> None:
    """Make a user's server act as if the user worked with it."""
    url = f"http://127.0.0.1:{box.ports[user]}/__standin/{path}"
    box.run("curl", "-sf", "-m", "5", "-X", "POST", "-d", json.dumps(body), url)
