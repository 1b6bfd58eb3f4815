"""The dispatch's log: who could not pair, and who could only in the old way. Read on from a cursor, a bounded part at a look.

The lines that count are those that alert rules know: `mint for USER failed…`, `pairing exchange for USER failed…`, `pairing for USER returned NNN`,
`paired user=USER endpoint=… fallback=true`. They may stand behind a date or a name. Whatever else is there is passed over.
"""

import json
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t3flow import T3flowError
from t3flow.host.children import ChildError
from t3flow.host.host import Host
from t3flow.settings.checks import JOURNAL_PREFIX

MAX_BYTES = 1024 * 1024
MAX_LINES = 2000
"""Of a journal's newest, at one look. More than any host's pairings; what a flood hides are more of the same."""
LINE_BYTES = 4096
BEFORE_BYTES = 32
JOURNALCTL_SECONDS = 30.0
FAILURE = re.compile(
    r"(?:^|\s)(?:mint for (\S+) failed|pairing exchange for (\S+) failed|pairing for (\S+) returned \d{3}\b)"
)
FALLBACK = re.compile(r"(?:^|\s)paired user=(\S+) endpoint=\S+ fallback=true\b")
ORDINARY = "database is locked"
"""t3 waits for no lock: a failure that says this happens on any version."""

Cursor = dict[str, Any]
"""Where to read on; JSON. A file: inode, offset, the bytes before it (a new file may have the old one's inode), when it was last looked at, and
whether that is in the middle of an endless line. journald: its own cursor."""


class LogProblem(T3flowError):
    """The log cannot be read now. The text says why and what to do."""


@dataclass(frozen=True)
class Line:
    """A `failure` or a `fallback` of a user, as named in the log, at some time from `earliest` to `latest` (epoch seconds)."""

    kind: str
    user: str
    earliest: float
    latest: float


@dataclass(frozen=True)
class Part:
    """What a look found, where the next one begins, and whether there is more to read at once."""

    lines: list[Line]
    cursor: Cursor
    more: bool = False


def start(host: Host) -> Cursor:
    """The cursor at the log's present end. A log that cannot be read yet is read from its beginning once it can."""
    source, now = host.settings.dispatch.log, time.time()
    if source.startswith(JOURNAL_PREFIX):
        return {"since": now}
    try:
        with _opened(Path(source)) as (descriptor, status):
            before = _before(descriptor, status.st_size)
            return {"inode": status.st_ino, "offset": status.st_size, "before": before, "looked": now, "inside": False}
    except LogProblem:
        return {"inode": None, "offset": 0, "before": "", "looked": now, "inside": False}


def read(host: Host, cursor: Cursor) -> Part:
    """What was logged since the cursor. Changes nothing: the same cursor reads the same again. Raises LogProblem, Interrupted."""
    source = host.settings.dispatch.log
    if source.startswith(JOURNAL_PREFIX):
        return _read_journal(
            host, source.removeprefix(JOURNAL_PREFIX), cursor if "looked" not in cursor else start(host)
        )
    return _read_file(Path(source), cursor if "looked" in cursor else start(host))


def said(text: str) -> tuple[str, str] | None:
    """(kind, user) of a line that counts, or None."""
    text = text[:LINE_BYTES]
    if (found := FAILURE.search(text)) is not None and ORDINARY not in text:
        return "failure", next(user for user in found.groups() if user)
    if (found := FALLBACK.search(text)) is not None:
        return "fallback", found[1]
    return None


# A file --------------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LogProblem(
            f"dispatch.log: {path} cannot be read ({error.strerror}), so pairings are not watched"
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise LogProblem(f"dispatch.log: {path} is no plain file, so pairings are not watched")
        yield descriptor, status
    except OSError as error:
        raise LogProblem(
            f"dispatch.log: {path} cannot be read ({error.strerror}), so pairings are not watched"
        ) from error
    finally:
        os.close(descriptor)


def _read_file(path: Path, cursor: Cursor) -> Part:
    """A file's lines have no time: each was written between the last look and this one.

    A file that was rotated away is read to its end as FILE.1, then the new one from its beginning; one that was cut short, from its beginning.
    """
    with _opened(path) as (descriptor, status):
        if cursor["inode"] == status.st_ino and cursor["before"] == _before(descriptor, cursor["offset"]):
            return _part(descriptor, cursor, is_whole=False)
        fresh = {**cursor, "inode": status.st_ino, "offset": 0, "inside": False}
        try:
            with _opened(path.with_name(f"{path.name}.1")) as (rotated, former):
                if former.st_ino == cursor["inode"] and former.st_size > cursor["offset"]:
                    return _part(rotated, cursor, is_whole=True)
        except LogProblem:
            pass
        return _part(descriptor, fresh, is_whole=False)


def _before(descriptor: int, offset: int) -> str:
    """The bytes just before a place, as far as the file goes."""
    start = max(0, offset - BEFORE_BYTES)
    return os.pread(descriptor, offset - start, start).hex()


def _part(descriptor: int, cursor: Cursor, *, is_whole: bool) -> Part:
    """The whole lines from the cursor on; a last one without an end waits, unless the file `is_whole`: nothing will be added to it."""
    text = os.pread(descriptor, MAX_BYTES, cursor["offset"])
    is_full = len(text) == MAX_BYTES
    end = len(text) if is_whole and not is_full else text.rfind(b"\n") + 1
    is_endless = end == 0 and is_full  # one line longer than a look: its beginning counts, the rest is passed over
    end = len(text) if is_endless else end
    lines = text[:end].split(b"\n")
    if cursor["inside"]:
        lines = lines[1:]
    now = time.time()
    found = [known for line in lines if (known := said(line[:LINE_BYTES].decode(errors="replace")))]
    after = {
        "inode": cursor["inode"],
        "offset": cursor["offset"] + end,
        "before": _before(descriptor, cursor["offset"] + end),
        "looked": now,
        "inside": is_endless or (cursor["inside"] and end == 0),
    }
    return Part([Line(*each, cursor["looked"], now) for each in found], after, more=is_full or is_whole)


# journald ------------------------------------------------------------------------------------------------------------


def _read_journal(host: Host, unit: str, cursor: Cursor) -> Part:
    """What journalctl prints: one JSON document a line, with a cursor and a time of its own."""
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
        entry = _entry(text)
        if entry is None:
            continue
        message, at, place = entry
        last = {"after": place}
        if at >= cursor.get("since", 0) and (known := said(message)):
            lines.append(Line(*known, at, at))
    if last is cursor and "since" in cursor and not _is_known(host, unit):
        raise LogProblem(f"dispatch.log: there is no unit {unit}, so pairings are not watched: name the dispatch's own")
    return Part(lines, last)


def _entry(text: bytes) -> tuple[str, float, str] | None:
    """Message, time and cursor of an entry; None for what is none. A message that is no UTF-8 comes as a list of bytes."""
    try:
        entry = json.loads(text)
        message = entry.get("MESSAGE")
        if isinstance(message, list):
            message = bytes(message).decode(errors="replace")
        return str(message), int(entry["__REALTIME_TIMESTAMP"]) / 1e6, str(entry["__CURSOR"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _is_known(host: Host, unit: str) -> bool:
    """Whether systemd knows a unit; where that cannot be asked, it is believed."""
    words = ["systemctl", "show", "--property=LoadState", "--value", unit]
    try:
        return host.children.run(words, timeout_seconds=JOURNALCTL_SECONDS).stdout.strip() != b"not-found"
    except ChildError:
        return True
