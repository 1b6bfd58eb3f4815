"""Which t3flow has written the journal, and runs in flight of a newer one, which an older one leaves as they are."""

import json
import re

from loguru import logger

from t3flow import __version__
from t3flow.engine.journal import WRITTEN_BY, Journal, Run

NEWER = "newer"
"""Why the message of a run is revoked: a newer t3flow began it, and this one does not know its steps."""


class LeftAlone(BaseException):
    """A run must stay as it is. Not an Exception: no workflow may catch it."""


def is_newer(version: str, other: str) -> bool:
    """Return whether a version of t3flow is newer than another one. Only the numbers count."""
    numbers = [[int(each) for each in re.findall(r"\d+", text)[:3]] for text in (version, other)]
    return numbers[0] > numbers[1]


def newest_program(journal: Journal) -> str:
    """Return the newest version of t3flow that has worked with the journal; "" if none has recorded itself."""
    rows = journal.query("select value from meta where key = ?", WRITTEN_BY)
    return str(json.loads(rows[0][0])) if rows else ""


def newer_program(journal: Journal) -> str:
    """Return the version of a newer t3flow that has worked with the journal; "" if there was none."""
    newest = newest_program(journal)
    return newest if newest and is_newer(newest, __version__) else ""


def record_program(journal: Journal) -> None:
    """Record that this t3flow works with the journal, and take up the runs that an older one has left alone. Idempotent."""
    if newer_program(journal):
        return
    journal.set_meta(WRITTEN_BY, __version__)
    with journal.transaction() as connection:
        connection.execute("update runs set held = null where held = ? and status = 'running'", (NEWER,))


def leave_alone(journal: Journal, run: Run, reason: str) -> None:
    """Let a run go without a change of its history. It advances again when a newer t3flow starts, or when it is canceled. Idempotent."""
    with journal.transaction() as connection:
        connection.execute("update runs set claim = null, message = null, held = ? where id = ?", (NEWER, run.id))
    logger.error("{}; it was left as it is; install that t3flow again, or undo it: t3flow cancel {}", reason, run.id)


def left_alone(journal: Journal) -> list[str]:
    """Return the runs that were left alone."""
    return [run.id for run in journal.runs("status = 'running' and held = ?", NEWER)]
