"""Metrics of the fleet: whether it answers, which hosts are silent, who holds a slot, and since when this host waits."""

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, Metric

from t3flow.service.metrics.families import gauge, gauges
from t3flow.state.fleet_documents import Fleet
from t3flow.state.times import epoch


def metrics(found: Fleet | None) -> Iterator[Metric]:
    """Yield the metrics of the fleet. Without a fleet none has a sample."""
    hosts = [each for each in found["hosts"] if not each["is_this_host"]] if found else []
    slots = found["slots"] if found else []
    waiting = found["waiting"] if found else None
    yield gauge("t3flow_fleet_up", "Whether the fleet answers.", None if found is None else not found["problem"])
    yield gauge(
        "t3flow_fleet_stuck",
        "Whether the fleet does not go on without a person.",
        None if found is None else bool(found["stuck"]),
    )
    yield gauges(
        "t3flow_fleet_host_silent",
        "Whether another host of the fleet has no record, or a stale one.",
        ["host"],
        [((each["host"],), each["silent"]) for each in hosts],
    )
    yield gauges(
        "t3flow_fleet_host_seen_timestamp_seconds",
        "When another host of the fleet wrote its last record, by this host's clock.",
        ["host"],
        [((each["host"],), epoch(each["seen"])) for each in hosts],
    )
    yield gauges(
        "t3flow_fleet_slot_since_timestamp_seconds",
        "Since when a host holds a slot of the fleet, by this host's clock; absent while it is free.",
        ["slot", "host"],
        [((str(each["slot"]), each["host"] or ""), epoch(each["since"])) for each in slots],
    )
    yield gauge(
        "t3flow_fleet_waiting_since_timestamp_seconds",
        "Since when this host has had no turn in the fleet; absent while it does not wait.",
        epoch(waiting["since"]) if waiting else None,
    )
    dropped = CounterMetricFamily(
        "t3flow_fleet_dropped", "Records and claims of the fleet that are forged or replayed.", labels=["place"]
    )
    for each in found["dropped"] if found else []:
        dropped.add_metric([each["place"]], each["count"])
    yield dropped
