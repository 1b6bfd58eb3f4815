"""Metrics of the host as a whole: the consumer, the schedule, freeze, problems, and disks."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from t3flow import __version__
from t3flow.host.records import counters
from t3flow.service.metrics.families import gauge, gauges, info
from t3flow.state.measurements import Journaled, Measurements
from t3flow.state.times import epoch

SUCCESS = ("updated", "up_to_date")
"""Outcomes of a bump after which every user that could be moved is on the newest version."""
CHECK = ("resolve", "completed")
"""The step in which a bump looks at the tag."""


def metrics(found: Measurements) -> Iterator[Metric]:
    """Yield the metrics of the host."""
    status, noted = found.status, found.journaled
    frozen, default, observed = status["frozen"], status["default_version"], status["observed"]
    yield info("t3flow_build_info", "The version of t3flow.", "version", __version__)
    yield gauge("t3flow_consumer_up", "Whether the consumer runs.", status["consumer"]["alive"])
    yield gauge(
        "t3flow_heartbeat_timestamp_seconds", "When the consumer last did the work of a minute.", noted.heartbeat
    )
    yield gauge(
        "t3flow_observed_timestamp_seconds",
        "When servers and units were last looked at.",
        epoch(observed),
    )
    yield gauge("t3flow_frozen", "Whether tracking is frozen.", frozen is not None)
    yield gauge(
        "t3flow_frozen_since_timestamp_seconds",
        "Since when tracking is frozen; absent while it is not.",
        epoch(frozen["since"]) if frozen else None,
    )
    yield gauge("t3flow_pinned", "Whether the host is held at an exact version.", status["pin"] is not None)
    yield info("t3flow_default_version_info", "The version that users without an assignment get.", "version", default)
    yield gauge("t3flow_rejected_versions", "How many versions were rejected.", len(status["rejected"]))
    yield gauge("t3flow_next_bump_timestamp_seconds", "When the next scheduled bump starts.", noted.next_bump)
    yield from _looks(noted)
    yield _problems(found)
    yield from _disks(found)


def _looks(noted: Journaled) -> Iterator[Metric]:
    steps, runs = noted.counters.get(counters.STEPS, {}), noted.counters.get(counters.RUNS, {})
    since = noted.counters.get(counters.SINCE, {}).get(())
    yield gauge(
        "t3flow_counting_since_timestamp_seconds",
        "When this host began to count; the counters are zero before.",
        since.at if since else None,
    )
    check = steps.get(CHECK)
    yield gauge(
        "t3flow_last_check_timestamp_seconds",
        "When a bump last finished looking at the tag in the registry.",
        check.at if check else None,
    )
    ends = [each.at for (workflow, outcome), each in runs.items() if workflow == "bump" and outcome in SUCCESS]
    yield gauge(
        "t3flow_last_success_timestamp_seconds",
        "When a bump last ended as updated or up_to_date.",
        max(ends, default=None),
    )


def _problems(found: Measurements) -> GaugeMetricFamily:
    """Return how many problems of each kind there are. A problem of the host has an empty user."""
    counted = Counter((problem["key"], problem["user"] or "") for problem in found.status["problems"])
    return gauges("t3flow_problem", "What is wrong, as t3flow status lists it.", ["problem", "user"], counted.items())


def _disks(found: Measurements) -> Iterator[Metric]:
    free = [((name,), disk.free) for name, disk in found.disks.items()]
    size = [((name,), disk.size) for name, disk in found.disks.items()]
    yield gauges(
        "t3flow_disk_free_bytes", "Free space of the disk with backups, scratch, state, or versions.", ["what"], free
    )
    yield gauges("t3flow_disk_size_bytes", "Size of that disk.", ["what"], size)
    yield gauge(
        "t3flow_next_backup_bytes",
        "What the next backup of all users needs: the size of their newest snapshots.",
        sum(each.newest for each in found.snapshots.values()),
    )
