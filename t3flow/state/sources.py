"""Where the state of the host is read from: the journal and the consumer's lock."""

import errno
import fcntl
import os
from pathlib import Path

from t3flow.engine.journal import Journal, JournalError, NewerJournal
from t3flow.engine.reader import ReadOnlyJournal
from t3flow.host.processes import proc
from t3flow.host.records import facts
from t3flow.settings.load import Settings

JOURNAL = "journal.db"
LOCK = "consumer.lock"
QUEUE_FAULT = "queue_fault"
"""Fact: why the queue cannot be used, or soon cannot: a QueueFault of the engine and `since` (epoch seconds)."""
QUEUE_URL = "queue.url"
"""The file with the URL of the queue that the consumer uses, which may have a password."""


def journal(settings: Settings) -> Journal:
    """Return the journal of this host, for reading only where this account may not write it.

    Raises JournalError; PermissionError where this account may not read it either.
    """
    path = settings.paths.state_dir / JOURNAL
    if not os.access(path.parent, os.X_OK):
        if os.path.lexists(path.parent):
            raise PermissionError(errno.EACCES, "it is another account's", str(path))
    elif os.path.lexists(path) and not os.access(path, os.R_OK | os.W_OK):
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, "it is another account's", str(path))
        return ReadOnlyJournal(path)
    return Journal(path)


def journal_if_any(settings: Settings) -> Journal | None:
    """Return the journal of this host; None where there is none that can be used. Raises NewerJournal."""
    return journal_or_fault(settings)[0]


def journal_or_fault(settings: Settings) -> tuple[Journal | None, str]:
    """Return the journal of this host and ""; None and why it cannot be used, or "" where there is none yet. Raises NewerJournal."""
    try:
        return journal(settings), ""
    except NewerJournal:
        raise
    except JournalError as error:
        is_there = os.path.lexists(settings.paths.state_dir / JOURNAL)
        return None, str(error).partition(";")[0] if is_there else ""


def queue_url(settings: Settings) -> str:
    """Return the URL of the queue that the consumer uses; without one, that of the settings. Raises PermissionError."""
    try:
        return (settings.paths.state_dir / QUEUE_URL).read_text()
    except FileNotFoundError:
        return settings.queue.url


def consumer_pid(state_dir: Path) -> int | None:
    """Return the pid of the consumer that holds its lock, or None. Raises PermissionError where the lock is another account's."""
    try:
        with (state_dir / LOCK).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read().strip() or 0) or None
    except PermissionError:
        raise
    except (OSError, ValueError):
        pass
    return None


def noted_consumer_pid(noted: Journal) -> int | None:
    """Return the pid of the consumer that the journal names if that process is alive, for readers that may not open the lock.

    A process that has the same pid by chance is told apart by its start time.
    """
    consumer = facts.read(noted, "consumer") or {}
    pid = consumer.get("pid")
    found = proc.stat_of(pid) if pid else None
    return pid if found is not None and found.started == consumer.get("started") else None


def live_consumer_pid(settings: Settings, noted: Journal | None) -> int | None:
    """Return the pid of the consumer, or None: by its lock or, where that is another account's, by the journal. Raises PermissionError."""
    try:
        return consumer_pid(settings.paths.state_dir)
    except PermissionError:
        if noted is None:
            raise
        return noted_consumer_pid(noted)
