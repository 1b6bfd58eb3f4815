"""Which problems of the host a message tells, and which it does not, because a message of another kind tells them or no person is needed."""

from t3flow.state.problems import NEEDS_A_PERSON

SETTLE_SECONDS = {
    "dispatch": 0.0,
    "unpaired": 0.0,
    "unknown_t3": 0.0,
    "newer_run": 0.0,
    "deferral_old": 0.0,
    "unmanaged": 120.0,
    "launcher": 120.0,
    "user_map": 120.0,
    "consumer_waits": 300.0,
    "queue_risk": 300.0,
    "verify_overdue": 300.0,
    "metrics": 300.0,
    "fleet_stuck": 300.0,
    "fleet_unreachable": 900.0,
    "fleet_records": 0.0,
    "fleet_host_silent": 300.0,
}
"""Kind of problem → for how long it must last, or be over, before that is told."""
NOT_TOLD = {
    "frozen": "has a message of its own",
    "last_bump": "the message of the bump tells it",
    "left_behind": "the message of the bump tells it",
    "notify_failed": "messages do not arrive",
    "journal": "messages are in the journal",
    "consumer_down": "only the dead man's switch can tell it",
    "no_version": "an operator is about to run t3flow adopt",
    "server_down": "users may stop their servers; the message of a run tells what t3flow stopped",
    "other_version": "the next bump or drain settles it",
    "run_waits": "passes by itself, or the message of the run tells it",
}
"""Kind of problem that is not told → why."""
REPEATS = NEEDS_A_PERSON
"""Outcomes that the next night may bring again: told once, until a run of the same kind ends otherwise."""
AUTOMATIC = ("bump", "drain", "revive")
"""Workflows that run by themselves. What a person starts is told each time."""
