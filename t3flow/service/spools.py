"""The thread that looks after the files by which other accounts speak to the consumer."""

import threading
from collections.abc import Callable

from loguru import logger

from t3flow.engine.journal import JournalError
from t3flow.host.host import Host
from t3flow.service.requests import Requests
from t3flow.service.wishes import Wishes

LOOK_SECONDS, RETRY_SECONDS = 0.4, 5.0


def watch(host: Host, hint: Callable[[str], None], stopping: threading.Event, heartbeat: Callable[[], None]) -> None:
    """Look after the spools until `stopping`. A failure of one look does not end the next, nor that of one spool another's."""
    looks: list[Callable[[], object]] = [Requests(host, hint).look, Wishes(host, hint, heartbeat).look]
    pause = 0.0
    while not stopping.wait(pause):
        heartbeat()
        pause = LOOK_SECONDS
        for look in looks:
            try:
                look()
            except JournalError as error:
                logger.warning("requests wait: {}", error)
                pause = RETRY_SECONDS
            except Exception:
                logger.opt(exception=True).error("requests cannot be read; retrying")
                pause = RETRY_SECONDS
