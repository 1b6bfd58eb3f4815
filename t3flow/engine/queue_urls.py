"""What a `queue.url` says, without the queue's client: the Sentinels that know a primary, and the queue's place in words."""

from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

SENTINEL_SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
"""Scheme of a URL that names Sentinels → the scheme of the Redis servers behind them."""
SENTINEL_PORT = 26379


class SentinelUrl(NamedTuple):
    """The parts of redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/SERVICE[/DATABASE]. `server`: a URL with the rest."""

    sentinels: list[tuple[str, int]]
    service: str
    server: str


def is_sentinel(url: str) -> bool:
    """Return whether a URL names Sentinels."""
    return url.partition("://")[0] in SENTINEL_SCHEMES


def sentinel_url(url: str) -> SentinelUrl:
    """Return the parts of a URL that names Sentinels. Raise ValueError."""
    parts = urlsplit(url)
    account, at, hosts = parts.netloc.rpartition("@")
    sentinels = []
    for each in hosts.split(","):
        one = urlsplit(f"//{each}")
        try:
            port = one.port
        except ValueError as error:
            raise ValueError("is not a URL (host or port)") from error
        if not one.hostname or port == 0:
            raise ValueError("has port 0" if one.hostname else "names no host")
        sentinels.append((one.hostname, port or SENTINEL_PORT))
    service, _, database = parts.path.removeprefix("/").partition("/")
    if not service:
        raise ValueError("names no service after the hosts, such as /mymaster")
    if database and not database.isdigit():
        raise ValueError("has a database that is not a number")
    server = SplitResult(
        SENTINEL_SCHEMES[parts.scheme], f"{account}{at}{sentinels[0][0]}", f"/{database}", parts.query, ""
    )
    if ":" in sentinels[0][0]:
        server = server._replace(netloc=f"{account}{at}[{sentinels[0][0]}]")
    return SentinelUrl(sentinels, unquote(service), server.geturl())


def place(url: str) -> str:
    """Return where a queue is, in words without an account or a password."""
    if is_sentinel(url):
        found = sentinel_url(url)
        return f"Redis {found.service} (by Sentinel)"
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss"):
        return f"Redis at {parts.hostname}:{parts.port or 6379}"
    return f"Redis at {parts.path}" if parts.scheme == "unix" else f"the queue file {unquote(parts.path)}"


def without_password(text: str, url: str) -> str:
    """Return a text of the queue's client with the passwords of the URL masked."""
    parts = urlsplit(url)
    found = [parts.netloc.rpartition("@")[0].partition(":")[2]]
    for each in parts.query.split("&"):
        name, _, value = each.partition("=")
        found += [value] if "password" in name else []
    for secret in {*found, *map(unquote, found)} - {""}:
        text = text.replace(secret, "***")
    return text
