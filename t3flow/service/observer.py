"""A thread of the consumer that keeps what readers without rights see of the host current: see `state/observed.py`."""

import threading
import time
from collections.abc import Callable

from loguru import logger

from t3flow.engine.journal import Journal
from t3flow.host.host import Host
from t3flow.state import observed

POLL_SECONDS = 0.5
INTERVAL_SECONDS = 60.0
MAX_SHARE = 0.05
"""While runs change the host, it is observed so often that this takes this share of the time."""


def keep_observed(host: Host, stopping: threading.Event, observe: Callable[[Host], None] = observed.record) -> None:
    """Observe the host each minute, and soon after a run has changed it, until the consumer stops. A failure is logged once and tried again."""
    failure, observed_at, took, seen = "", -INTERVAL_SECONDS, 0.0, 0.0
    while True:
        since = time.monotonic() - observed_at
        try:
            changed = seen if since * MAX_SHARE < took else last_change(host.journal)
            if since >= INTERVAL_SECONDS or changed > seen:
                observed_at, seen = time.monotonic(), changed
                observe(host)
                took, failure = time.monotonic() - observed_at, ""
        except Exception as error:  # also of the journal: this thread goes on for as long as the consumer does
            if failure != (failure := str(error)):
                logger.warning("the users' servers cannot be observed: {}", error)
        if stopping.wait(POLL_SECONDS):
            return


def last_change(journal: Journal) -> float:
    """Return when a run that changes the host last journaled an event or ended (epoch seconds)."""
    rows = journal.query("select max(updated) from runs join locks on locks.run = runs.id")
    ended = journal.query(
        "select max(updated) from runs where id in (select id from runs order by created desc limit 20)"
    )
    return float(rows[0][0] or ended[0][0] or 0.0)
