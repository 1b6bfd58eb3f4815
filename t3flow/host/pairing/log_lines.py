"""Lines in the dispatch's log that count: failed pairings, and fallbacks to the older way of pairing.

They are the lines that alert rules match: `mint for USER failed…`, `pairing exchange for USER failed…`, `pairing for USER returned NNN`,
`paired user=USER endpoint=… fallback=true`, possibly after a date or a name. All other lines are ignored.
"""

import re
from dataclasses import dataclass
from typing import Any

from t3flow import T3flowError

LINE_BYTES = 4096
FAILURE = re.compile(
    r"(?:^|\s)(?:mint for (\S+) failed|pairing exchange for (\S+) failed|pairing for (\S+) returned \d{3}\b)"
)
FALLBACK = re.compile(r"(?:^|\s)paired user=(\S+) endpoint=\S+ fallback=true\b")
LOCK_MESSAGE = "database is locked"
"""t3 does not wait for database locks: a failure with this text happens on any version."""

Cursor = dict[str, Any]
"""Where to continue reading (JSON). Of a file: inode, offset, the bytes before it (a new file may reuse the inode), the time of the last read, and
whether the offset is inside an overlong line. Of journald: its own cursor."""


class LogProblem(T3flowError):
    """The log cannot be read now. The text says why and what to do."""


@dataclass(frozen=True)
class Line:
    """A `failure` or a `fallback` of a user, as named in the log, between `earliest` and `latest` (epoch seconds)."""

    kind: str
    user: str
    earliest: float
    latest: float


@dataclass(frozen=True)
class Part:
    """The lines of one read, the cursor for the next, and whether there is more to read at once."""

    lines: list[Line]
    cursor: Cursor
    more: bool = False


def match_line(text: str) -> tuple[str, str] | None:
    """Return (kind, user) of a line that counts, or None."""
    text = text[:LINE_BYTES]
    if (found := FAILURE.search(text)) is not None and LOCK_MESSAGE not in text:
        return "failure", next(user for user in found.groups() if user)
    if (found := FALLBACK.search(text)) is not None:
        return "fallback", found[1]
    return None
