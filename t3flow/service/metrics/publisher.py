"""The consumer's thread for metrics: counts what is only seen by looking, writes the textfile each minute, and starts the HTTP server.

Nothing here may harm the consumer: a failure is logged once, shown by `t3flow status`, and tried again in a minute.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from loguru import logger

from t3flow import T3flowError
from t3flow.host.host import Host
from t3flow.host.records import facts
from t3flow.service.metrics import textfile
from t3flow.service.metrics.collector import Metrics
from t3flow.service.metrics.counting import count_pairings
from t3flow.service.metrics.listener import Listener, bind
from t3flow.state.host import METRICS_PROBLEMS

INTERVAL_SECONDS = 60.0


def publish(host: Host, stopping: threading.Event) -> None:
    """Publish metrics until the consumer stops."""
    publisher = Publisher(host)
    while True:
        publisher.publish()
        if stopping.wait(INTERVAL_SECONDS):
            return


class Publisher:
    """Publishes the metrics of a host as its settings say."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._metrics = Metrics(host.settings, host.journal)
        self._listener: Listener | None = None
        self._problems: list[str] | None = None
        if host.settings.metrics.textfile:
            textfile.remove_leftovers(Path(host.settings.metrics.textfile))

    def publish(self) -> None:
        """Do the work of one minute. Raises nothing."""
        found = [problem for work in (self._count, self._listen, self._write) if (problem := self._attempt(work))]
        if found == self._problems:
            return
        for problem in found:
            if problem not in (self._problems or []):
                logger.warning("{}", problem)
        try:
            facts.write(self._host.journal, METRICS_PROBLEMS, found or None, synced=False)
            self._problems = found
        except T3flowError as error:
            logger.debug("{}", error)

    def _attempt(self, work: Callable[[], None]) -> str:
        """Return why a part of the work failed, in one line; "" for success."""
        try:
            work()
        except T3flowError as error:
            return " ".join(str(error).split())
        except Exception as error:
            logger.opt(exception=True).debug("{}", error)
            return f"metrics cannot be published ({type(error).__name__}: {error})"
        return ""

    def _count(self) -> None:
        if self._host.settings.dispatch.log:
            count_pairings(self._host)

    def _listen(self) -> None:
        if self._host.settings.metrics.listen and self._listener is None:
            self._listener = Listener(bind(self._host.settings.metrics.listen), self._metrics.text)

    def _write(self) -> None:
        path = Path(self._host.settings.metrics.textfile)
        if not self._host.settings.metrics.textfile:
            return
        try:
            textfile.write(path, self._metrics.text())
        except OSError as error:
            reason = error.strerror or str(error)
            raise T3flowError(f"metrics.textfile: cannot write {path} ({reason}), so its metrics are stale") from error
