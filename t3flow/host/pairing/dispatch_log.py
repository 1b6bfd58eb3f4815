"""The dispatch's log, read from a cursor in bounded parts: a file, or a unit in journald."""

import time
from pathlib import Path

from t3flow.host.host import Host
from t3flow.host.pairing.log_file import end_of_file, read_file
from t3flow.host.pairing.log_journald import read_journal
from t3flow.host.pairing.log_lines import Cursor, Part
from t3flow.settings.checks import JOURNAL_PREFIX


def end_of_log(host: Host) -> Cursor:
    """Return the cursor at the present end of the log. A log that cannot be read yet is read from its start later."""
    source = host.settings.dispatch.log
    return {"since": time.time()} if source.startswith(JOURNAL_PREFIX) else end_of_file(Path(source))


def read(host: Host, cursor: Cursor) -> Part:
    """Return what was logged since the cursor. Read-only: the same cursor gives the same lines. Raise LogProblem, Interrupted.

    A cursor of the other kind, from before `dispatch.log` was changed, is replaced by the present end.
    """
    source = host.settings.dispatch.log
    if source.startswith(JOURNAL_PREFIX):
        unit = source.removeprefix(JOURNAL_PREFIX)
        return read_journal(host, unit, cursor if "looked" not in cursor else end_of_log(host))
    return read_file(Path(source), cursor if "looked" in cursor else end_of_log(host))
