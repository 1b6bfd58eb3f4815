"""Connections to Redis by a `queue.url`: to one server, or to the primary that Sentinels name."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from t3flow.engine.queue_urls import is_sentinel, sentinel_url

CALL_SECONDS = 3.0
"""Timeout of a call to Redis, and of SQLite's wait for the file lock. Longer than a worker's wait for a message."""
CONNECT_SECONDS = 2.0
GREETING_SECONDS, MOST_GREETING_BYTES = 0.3, 1000


def open_pool(url: str) -> ConnectionPool:
    """Return the pool of connections for a URL. Connects on first use.

    A connection that was cut while it was idle, as proxies do, is opened again once per call. A repeat is harmless, because messages are hints.
    """
    options: dict[str, Any] = {
        "socket_timeout": CALL_SECONDS,
        "socket_connect_timeout": CONNECT_SECONDS,
        "retry": Retry(NoBackoff(), 1, (RedisConnectionError,)),
    }
    if is_sentinel(url):
        return _sentinel_pool(url, options)
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
    return ConnectionPool.from_url(url, **options)


def _sentinel_pool(url: str, options: dict[str, Any]) -> ConnectionPool:
    """Return the pool of connections to the primary: looked up at each new connection, so that it follows a failover."""
    sentinels, service, server = sentinel_url(url)
    named = parse_url(server)
    is_tls = named.pop("connection_class", None) is not None
    own = {name: named.pop(f"sentinel_{name}") for name in ("username", "password") if f"sentinel_{name}" in named}
    for name in ("host", "port"):
        named.pop(name, None)
    tls = {"ssl": True, **{name: value for name, value in named.items() if name.startswith("ssl_")}} if is_tls else {}
    limits = {
        "socket_timeout": CONNECT_SECONDS,
        "socket_connect_timeout": CONNECT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    manager = Sentinel(sentinels, sentinel_kwargs={**limits, **own, **tls})
    return SentinelConnectionPool(service, manager, ssl=is_tls, **{**named, **options})


def check_new_connection(pool: ConnectionPool) -> None:
    """Open a connection of its own, as the next command will, and close it. Raises RedisError: a changed password, too many clients."""
    connection = _new_connection(pool)
    with refusals_told(pool):
        try:
            connection.connect()
            connection.send_command("PING")
            connection.read_response()
        finally:
            connection.disconnect()


def _new_connection(pool: ConnectionPool) -> Any:
    """Return a connection of the pool's kind that is not in the pool, is not open yet, and tries once."""
    return pool.connection_class(**{**pool.connection_kwargs, "retry": Retry(NoBackoff(), 0)})


@contextmanager
def refusals_told(pool: ConnectionPool) -> Iterator[None]:
    """Raise RedisConnectionError with the server's words if a connection in the block was cut by a server that refuses new ones.

    Redis writes an error and closes a connection at once if it has too many clients, or in protected mode. A client that sends a password at that
    moment learns only that the connection is closed.
    """
    try:
        yield
    except RedisConnectionError as error:
        said = _greeting(pool) if type(error) is RedisConnectionError else ""
        if said.startswith("-"):
            raise RedisConnectionError(said[1:]) from error
        raise


def _greeting(pool: ConnectionPool) -> str:
    """Return what the server says to a new connection that says nothing; "" for nothing, or if it cannot be reached."""
    connection = _new_connection(pool)
    with suppress(OSError, RedisError, AttributeError), connection._connect() as opened:  # `connect` would send
        opened.settimeout(GREETING_SECONDS)
        return str(opened.recv(MOST_GREETING_BYTES).decode(errors="replace").partition("\r\n")[0])
    return ""
