"""The dispatch's log in journald."""

import json

from t3flow.host.children import ChildError
from t3flow.host.host import Host
from t3flow.host.pairing.log_lines import Cursor, Line, LogProblem, Part, match_line

MAX_LINES = 2000
"""Newest entries of one read: more than the pairings of any host. A flood hides only more of the same."""
JOURNALCTL_SECONDS = 30.0


def read_journal(host: Host, unit: str, cursor: Cursor) -> Part:
    """Return the entries of a unit since the cursor, read by journalctl as one JSON document a line. Raise LogProblem."""
    where = f"--after-cursor={cursor['after']}" if "after" in cursor else f"--since=@{int(cursor['since'])}"
    words = ["--output=json", "--output-fields=MESSAGE", "--no-pager", "--quiet", f"--lines={MAX_LINES}", where]
    try:
        finished = host.children.run(["journalctl", f"--unit={unit}", *words], timeout_seconds=JOURNALCTL_SECONDS)
    except ChildError as error:
        raise LogProblem(f"dispatch.log: {error}, so pairings are not watched") from error
    if finished.code != 0:
        raise LogProblem(f"dispatch.log: journalctl failed ({finished.last_line}), so pairings are not watched")
    lines, last = [], cursor
    for text in finished.stdout.splitlines():
        entry = _parse_entry(text)
        if entry is None:
            continue
        message, at, place = entry
        last = {"after": place}
        if at >= cursor.get("since", 0) and (known := match_line(message)):
            lines.append(Line(*known, at, at))
    if last is cursor and "since" in cursor and not _is_known_unit(host, unit):
        raise LogProblem(f"dispatch.log: there is no unit {unit}, so pairings are not watched: set the dispatch's unit")
    return Part(lines, last)


def _parse_entry(text: bytes) -> tuple[str, float, str] | None:
    """Return message, time and cursor of an entry, or None if it is malformed. journalctl prints a message that is not UTF-8 as a list of bytes."""
    try:
        entry = json.loads(text)
        message = entry.get("MESSAGE")
        if isinstance(message, list):
            message = bytes(message).decode(errors="replace")
        return str(message), int(entry["__REALTIME_TIMESTAMP"]) / 1e6, str(entry["__CURSOR"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _is_known_unit(host: Host, unit: str) -> bool:
    """Return whether systemd knows a unit; True if systemd cannot be asked."""
    words = ["systemctl", "show", "--property=LoadState", "--value", unit]
    try:
        return host.children.run(words, timeout_seconds=JOURNALCTL_SECONDS).stdout.strip() != b"not-found"
    except ChildError:
        return True
