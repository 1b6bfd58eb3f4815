"""The checks behind the settings: each refuses what cannot work and says what is wrong with it.

A check raises ValueError with what is wrong; `settings/load.py` puts file, key and value before it.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, time
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cronsim import CronSim, CronSimError

from t3flow.settings.timezones import zone_of
from t3flow.settings.user_map import USER_NAME
from t3flow.t3.versions import InvalidVersion, parse

LONGEST_TIME_SECONDS = 366 * 86400
"""A year: no wait or time-out of this program is meant to be longer."""

JOURNAL_PREFIX = "journal:"
"""Before the name of a unit whose log is in journald."""

_HEADER_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, 5.6.2
_PACKAGE = re.compile(r"(?:@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*")
_TAG = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_UNIT = re.compile(r"[A-Za-z0-9:_.@\\-]+\.service")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")


class Takes(NamedTuple):
    """What a key takes, in words that end the sentence "it takes …", and the function that reads a value of TOML.

    That function returns the value in force, or raises ValueError with what is wrong.
    """

    words: str
    read: Callable[[object], Any]


def a_kind(value: object) -> str:
    """What a value of TOML is, in words."""
    named: list[tuple[type, str]] = [
        (bool, "true or false"),
        (str, "a text"),
        (int, "a whole number"),
        (float, "a number"),
        (list, "a list"),
        (dict, "a table"),
    ]
    return next((name for kind, name in named if isinstance(value, kind)), "a date or time")


def text_that(check: Callable[[str], str | None]) -> Callable[[object], str]:
    """Given a check of a text, which may return another form of it, return the reader of such texts."""

    def read(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"is {a_kind(value)}")
        form = check(value)
        return value if form is None else form

    return read


def one_of(words: tuple[str, ...]) -> Callable[[object], str]:
    """The reader of one of some words."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError("is not one of the words")
        return value

    return read


def truth(value: object) -> bool:
    """Reads a truth value."""
    if not isinstance(value, bool):
        raise ValueError(f"is {a_kind(value)}")
    return value


def number(smallest: float, largest: float, *, whole: bool = False) -> Callable[[object], float]:
    """The reader of a number within bounds, both included; TOML's `inf` and `nan` never are."""

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("is no number")
        if not smallest <= value <= largest:
            raise ValueError("is negative" if value < 0 else "is out of range")
        if whole and not isinstance(value, int):
            raise ValueError("is a number")
        return value

    return read


def _no_control_characters(value: str) -> None:
    if not value.isprintable():
        raise ValueError("has control characters in it")


def absolute_path(value: object) -> Path:
    """Given a text, return it as a path. Raise ValueError unless it is absolute and free of `..`."""
    if not isinstance(value, str):
        raise ValueError("is no path in quotes")
    _no_control_characters(value)
    path = Path(value)
    if not path.is_absolute():
        raise ValueError("is not absolute")
    if ".." in path.parts:
        raise ValueError("has .. in it")
    if path == Path(path.anchor):
        raise ValueError("is the root folder")
    return path


def clock_time(text: str) -> time:
    """Given `HH:MM`, return it as a time of day. Raise ValueError for anything else."""
    if not re.fullmatch(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]", text, re.ASCII):
        raise ValueError("is no time of day")
    return time.fromisoformat(text)


def window_times(text: str) -> tuple[time, time] | None:
    """Given `HH:MM-HH:MM`, return start and end; given "", None, which is any time.

    An end before the start is on the next day.
    Raise ValueError for anything else, and for a window that starts when it ends.
    """
    if not text:
        return None
    start, hyphen, end = text.partition("-")
    if not hyphen:
        raise ValueError("is no window")
    times = clock_time(start), clock_time(end)
    if times[0] == times[1]:
        raise ValueError("starts when it ends")
    return times


def check_clock_time_or_none(text: str) -> None:
    if text:
        clock_time(text)


def check_window(text: str) -> None:
    window_times(text)


def check_cron(text: str) -> None:
    if len(text.split()) != 5:
        raise ValueError(f"has {len(text.split())} fields")
    if len(text) > 200:
        raise ValueError("is longer than 200 characters")
    try:
        next(CronSim(text, datetime(2026, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise ValueError(f"has a {str(error)[:1].lower()}{str(error)[1:]}") from error
    except StopIteration:
        raise ValueError("is a time that never comes") from None


def check_timezone(text: str) -> None:
    if text:
        zone_of(text)


def check_package(text: str) -> None:
    if not _PACKAGE.fullmatch(text) or len(text) > 214 or text in ("node_modules", "favicon.ico"):
        raise ValueError("is no name of an npm package")


def check_tag(text: str) -> None:
    # npm reads whatever could be a range as one: a tag named v1 or x cannot even be published.
    if re.fullmatch(r"[v=]*[0-9].*|[xX](?:\..*)?", text):
        raise ValueError("is a version or a range, which npm takes for no tag (an exact version to hold is the pin)")
    if not _TAG.fullmatch(text) or len(text) > 214:
        raise ValueError("is no dist-tag")


def check_pin(text: str) -> None:
    if text:
        try:
            parse(text)
        except InvalidVersion:
            hint = " (a tag to follow is track.tag)" if _TAG.fullmatch(text) and not text.startswith("v") else ""
            raise ValueError(f"is not a version{hint}") from None


def check_user_name(text: str) -> None:
    if text == "root":
        raise ValueError("is root, as whom nothing from a registry is run")
    if not USER_NAME.fullmatch(text):
        raise ValueError("is no name of an account")


def template(text: str, known: set[str]) -> set[str]:
    """Given a text with `{names}` in it, return those names. Raise ValueError for one not in `known`."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"has a stray brace ({error})") from error
    names = {name for _, name, _, _ in parts if name is not None}
    if odd := names - known:
        raise ValueError(f"has a placeholder {{{ascii(min(odd))[1:-1]}}} that nothing fills")
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise ValueError("has a placeholder with more than a name in it")
    return names


def check_unit(text: str) -> None:
    if "user" not in template(text, {"user"}):
        raise ValueError("has no {user} in it, so all users would share one unit")
    if not _UNIT.fullmatch(text.replace("{user}", "u")):
        raise ValueError("is no name of a service unit")


def check_log_source(text: str) -> None:
    unit = text.removeprefix(JOURNAL_PREFIX)
    if unit != text:
        if not _UNIT.fullmatch(unit):
            raise ValueError("names no service unit after journal:")
    elif text:
        absolute_path(text)


def check_base_dir(text: str) -> None:
    if not template(text, {"user", "home"}):
        raise ValueError("has neither {home} nor {user} in it, so all users would share one folder")
    absolute_path(text.replace("{home}", "/home/u").replace("{user}", "u"))
    if "{home}" in text[1:]:
        raise ValueError("has {home} in another place than the start")


def _url_parts(text: str) -> tuple[str, str | None, int | None, str]:
    """Scheme, host, port and path of a URL; ValueError for what is none."""
    _no_control_characters(text)
    if " " in text:
        raise ValueError("has a space in it")
    try:
        parts = urlsplit(text)
        return parts.scheme, parts.hostname, parts.port, parts.path
    except ValueError as error:
        raise ValueError("is no URL (host or port)") from error


def _host_and_port(host: str | None, port: int | None) -> None:
    if not host or not _HOST.fullmatch(host):
        raise ValueError("names no host")
    if port == 0:
        raise ValueError("has a port out of range")


def dispatch_url(text: str) -> str:
    """Given an http(s) URL of nothing but host and port, return it without a last slash. Raise ValueError."""
    scheme, host, port, path = _url_parts(text)
    if scheme not in ("http", "https"):
        raise ValueError("is no http or https URL")
    _host_and_port(host, port)
    if "@" in text or "?" in text or "#" in text or path not in ("", "/"):
        raise ValueError("has more than a host and a port")
    return text.removesuffix("/")


def check_queue_url(text: str) -> None:
    scheme, host, port, path = _url_parts(text)
    if scheme in ("redis", "rediss"):
        _host_and_port(host, port)
        if not re.fullmatch(r"/?[0-9]*", path):
            raise ValueError("has a database that is no number")
    elif scheme in ("sqlite", "unix"):
        if scheme == "sqlite" and re.search(r"[@?#]", text):
            raise ValueError("has more than a path")
        if host:
            raise ValueError(f"has a host before its path (an absolute path takes three slashes: {scheme}:///…)")
        absolute_path(path)
    else:
        raise ValueError(f"has the scheme {scheme or 'of none'}, for which there is no queue")


def check_header_token(text: str) -> None:
    if not _HEADER_TOKEN.fullmatch(text):
        raise ValueError("has characters that HTTP does not allow there, or none")


def check_cookie_name(text: str) -> None:
    if text:
        check_header_token(text)


def check_endpoint(text: str) -> None:
    if not text.startswith("/") or text.startswith("//"):
        raise ValueError("does not start with one slash")
    if not text.isascii() or not text.isprintable() or re.search(r"[ ?#]", text):
        raise ValueError("has characters that a path does not have")


def check_process_name(text: str) -> None:
    if not text or "/" in text or " " in text or not text.isprintable():
        raise ValueError("is no name of a program")


def check_command(text: str) -> None:
    _no_control_characters(text)
    if not text or text.isspace() or ("/" in text and not text.startswith("/")):
        raise ValueError("is neither a name to be found on PATH nor an absolute path")


def _list_of_texts(value: object, check: Callable[[str], None], *, smallest: int) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("is no list of texts")
    if len(value) < smallest:
        raise ValueError("is empty")
    for item in value:
        try:
            check(item)
        except ValueError as error:
            raise ValueError(f"has {ascii(item)[:80]} in it, which {error}") from error
    if len(set(value)) != len(value):
        raise ValueError("has the same twice")
    return value


def texts_that(check: Callable[[str], None], *, smallest: int = 0) -> Callable[[object], list[str]]:
    """The reader of a list of at least `smallest` different texts that all pass `check`."""
    return lambda value: _list_of_texts(value, check, smallest=smallest)


def seeds(value: object) -> str | list[str]:
    """Given a value for `gate.seeds`, return it. Raise ValueError unless all, largest or user names."""
    if value in ("all", "largest"):
        return str(value)
    if isinstance(value, str):
        raise ValueError("is neither of the two words")
    return _list_of_texts(value, check_user_name, smallest=1)
