"""Metrics of runs: how they and their steps ended, how long they took, and what is in progress. All counters are the journal's."""

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from t3flow.host.records import counters
from t3flow.host.records.counters import Counters
from t3flow.service.metrics.families import counter, gauge, gauges, histogram
from t3flow.state.measurements import Journaled

BUMP_OUTCOMES = (
    *("updated", "up_to_date", "refused_downgrade", "refused_channel", "refused_rejected", "too_young", "frozen"),
    *("gate_failed", "gate_inconclusive", "rolled_back", "dry_run_passed", "dry_run_failed", "backup_failed"),
    *("registry_unreachable", "incomplete_release", "fleet_wait", "cancelled", "error"),
)
"""How a bump may end. Each has a count from the start."""
UNDO_ASSIGNMENT = "undo_assignment"
"""The step that rolls back one user when a restart fails."""


def metrics(noted: Journaled) -> Iterator[Metric]:
    """Yield the metrics of runs."""
    counted = noted.counters
    runs = counted.get(counters.RUNS, {})
    yield counter(
        "t3flow_runs",
        "Ended runs.",
        runs,
        ["workflow", "outcome"],
        [("bump", outcome) for outcome in BUMP_OUTCOMES],
    )
    yield gauges(
        "t3flow_run_end_timestamp_seconds",
        "When a run of a workflow last ended with an outcome.",
        ["workflow", "outcome"],
        [(labels, each.at) for labels, each in runs.items()],
    )
    yield gauges(
        "t3flow_runs_in_progress",
        "Runs that have not ended; a drain is one for each deferred user.",
        ["workflow"],
        [((workflow,), float(number)) for workflow, number in noted.running.items()],
    )
    yield gauges(
        "t3flow_lease_since_timestamp_seconds",
        "Since when a run has the host for itself; absent while none has.",
        ["workflow"],
        [((workflow,), since) for workflow, since in noted.lease.items()],
    )
    yield counter("t3flow_results", "Users in ended runs.", counted.get(counters.RESULTS, {}), ["workflow", "result"])
    yield from _rollbacks(counted)
    yield from _steps(counted)
    yield from _pairings(counted)
    yield counter(
        "t3flow_queue_dropped",
        "Messages in the queue that t3flow did not write.",
        counted.get(counters.DROPPED, {}),
        known=[()],
    )


def _rollbacks(counted: dict[str, Counters]) -> Iterator[Metric]:
    runs, steps, results = (counted.get(name, {}) for name in (counters.RUNS, counters.STEPS, counters.RESULTS))
    ended = [*runs.items(), *results.items()]
    back = [each.at for (_, how), each in ended if how == "rolled_back"]
    back += [each.at for (step, how), each in steps.items() if (step, how) == (UNDO_ASSIGNMENT, "undone")]
    failed = [each.at for (_, how), each in results.items() if how == "failed"]
    failed += [each.at for (_, how), each in steps.items() if how == "undo_failed"]
    yield gauge("t3flow_last_rollback_timestamp_seconds", "When a user was last rolled back.", max(back, default=None))
    yield gauge(
        "t3flow_last_failed_rollback_timestamp_seconds",
        "When a user could last not be rolled back.",
        max(failed, default=None),
    )


def _steps(counted: dict[str, Counters]) -> Iterator[Metric]:
    yield counter(
        "t3flow_steps",
        "Ended steps: result is completed, failed, undone, or undo_failed.",
        counted.get(counters.STEPS, {}),
        ["step", "result"],
    )
    yield histogram(
        "t3flow_step_duration_seconds",
        "How long the last attempt of each ended step took.",
        counted,
        counters.STEP_SECONDS,
        counters.STEP_BOUNDS,
        ["step"],
    )
    yield histogram(
        "t3flow_restart_downtime_seconds",
        "How long users could not pair in restarts and rollbacks.",
        counted,
        counters.DOWNTIME,
        counters.DOWNTIME_BOUNDS,
    )


def _pairings(counted: dict[str, Counters]) -> Iterator[Metric]:
    yield histogram(
        "t3flow_pairing_seconds",
        "How long successful pairings by t3flow took.",
        counted,
        counters.PAIRING,
        counters.PAIRING_BOUNDS,
    )
    yield counter(
        "t3flow_pairing_probes",
        "Pairings that t3flow tried outside of restarts.",
        counted.get(counters.PROBES, {}),
        ["result"],
        [("ok",), ("failed",)],
    )
    dispatched = counted.get(counters.DISPATCH, {})
    for kind, name, meaning in (
        ("failure", "failures", "Failed pairings in the dispatch's log, without those of t3flow."),
        ("fallback", "fallbacks", "Pairings by an older endpoint in the dispatch's log, without those of t3flow."),
    ):
        seen: Counters = {(): dispatched[kind,]} if (kind,) in dispatched else {}
        yield counter(f"t3flow_dispatch_pairing_{name}", meaning, seen)
