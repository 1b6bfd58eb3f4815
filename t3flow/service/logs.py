"""Logging to stderr: lines for people, or one JSON document per line."""

import logging
import sqlite3
import sys
import time
import traceback
from types import FrameType
from typing import TYPE_CHECKING

from loguru import logger
from redis import RedisError

from t3flow.settings.load import Settings
from t3flow.t3.secrets import hide

if TYPE_CHECKING:
    import loguru

REPEAT_SECONDS = 60.0
OFTEN_REPEATED = (RedisError, sqlite3.DatabaseError, OSError)
LINE = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {message}"


class _LoguruHandler(logging.Handler):
    """Passes log records of libraries to loguru. Errors of an unavailable queue, many a second, are logged once every REPEAT_SECONDS."""

    def __init__(self) -> None:
        super().__init__()
        self._logged_at: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OFTEN_REPEATED):
            now = time.monotonic()
            if now - self._logged_at.get(record.msg, -REPEAT_SECONDS) < REPEAT_SECONDS:
                return
            self._logged_at[record.msg] = now
            record.msg, record.args, record.exc_info = f"{record.getMessage()} {error}", None, None
        frame: FrameType | None = sys._getframe(6)
        depth = 6
        while frame is not None and frame.f_code.co_filename == logging.__file__:
            frame, depth = frame.f_back, depth + 1
        logger.opt(depth=depth, exception=record.exc_info).log(record.levelname, record.getMessage())


def _without_secrets(record: "loguru.Record") -> None:
    """Hide secrets in a message. An error logged with its traceback has its own text there, so it is shown as a line without secrets instead."""
    text = record["message"]
    if (logged := record["exception"]) is not None and logged.value is not None:
        trace = "".join(traceback.format_exception(logged.type, logged.value, logged.traceback))
        text, record["exception"] = f"{text}\n{trace.rstrip()}", None
    record["message"] = hide(text)


def configure(settings: Settings) -> None:
    """Configure logging as the settings say. Of libraries, only warnings and errors: Huey logs several lines for each task."""
    logger.remove()
    logger.configure(patcher=_without_secrets)
    logger.add(sys.stderr, level=settings.log.level, format=LINE, serialize=settings.log.json, diagnose=False)
    logging.basicConfig(handlers=[_LoguruHandler()], level=logging.WARNING, force=True)
