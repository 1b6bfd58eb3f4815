"""Where the state of the host is read from: the journal and the consumer's lock."""

import errno
import fcntl
import os
from pathlib import Path

from t3flow.engine.journal import Journal, JournalError
from t3flow.settings.load import Settings

JOURNAL = "journal.db"
LOCK = "consumer.lock"


def journal(settings: Settings) -> Journal:
    """Return the journal of this host. Raises JournalError; PermissionError where it is another account's."""
    path = settings.paths.state_dir / JOURNAL
    if not os.access(path.parent, os.R_OK | os.X_OK):
        if os.path.lexists(path.parent):
            raise PermissionError(errno.EACCES, "it is another account's", str(path))
    elif os.path.lexists(path) and not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, "it is another account's", str(path))
    return Journal(path)


def journal_if_any(settings: Settings) -> Journal | None:
    """Return the journal of this host; None where there is none that can be used."""
    try:
        return journal(settings)
    except JournalError:
        return None


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
