"""Logs go to stderr: lines for people, or one JSON document a line."""

import logging
import sys
from types import FrameType

from loguru import logger

from t3flow.settings import Settings

LINE = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {message}"


class _ToLoguru(logging.Handler):
    """Hands what libraries log to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        frame: FrameType | None = sys._getframe(6)
        depth = 6
        while frame is not None and frame.f_code.co_filename == logging.__file__:
            frame, depth = frame.f_back, depth + 1
        logger.opt(depth=depth, exception=record.exc_info).log(record.levelname, record.getMessage())


def set_up(settings: Settings) -> None:
    """Logs as the settings say. Huey's own lines, several a task, only from warnings up."""
    logger.remove()
    logger.add(sys.stderr, level=settings.log.level, format=LINE, serialize=settings.log.as_json, diagnose=False)
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.WARNING, force=True)
