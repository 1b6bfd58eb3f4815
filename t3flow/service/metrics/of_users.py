"""Metrics of users: versions, pairing, deferrals with their causes, and snapshots."""

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from t3flow.service.metrics.families import gauges
from t3flow.state.measurements import Measurements
from t3flow.state.times import epoch

USER = ["user"]


def metrics(found: Measurements) -> Iterator[Metric]:
    """Yield the metrics of users."""
    users = found.status["users"]
    assigned = {user: each["assigned_version"] for user, each in users.items()}
    running = {user: each["running_version"] or assigned[user] for user, each in users.items()}
    known = {user: each for user, each in users.items() if each["pairing"] != "unknown"}
    yield gauges(
        "t3flow_user_version_info",
        "The version that a user's server runs, or would run when it is started.",
        ["user", "version"],
        [((user, version), 1.0) for user, version in running.items() if version],
    )
    yield gauges(
        "t3flow_user_assigned_version_info",
        "The version that is assigned to a user.",
        ["user", "version"],
        [((user, version), 1.0) for user, version in assigned.items() if version],
    )
    yield gauges(
        "t3flow_user_up",
        "Whether a user's server runs.",
        USER,
        [((user,), each["active"]) for user, each in users.items()],
    )
    yield gauges(
        "t3flow_user_managed",
        "Whether t3flow manages a user.",
        USER,
        [((user,), each["managed"]) for user, each in users.items()],
    )
    yield gauges(
        "t3flow_user_pairing_ok",
        "Whether a user could pair when last tried; absent before the first try.",
        USER,
        [((user,), each["pairing"] == "ok") for user, each in known.items()],
    )
    yield gauges(
        "t3flow_user_pairing_checked_timestamp_seconds",
        "When a user's pairing was last tried.",
        USER,
        [((user,), epoch(each["pairing_seen"])) for user, each in known.items()],
    )
    yield from _waits(found)
    yield gauges(
        "t3flow_snapshot_bytes",
        "Size of a user's snapshots.",
        USER,
        [((user,), float(each.total)) for user, each in found.snapshots.items()],
    )
    yield gauges(
        "t3flow_snapshot_timestamp_seconds",
        "When a user's newest snapshot was taken.",
        USER,
        [((user,), each.at) for user, each in found.snapshots.items()],
    )


def _waits(found: Measurements) -> Iterator[Metric]:
    """Yield what says which users wait, why, and since when."""
    users, noted = found.status["users"], found.journaled
    deferred = {user: each["deferred"] for user, each in users.items() if each["deferred"]}
    held = {user: each["held"] for user, each in users.items() if each["held"]}
    yield gauges(
        "t3flow_user_deferred_since_timestamp_seconds",
        "Since when a user is deferred, and what the restart waits for now.",
        ["user", "reason"],
        [((user, each["waiting_for"]), epoch(each["since"])) for user, each in deferred.items() if each],
    )
    yield gauges(
        "t3flow_user_next_check_timestamp_seconds",
        "When a deferred user is checked next.",
        USER,
        [((user,), epoch(each["next_check"])) for user, each in deferred.items() if each],
    )
    yield gauges(
        "t3flow_user_blocked_since_timestamp_seconds",
        "Since when a deferral cannot progress by itself: kind is written, drain, restart, or own.",
        ["user", "kind"],
        [((each.user, each.kind), each.since) for each in noted.blockers if each.user in deferred],
    )
    yield gauges(
        "t3flow_user_held_since_timestamp_seconds",
        "Since when an operator holds a user at their version.",
        USER,
        [((user,), epoch(each["since"])) for user, each in held.items() if each],
    )
    yield gauges(
        "t3flow_user_start_owed_since_timestamp_seconds",
        "Since when t3flow tries to start a server that it stopped: reason is port_taken or not_started.",
        ["user", "reason"],
        [((each.user, each.reason), each.since) for each in noted.owed],
    )
