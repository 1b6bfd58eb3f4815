"""The dispatch's log as a file."""

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from t3flow.host.pairing.log_lines import LINE_BYTES, Cursor, Line, LogProblem, Part, match_line

MAX_BYTES = 1024 * 1024
BEFORE_BYTES = 32


def end_of_file(path: Path) -> Cursor:
    """Return the cursor at the end of a file. A file that cannot be read yet is read from its start later."""
    now = time.time()
    try:
        with _opened(path) as (descriptor, status):
            before = _bytes_before(descriptor, status.st_size)
            return {"inode": status.st_ino, "offset": status.st_size, "before": before, "looked": now, "inside": False}
    except LogProblem:
        return {"inode": None, "offset": 0, "before": "", "looked": now, "inside": False}


def read_file(path: Path, cursor: Cursor) -> Part:
    """Return the lines since the cursor. They have no time of their own: each was written between the last read and this one.

    A rotated file is first read to its end as FILE.1, then the new file from its start; a truncated file is read from its start. Raise LogProblem.
    """
    with _opened(path) as (descriptor, status):
        if cursor["inode"] == status.st_ino and cursor["before"] == _bytes_before(descriptor, cursor["offset"]):
            return _read_part(descriptor, cursor, is_whole=False)
        fresh = {**cursor, "inode": status.st_ino, "offset": 0, "inside": False}
        try:
            with _opened(path.with_name(f"{path.name}.1")) as (rotated, former):
                if former.st_ino == cursor["inode"] and former.st_size > cursor["offset"]:
                    return _read_part(rotated, cursor, is_whole=True)
        except LogProblem:
            pass
        return _read_part(descriptor, fresh, is_whole=False)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise LogProblem(f"dispatch.log: {path} is not a regular file, so pairings are not watched")
        yield descriptor, status
    except OSError as error:
        raise LogProblem(f"dispatch.log: cannot read {path} ({error.strerror}), so pairings are not watched") from error
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _bytes_before(descriptor: int, offset: int) -> str:
    """Return the bytes just before an offset (hex)."""
    start = max(0, offset - BEFORE_BYTES)
    return os.pread(descriptor, offset - start, start).hex()


def _read_part(descriptor: int, cursor: Cursor, *, is_whole: bool) -> Part:
    """Return the complete lines after the cursor. An incomplete last line waits, unless the file `is_whole`: nothing more is appended to it."""
    text = os.pread(descriptor, MAX_BYTES, cursor["offset"])
    is_full = len(text) == MAX_BYTES
    end = len(text) if is_whole and not is_full else text.rfind(b"\n") + 1
    is_endless = end == 0 and is_full  # a line longer than one read: its start counts, the rest is skipped
    end = len(text) if is_endless else end
    lines = text[:end].split(b"\n")
    if cursor["inside"]:
        lines = lines[1:]
    now = time.time()
    found = [known for line in lines if (known := match_line(line[:LINE_BYTES].decode(errors="replace")))]
    after = {
        "inode": cursor["inode"],
        "offset": cursor["offset"] + end,
        "before": _bytes_before(descriptor, cursor["offset"] + end),
        "looked": now,
        "inside": is_endless or (cursor["inside"] and end == 0),
    }
    return Part([Line(*each, cursor["looked"], now) for each in found], after, more=is_full or is_whole)
