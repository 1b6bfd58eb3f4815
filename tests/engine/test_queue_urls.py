"""URLs of queues: Sentinels, the words for a place, and passwords that never show; and the causes of errors."""

import sqlite3

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, TimeoutError

from t3flow.engine.queue_faults import REDIS, MessageLost, fault_of
from t3flow.engine.queue_urls import place, sentinel_url, without_password
from t3flow.engine.redis_pools import open_pool
from t3flow.settings.text import mask

SENTINEL = "redis+sentinel://u:p%40ss@h1:1,[::1]:26380,h3/my%20one/2?sentinel_password=other&ssl_ca_certs=/x"


def test_the_parts_of_a_url_with_sentinels() -> None:
    found = sentinel_url(SENTINEL)
    assert found.sentinels == [("h1", 1), ("::1", 26380), ("h3", 26379)]
    assert found.service == "my one"
    assert found.server == "redis://u:p%40ss@h1/2?sentinel_password=other&ssl_ca_certs=/x"


def test_the_pool_knows_sentinels_and_the_password_of_each() -> None:
    pool = open_pool(SENTINEL.replace("redis+", "rediss+"))
    kwargs = pool.connection_kwargs
    assert (kwargs["username"], kwargs["password"], kwargs["db"], kwargs["ssl_ca_certs"]) == ("u", "p@ss", 2, "/x")
    first = pool.sentinel_manager.sentinels[0].connection_pool.connection_kwargs  # type: ignore[attr-defined]
    assert (first["host"], first["port"], first["password"], first["ssl_ca_certs"]) == ("h1", 1, "other", "/x")
    assert first.get("username") is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://:pw@h", "Redis at h:6379"),
        ("rediss://u:pw@[::1]:6380/2", "Redis at ::1:6380"),
        ("unix://:pw@/run/s?db=1", "Redis at /run/s"),
        ("sqlite:///a%20b/queue.db", "the queue file /a b/queue.db"),
        (SENTINEL, "Redis my one (by Sentinel)"),
    ],
)
def test_a_place_is_named_without_a_password(url: str, words: str) -> None:
    assert place(url) == words


@pytest.mark.parametrize("url", [SENTINEL, "redis://h?password=other", "unix://:other@/s", "redis://u:p%40ss@h"])
def test_no_password_shows(url: str) -> None:
    said = without_password("AUTH u p@ss or p%40ss failed, other too", url)
    assert said != "AUTH u p@ss or p%40ss failed, other too"
    shown = mask(url)
    assert not any(secret in shown for secret in ("p%40ss", "=other", ":other"))


@pytest.mark.parametrize(("part", "cause", "remedy"), REDIS)
def test_each_cause_is_found_and_has_a_remedy(part: str, cause: str, remedy: str) -> None:
    fault = fault_of(RedisError(f"Error: {part.upper()}!"), "redis://:secret@h:1")
    assert fault.cause
    assert fault.remedy
    assert "{" not in fault.cause
    assert "secret" not in fault.cause
    assert remedy


def test_other_errors_are_told_as_they_are() -> None:
    assert fault_of(RedisError("x secret y"), "redis://:secret@h").cause == "Redis at h:6379 fails: x *** y"
    assert fault_of(TimeoutError(), "redis://h").cause == "Redis at h:6379 did not answer in time"
    assert "does not speak TLS" in fault_of(TimeoutError("Timeout connecting to server"), "rediss://h").cause
    assert "loses messages" in fault_of(MessageLost("gone"), "redis://h").cause
    assert not fault_of(RedisConnectionError("x"), "redis://h", is_blocking=False).is_blocking


def test_a_queue_file_that_cannot_be_written_is_named() -> None:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    assert fault_of(error, "sqlite:///q.db").cause == "the queue file /q.db cannot grow: the disk is full"
