"""The collector: reads the host when it is asked, so that counters survive restarts and a gauge is never older than what it is read from."""

import time
from collections.abc import Iterable

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from t3flow.engine.journal import Journal
from t3flow.service.metrics import of_fleet, of_host, of_runs, of_users
from t3flow.settings.load import Settings
from t3flow.state.measurements import Measurements, Snapshots, measure

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SNAPSHOTS_SECONDS = 60.0
"""How long the sizes of snapshots are kept: reading them looks at every file."""


class HostCollector(Collector):
    """Collects the metrics of the host that these settings describe, from its journal if that is open already."""

    def __init__(self, settings: Settings, journal: Journal | None = None) -> None:
        self._settings = settings
        self._journal = journal
        self._snapshots: dict[str, Snapshots] | None = None
        self._read_at = 0.0

    def measure(self) -> Measurements:
        """Measure the host; the sizes of snapshots may be SNAPSHOTS_SECONDS old."""
        if time.monotonic() - self._read_at > SNAPSHOTS_SECONDS:
            self._snapshots = None
        found = measure(self._settings, self._journal, self._snapshots)
        if self._snapshots is None:
            self._snapshots, self._read_at = found.snapshots, time.monotonic()
        return found

    def collect(self) -> Iterable[Metric]:
        """Yield every metric, whether it has samples or not."""
        found = self.measure()
        yield from of_host.metrics(found)
        yield from of_users.metrics(found)
        yield from of_runs.metrics(found.journaled)
        yield from of_fleet.metrics(found.status["fleet"])


class Metrics:
    """The metrics of the host in the text exposition format."""

    def __init__(self, settings: Settings, journal: Journal | None = None) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(HostCollector(settings, journal))

    def text(self) -> bytes:
        """Return the metrics, without timestamps. Raises JournalError, PermissionError where this account may not read the journal."""
        return generate_latest(self._registry)
