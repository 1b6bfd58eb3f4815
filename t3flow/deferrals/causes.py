"""The causes for which a user waits, in words."""

WAITS_FOR = {
    "active_turn": "a turn is running",
    "queued_work": "work is queued",
    "quiet_period": "the last turn ended only just now",
    "running_process": "a process is still running",
    "window": "the window for restarts is closed",
    "server_stopped": "the server is not running",
    "unreadable_state": "idleness cannot be read",
    "frozen": "tracking is frozen",
    "revoked": "the deferral was revoked",
    "newer": "a newer t3flow began the run, and this one does not know its steps",
    "held": "left behind by a bump, or held by an operator",
    "later": "the user asked for a later date",
    "host_busy": "the host is busy with another run",
}
"""Cause, as JSON has it → in words."""


def waits_for(cause: str, detail: str = "") -> str:
    """Return why a user waits: the detail where there is one, else the words for the cause."""
    return detail if detail and detail != cause else WAITS_FOR.get(cause, cause.replace("_", " "))
