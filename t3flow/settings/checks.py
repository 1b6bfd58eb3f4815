"""Checks of setting values. Each returns the value in force, or raises ValueError with what is wrong with it.

`load.py` puts file, key and value before that text, and what the key expects after it.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from string import Formatter
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from cronsim import CronSim, CronSimError

from t3flow.engine.queue_urls import is_sentinel, sentinel_url
from t3flow.settings.timezones import zone_of
from t3flow.settings.user_map import USER_NAME
from t3flow.t3 import versions

JOURNAL_PREFIX = "journal:"
"""Precedes the name of a unit whose log is in journald."""

MAX_URLS = 20
"""Each URL of Apprise may take a thread and a child process while its server does not answer."""

Check = Callable[[Any], Any]

REDIS_OPTIONS = {
    "": r"db|username|password|client_name|health_check_interval",
    "rediss": r"ssl_(?:ca_certs|ca_path|ca_data|certfile|keyfile|password|cert_reqs|check_hostname|ciphers)",
    "+sentinel": r"sentinel_(?:username|password)",
}
"""Part of the scheme of a Redis server's URL → the options that it may have. Timeouts are t3flow's own."""

ACCOUNT = rf"(?!root\Z)(?:{USER_NAME.pattern})"
_UNIT = r"[A-Za-z0-9:_.@\\-]+\.service"
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*"


def type_of(value: object) -> str:
    """Return the TOML type of a value, for people."""
    names = {
        bool: "a boolean",
        str: "a string",
        int: "an integer",
        float: "a float",
        list: "an array",
        dict: "a table",
    }
    return names.get(type(value), "a date or time")


# Checks of any setting ------------------------------------------------------------------------------------------------


def matches(pattern: str, problem: str = "is not valid") -> Callable[[str], str]:
    """Return the check that a text matches a pattern as a whole and contains no control characters."""

    def check(text: str) -> str:
        if not text.isprintable() or not re.fullmatch(pattern, text):
            raise ValueError(problem)
        return text

    return check


def between(smallest: float, largest: float) -> Callable[[float], float]:
    """Return the check that a number is within bounds, both included; `inf` and `nan` never are."""

    def check(value: float) -> float:
        if not smallest <= value <= largest:
            raise ValueError("is out of range")
        return value

    return check


def zero_or_between(smallest: float, largest: float) -> Callable[[float], float]:
    """Return the check that a number is 0 or within bounds, both included."""
    within = between(smallest, largest)
    return lambda value: value if value == 0 else within(value)


def one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    """Return the check that a text is one of some words."""

    def check(value: str) -> str:
        if value not in words:
            raise ValueError("is not one of these words")
        return value

    return check


def each(check: Check, *, at_least: int = 0) -> Callable[[list[Any]], list[str]]:
    """Return the check that an array has so many items or more, each a different text that passes `check`."""

    def check_all(items: list[Any]) -> list[str]:
        if len(items) < at_least:
            raise ValueError("is empty")
        for item in items:
            try:
                if not isinstance(item, str):
                    raise ValueError(f"is {type_of(item)}")
                check(item)
            except ValueError as error:
                raise ValueError(f"contains {ascii(item)[:80]}, which {error}") from error
        if len(set(items)) != len(items):
            raise ValueError("contains a duplicate")
        return items

    return check_all


def or_empty(check: Check) -> Check:
    """Return the check that a text is empty or passes `check`."""
    return lambda text: check(text) if text else text


# Checks of one setting each -------------------------------------------------------------------------------------------


def seeds(value: str | list[Any]) -> str | list[str]:
    """Check `gate.seeds`: a word or an array of users. Raise ValueError."""
    if isinstance(value, str):
        return one_of(("all", "largest"))(value)
    return each(matches(ACCOUNT), at_least=1)(value)


def absolute_path(text: str) -> Path:
    """Return a text as a path. Raise ValueError unless it is absolute, not the root, and without `..`."""
    if not text.isprintable():
        raise ValueError("contains control characters")
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("is not absolute")
    if ".." in path.parts:
        raise ValueError("contains ..")
    if path == Path(path.anchor):
        raise ValueError("is the root folder")
    return path


def version(text: str) -> str:
    """Check an exact version. Raise ValueError."""
    try:
        versions.parse(text)
    except versions.InvalidVersion as error:
        raise ValueError("is not an exact version") from error
    return text


def cron(text: str) -> str:
    """Check a cron expression: five fields and a time that comes. Raise ValueError."""
    if len(text.split()) != 5:
        raise ValueError(f"has {len(text.split())} fields")
    if len(text) > 200:
        raise ValueError("is longer than 200 characters")
    try:
        next(CronSim(text, datetime(2026, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise ValueError(f"has a {str(error)[:1].lower()}{str(error)[1:]}") from error
    except StopIteration:
        raise ValueError("never comes due") from None
    return text


def timezone(text: str) -> str:
    """Check a time zone. Raise ValueError."""
    zone_of(text)
    return text


def log_source(text: str) -> str:
    """Check `journal:UNIT`, an absolute path or "". Raise ValueError."""
    if text and not text.startswith(JOURNAL_PREFIX):
        absolute_path(text)
        return text
    return matches(f"(?:{JOURNAL_PREFIX}{_UNIT})?", "names no service unit after journal:")(text)


def _placeholders(text: str, known: set[str]) -> set[str]:
    """Return the names of a text's `{placeholders}`. Raise ValueError for an unknown one and for any other use of braces."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"contains a stray brace ({error})") from error
    names = {name for _, name, _, _ in parts if name is not None}
    if unknown := names - known:
        raise ValueError(f"contains the unknown placeholder {{{ascii(min(unknown))[1:-1]}}}")
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise ValueError("contains a placeholder with more than a name")
    return names


def unit_template(text: str) -> str:
    """Check the name of a service unit with `{user}`. Raise ValueError."""
    if "user" not in _placeholders(text, {"user"}):
        raise ValueError("does not contain {user}: all users would share one unit")
    matches(_UNIT, "is not the name of a service unit")(text.replace("{user}", "u"))
    return text


def base_dir_template(text: str) -> str:
    """Check an absolute path that begins with `{home}` or contains `{user}`. Raise ValueError."""
    if not _placeholders(text, {"user", "home"}):
        raise ValueError("contains neither {home} nor {user}: all users would share one folder")
    absolute_path(text.replace("{home}", "/home/u").replace("{user}", "u"))
    if "{home}" in text[1:]:
        raise ValueError("contains {home} after the start")
    return text


def _split(text: str) -> tuple[SplitResult, int | None]:
    """Return a URL's parts and its port. Raise ValueError."""
    _printable(text)
    try:
        parts = urlsplit(text)
        return parts, parts.port
    except ValueError as error:
        raise ValueError("is not a URL (host or port)") from error


def _printable(text: str) -> None:
    if not text.isprintable() or " " in text:
        raise ValueError("contains spaces or control characters")


def _check_server(host: str | None, port: int | None) -> None:
    matches(_HOST, "names no host")(host or "")
    if port == 0:
        raise ValueError("has port 0")


def dispatch_url(text: str) -> str:
    """Return an HTTP URL of host and port alone, without a trailing slash. Raise ValueError."""
    parts, port = _split(text)
    if parts.scheme not in ("http", "https"):
        raise ValueError("is not an http or https URL")
    _check_server(parts.hostname, port)
    if "@" in text or "?" in text or "#" in text or parts.path not in ("", "/"):
        raise ValueError("contains more than a host and a port")
    return text.removesuffix("/")


def queue_url(text: str) -> str:
    """Check the URL of a queue: SQLite's file, a Redis server, its socket, or the Sentinels that know it. Raise ValueError."""
    if is_sentinel(text):
        _printable(text)
        for host, _ in sentinel_url(text).sentinels:
            _check_server(host, None)
        _check_redis_options(urlsplit(text))
        return text
    parts, port = _split(text)
    scheme = parts.scheme
    if scheme != "sqlite":
        _check_redis_options(parts)
    if scheme in ("redis", "rediss"):
        _check_server(parts.hostname, port)
        matches("/?[0-9]*", "has a database that is not a number")(parts.path)
    elif scheme in ("sqlite", "unix"):
        if scheme == "sqlite" and re.search(r"[@?#]", text):
            raise ValueError("contains more than a path")
        if parts.hostname:
            raise ValueError(f"has a host before the path (write three slashes: {scheme}:///…)")
        absolute_path(parts.path)
    else:
        raise ValueError(f"has {f'the unknown scheme {scheme}' if scheme else 'no scheme'}")
    return text


def _check_redis_options(parts: SplitResult) -> None:
    """Raise ValueError for an option that the client does not know, or that would replace t3flow's timeouts."""
    known = "|".join(options for scheme, options in REDIS_OPTIONS.items() if scheme in parts.scheme)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if not re.fullmatch(known, name):
            raise ValueError(f"has the option {name}, which cannot be used with {parts.scheme}")
        if name in ("db", "health_check_interval") and not value.isdecimal():
            raise ValueError(f"has the option {name} that is not a number")


def fleet_url(text: str) -> str:
    """Check the URL of a fleet: a Redis server or its socket, or a server that speaks FleetLock's protocol. Raise ValueError."""
    scheme = text.partition("://")[0]
    if scheme in ("http", "https"):
        parts, port = _split(text)
        _check_server(parts.hostname, port)
        if re.search(r"[@?#]", text):
            raise ValueError("contains more than a host, a port and a path")
        return text.removesuffix("/")
    if is_sentinel(text):
        raise ValueError("names Sentinels: a failover may lose slots, so that a fleet needs one Redis")
    if scheme == "sqlite":
        raise ValueError("has the unknown scheme sqlite")
    return queue_url(text)


def message_url(text: str) -> str:
    """Check an HTTP URL that messages are sent to. Raise ValueError."""
    parts, port = _split(text)
    if parts.scheme not in ("http", "https"):
        raise ValueError("is not an http or https URL")
    _check_server(parts.hostname, port)
    if parts.fragment:
        raise ValueError("contains a fragment")
    return text


def apprise_urls(items: list[Any]) -> list[str]:
    """Check URLs of Apprise. Raise ValueError, which names an item by its number, because a URL is a secret."""
    for number, item in enumerate(items, 1):
        if not isinstance(item, str):
            raise ValueError(f"contains, as item {number}, {type_of(item)}")
        if not item.isprintable() or not re.fullmatch(r"[a-z][a-z0-9+]*://\S+", item):
            raise ValueError(f"contains, as item {number}, no URL")
    if len(items) > MAX_URLS:
        raise ValueError(f"contains {len(items)} items")
    if len(set(items)) != len(items):
        raise ValueError("contains a duplicate")
    return items


def textfile(text: str) -> str:
    """Check the path of a file for the node exporter's textfile collector. Raise ValueError."""
    absolute_path(text)
    if not text.endswith(".prom"):
        raise ValueError("does not end in .prom, so the node exporter would ignore it")
    return text


def listen(text: str) -> str:
    """Check an address to listen on: a Unix socket, or a port on loopback. Raise ValueError."""
    if text.startswith("unix://"):
        parts, _ = _split(text)
        if parts.netloc:
            raise ValueError("has a host before the path (write three slashes: unix:///…)")
        absolute_path(parts.path)
        return text
    found = re.fullmatch(r"(?:127\.0\.0\.1|\[::1\]|localhost):([0-9]{1,5})", text)
    if not found:
        raise ValueError("is neither a Unix socket nor a port on loopback")
    between(1, 65535)(int(found[1]))
    return text
