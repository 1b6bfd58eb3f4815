"""Time zones from values of `TZ`. Each form means what it means to libc (tzset(3)); one that libc would silently read as UTC is refused.

A form is the name of a file below the host's zoneinfo, an absolute path or a POSIX rule such as `CET-1CEST,M3.5.0,M10.5.0/3`, each with or without a
leading colon. Unset means /etc/localtime, a link or a copy; empty means UTC.
"""

import io
import os
import re
import struct
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import TZPATH, ZoneInfo

LOCALTIME = Path("/etc/localtime")
RULE = "a rule such as CET-1CEST,M3.5.0,M10.5.0/3"
COUNTED_FROM_ZERO = re.compile(r",\d")
"""A day of the year counted from 0, leap days included. Refused: zoneinfo reads it as the day before."""
LONGEST = 200

_known: dict[str | None, tzinfo] = {}


class UnknownZone(ValueError):
    """A text names no time zone. The message says what is wrong; callers put the text before it."""


def zone_of(text: str | None) -> tzinfo:
    """Return the zone of a value of `TZ` (None: unset). Its `str` is its name. Raise UnknownZone.

    A zone that was read once stays in force while its file is missing, as during a package upgrade.
    """
    try:
        found = _host_zone() if text is None else _named(text)
    except UnknownZone:
        if text in _known:
            return _known[text]
        raise
    _known[text] = found
    return found


def _named(text: str) -> tzinfo:
    name = text.removeprefix(":")
    if not name:
        return UTC
    if len(name) > LONGEST or not name.isprintable():
        raise UnknownZone("is not a time zone: too long, or not printable")
    if name.startswith("/"):
        return _from_file(Path(name), _short(Path(name)))
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        return _by_rule(name)


def _host_zone() -> tzinfo:
    """Return the zone of /etc/localtime, or UTC without one, as libc does."""
    if not os.path.lexists(LOCALTIME):
        return UTC
    return _from_file(LOCALTIME, _short(LOCALTIME))


def _short(path: Path) -> str:
    """Return the name of a zone file: relative to zoneinfo if it is there or links there, else its path."""
    for place in (path, Path(os.path.realpath(path))):
        for top in TZPATH:
            if place.is_relative_to(top):
                return str(place.relative_to(top))
    return str(path)


def _from_file(path: Path, name: str) -> tzinfo:
    try:
        with path.open("rb") as rules:  # all rules of the zone, not only its present offset
            return ZoneInfo.from_file(rules, key=name)
    except OSError as error:
        raise UnknownZone(f"is not a time zone of this host: {path} cannot be read ({error.strerror})") from error
    except (ValueError, struct.error, EOFError) as error:
        raise UnknownZone(f"is not a time zone of this host: {path} is not a zone file") from error


def _by_rule(rule: str) -> tzinfo:
    """Return the zone of a POSIX rule, read as a zone file that consists of its last line."""
    header = b"TZif2" + bytes(15) + struct.pack(">6l", 0, 0, 0, 0, 1, 4)
    nothing = struct.pack(">lbb", 0, 0, 0) + b"UTC\0"
    if COUNTED_FROM_ZERO.search(rule):
        raise UnknownZone(
            f"is not a time zone that t3flow supports: it counts days from 0; write dates with M or J, as in {RULE}"
        )
    try:
        return ZoneInfo.from_file(io.BytesIO((header + nothing) * 2 + f"\n{rule}\n".encode()), key=rule)
    except (ValueError, struct.error, UnicodeError) as error:
        raise UnknownZone(f"is not a time zone of this host, nor a rule such as {RULE.rpartition(' ')[2]}") from error
