"""Time zones by what `TZ` may say: each form means what it means for libc (tzset(3)), or is refused by name. libc takes what it cannot read for UTC.

A file's name below the host's zoneinfo, an absolute path, a POSIX rule such as `CET-1CEST,M3.5.0,M10.5.0/3`; each also after a colon. Unset means
/etc/localtime, be it a link or a copy; empty means UTC.
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
"""A day of the year that is counted from 0, leap days included: zoneinfo takes it for the day before."""
LONGEST = 200

_known: dict[str | None, tzinfo] = {}


class UnknownZone(ValueError):
    """A text names no time zone. Says what is wrong, to follow the text."""


def zone_of(text: str | None) -> tzinfo:
    """Return the zone that a value of `TZ` means, None for unset. Its `str` names it. Raises UnknownZone.

    A zone that could be read once stays in force while its file cannot be read: as when packages are being replaced.
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
        raise UnknownZone("is no time zone: it is too long, or not printable")
    if name.startswith("/"):
        return _from_file(Path(name), _short(Path(name)))
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        return _by_rule(name)


def _host_zone() -> tzinfo:
    """The zone of /etc/localtime; UTC where there is none, as for libc."""
    if not os.path.lexists(LOCALTIME):
        return UTC
    return _from_file(LOCALTIME, _short(LOCALTIME))


def _short(path: Path) -> str:
    """What a file of rules is called: below a zoneinfo, or as a link into one, by the name that it has there; else by its path."""
    for place in (path, Path(os.path.realpath(path))):
        for top in TZPATH:
            if place.is_relative_to(top):
                return str(place.relative_to(top))
    return str(path)


def _from_file(path: Path, name: str) -> tzinfo:
    try:
        with path.open("rb") as rules:  # the rules, not only the present offset
            return ZoneInfo.from_file(rules, key=name)
    except OSError as error:
        raise UnknownZone(f"is no time zone that this host knows: {path} cannot be read ({error.strerror})") from error
    except (ValueError, struct.error, EOFError) as error:
        raise UnknownZone(f"is no time zone that this host knows: {path} has no rules of a zone") from error


def _by_rule(rule: str) -> tzinfo:
    """A zone by a POSIX rule: to zoneinfo it is the last line of a file that has nothing else."""
    header = b"TZif2" + bytes(15) + struct.pack(">6l", 0, 0, 0, 0, 1, 4)
    nothing = struct.pack(">lbb", 0, 0, 0) + b"UTC\0"
    if COUNTED_FROM_ZERO.search(rule):
        raise UnknownZone(
            f"is no time zone that can be taken: it counts days from 0; name the dates by M or J, as in {RULE}"
        )
    try:
        return ZoneInfo.from_file(io.BytesIO((header + nothing) * 2 + f"\n{rule}\n".encode()), key=rule)
    except (ValueError, struct.error, UnicodeError) as error:
        raise UnknownZone(
            f"is no time zone that this host knows, and no rule such as {RULE.rpartition(' ')[2]}"
        ) from error
