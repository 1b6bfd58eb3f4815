"""Users as a run found them, and which of them a version leaves behind."""

from typing import NotRequired, TypedDict

from t3flow.t3.versions import is_older

ANOTHER = "another program"
"""What a server runs that is of no version that is known here."""


class User(TypedDict):
    """One user as a run found them: the version they are led to, whether their server runs, and which version ("": that is not known).

    `why`: t3flow cannot manage them, for this reason. Runs that an older t3flow began have neither `runs` nor `why`.
    """

    user: str
    version: str
    running: bool
    runs: NotRequired[str]
    why: NotRequired[str]


def is_behind(user: User, version: str) -> bool:
    """Whether a managed user does not run a version: is led to an older one, or to none, or has a server that was started from another."""
    if user.get("why") or is_ahead(user, version):
        return False
    return user["version"] != version or user.get("runs", "") not in ("", version)


def is_ahead(user: User, version: str) -> bool:
    """Whether a user is led to a version newer than this one: only a rollback takes their databases back."""
    return is_older(version, user["version"])


def ahead(found: list[User], version: str) -> str:
    """Which managed users are on a newer version, as the end of a line, with the command to run; "" for none."""
    names = [user["user"] for user in found if not user.get("why") and is_ahead(user, version)]
    if not names:
        return ""
    options = " ".join(f"--user {name}" for name in names)
    return f"; newer: {', '.join(names)} (to take them back: t3flow enqueue rollback --to {version} {options})"


class Result(TypedDict):
    """How a user fared, as the interface shows it, and when a deferred one is worth asking again.

    `at_fault`: who is to blame for a server that was stopped and taken back, as `rollout/blame.py` names them; "" for one that was not stopped.
    """

    result: str
    version: str
    downtime_s: float | None
    reason: str
    waiting_for: str
    ask_again: float
    at_fault: str


def result_of(result: str, version: str, reason: str) -> Result:
    """A result without a restart."""
    return {
        "result": result,
        "version": version,
        "downtime_s": None,
        "reason": reason,
        "waiting_for": "",
        "ask_again": 0.0,
        "at_fault": "",
    }
