"""What the errors of a queue mean to people: one line with the cause, and the command that helps. No text has a password."""

import sqlite3
from typing import NamedTuple

from redis.exceptions import RedisError

from t3flow.engine.queue_urls import place, without_password

LONGEST_CAUSE = 200
RESTART = "systemctl restart t3flow"


class QueueFault(NamedTuple):
    """Why the queue cannot be used, and what to do, in one line each. `is_blocking`: no run is delivered until it has gone."""

    cause: str
    remedy: str
    is_blocking: bool = True


class MessageLost(RedisError):
    """Redis accepted a message and did not give it back."""


class QueueEvicts(RedisError):
    """Redis may remove the queue's keys to make room for others."""


REDIS = (
    ("max number of clients", "{place} has too many clients (maxclients)", "close some, or raise it: redis-cli config set maxclients 10000"),
    ("certificate verify failed", "the certificate of {place} cannot be verified: {text}", "name its authority in queue.url (?ssl_ca_certs=FILE)"),
    ("certificate", "{place} refuses the connection over its certificate: {text}", "check ssl_certfile= and ssl_keyfile= in queue.url"),
    ("wrong version number", "{place} does not speak TLS", "use redis:// in queue.url, or enable TLS in Redis, then run: " + RESTART),
    ("invalid password", "{place} refuses the password", "set it in queue.url, then run: " + RESTART),
    ("wrongpass", "{place} refuses the password", "set it in queue.url, then run: " + RESTART),
    ("invalid username-password", "{place} refuses the password", "set it in queue.url, then run: " + RESTART),
    ("authentication required", "{place} requires a password", "set it in queue.url, then run: " + RESTART),
    ("without any password", "{place} has no password, and queue.url names one", "set requirepass in Redis, or drop it from queue.url"),
    ("protected mode", "{place} is in protected mode and refuses other machines", "set requirepass in Redis and in queue.url"),
    ("loading the dataset", "{place} is loading its data set", "nothing needs to be done: t3flow goes on once it is loaded"),
    ("read only replica", "{place} is a read-only replica", "name the primary in queue.url, or its Sentinels (redis+sentinel://…)"),
    ("previous master is now a slave", "{place} is a read-only replica", "see redis-cli -p 26379 sentinel masters"),
    ("no master found", "no Sentinel names a primary", "see redis-cli -p 26379 sentinel masters; the service's name is in queue.url"),
    ("unable to persist", "{place} cannot save its data and refuses writes", "free its disk; see redis-cli info persistence"),
    ("misconf", "{place} cannot save its data and refuses writes", "free its disk; see redis-cli info persistence"),
    ("noreplicas", "{place} has too few replicas and refuses writes", "start them, or lower min-replicas-to-write"),
    ("not enough good replicas", "{place} has too few replicas and refuses writes", "start them, or lower min-replicas-to-write"),
    ("maxmemory", "{place} is out of memory (maxmemory)", "free some, or raise it: redis-cli config set maxmemory 256mb"),
    ("no permissions", "{place} denies a right: {text}", "grant it: redis-cli acl setuser NAME ~huey.* +@all -@admin"),
    ("connection refused", "{place} is not running", "start it: systemctl start t3flow-redis (or redis-server)"),
    ("no such file", "{place} is not running", "start it: systemctl start t3flow-redis (or redis-server)"),
    ("permission denied", "this account may not open the socket of {place}", "check the modes of its folders"),
    ("name or service not known", "the name of {place} cannot be resolved", "check queue.url and DNS"),
    ("name resolution", "the name of {place} cannot be resolved", "check queue.url and DNS"),
    ("no route to host", "{place} cannot be reached", "check queue.url and the network"),
    ("timed out", "{place} did not answer in time", "check that it runs and is not overloaded: redis-cli --latency"),
    ("timeout", "{place} did not answer in time", "check that it runs and is not overloaded: redis-cli --latency"),
    ("closed by server", "{place} closed the connection", "see the log of Redis"),
    ("broken pipe", "{place} closed the connection", "see the log of Redis"),
    ("connection reset", "{place} closed the connection", "see the log of Redis"),
)  # fmt: skip
"""Part of an error's text, in lower case → cause and remedy. The first that fits counts."""
SQLITE = {
    sqlite3.SQLITE_FULL: ("{place} cannot grow: the disk is full", "free space on its disk"),
    sqlite3.SQLITE_READONLY: ("{place} cannot be written", "check its owner and mode, and that its disk is writable"),
    sqlite3.SQLITE_CANTOPEN: ("{place} cannot be opened", "check that its folder exists and is writable"),
    sqlite3.SQLITE_BUSY: ("{place} is locked by another process", "see which one: fuser -v FILE"),
    sqlite3.SQLITE_IOERR: ("{place} cannot be read or written: the disk fails", "see journalctl -k"),
}


def fault_of(error: Exception, url: str, *, is_blocking: bool = True) -> QueueFault:
    """Return what an error of the queue at a `queue.url` means."""
    at = place(url)
    text = " ".join(without_password(str(error), url).split())[:LONGEST_CAUSE] or type(error).__name__
    if isinstance(error, MessageLost):
        return QueueFault(f"{at} loses messages: {text}", "see redis-cli info memory", is_blocking)
    if isinstance(error, QueueEvicts):
        return QueueFault(f"{at} {text}", "redis-cli config set maxmemory-policy noeviction", is_blocking)
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        cause, remedy = SQLITE.get(code, ("{place} fails: {text}", "see t3flow doctor"))
        return QueueFault(cause.format(place=at, text=text), remedy, is_blocking)
    for part, cause, remedy in REDIS:
        if part in text.lower():
            if cause.endswith("answer in time") and url.startswith("rediss"):
                cause += ", or does not speak TLS"
            return QueueFault(cause.format(place=at, text=text), remedy, is_blocking)
    return QueueFault(f"{at} fails: {text}", "see the log of Redis", is_blocking)
