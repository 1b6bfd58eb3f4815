"""Users as a run found them, and whether a version is ahead of or behind theirs."""

import shlex
from typing import NotRequired, TypedDict

from t3flow.t3.versions import is_older

ANOTHER = "another program"
"""What a server runs if it is no known version."""


class User(TypedDict):
    """One user as a run found them: the assigned version, whether the server runs, and which version it runs ("": not known).

    `why`: t3flow cannot manage them, for this reason. `held`: an operator keeps them on their version, for this reason ("" for neither). Runs that an
    earlier t3flow began do not have all of these.
    """

    user: str
    version: str
    running: bool
    runs: NotRequired[str]
    why: NotRequired[str]
    held: NotRequired[str]


def is_behind(user: User, version: str) -> bool:
    """Return whether a managed user does not run a version: an older one or none is assigned, or the server was started from another one."""
    if user.get("why") or is_ahead(user, version):
        return False
    return user["version"] != version or user.get("runs", "") not in ("", version)


def is_ahead(user: User, version: str) -> bool:
    """Return whether a user is assigned a newer version than this one: only a rollback takes their databases back."""
    return is_older(version, user["version"])


def ahead(found: list[User], version: str) -> str:
    """Return which managed users are on a newer version, as the end of a line with the command to run; "" if none is."""
    names = [user["user"] for user in found if not user.get("why") and is_ahead(user, version)]
    if not names:
        return ""
    options = " ".join(f"--user {shlex.quote(name)}" for name in names)
    return f"; newer: {', '.join(names)} (to move them back: t3flow enqueue rollback --to {version} {options})"


class Result(TypedDict):
    """How one user fared, as the interface shows it, and when to check a deferred one again.

    `at_fault`: who is at fault for a server that was stopped in vain, as `rollout/blame.py` names them; "" if it was not stopped.
    """

    result: str
    version: str
    downtime_s: float | None
    reason: str
    waiting_for: str
    ask_again: float
    at_fault: str


def result_of(result: str, version: str, reason: str) -> Result:
    """Return a result without a restart."""
    return {
        "result": result,
        "version": version,
        "downtime_s": None,
        "reason": reason,
        "waiting_for": "",
        "ask_again": 0.0,
        "at_fault": "",
    }
