"""Redis as people run it: within 10 s, status, doctor, and systemd's status line say what is wrong; nothing is lost; no restart is needed."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import pytest
from ear import Ear
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from servers import Proxy, Server, free_port

from t3flow.engine.redis_pools import open_pool, refusals_told
from t3flow.sandbox.host import Sandbox

TOLD_SECONDS = 10.0
"""Promised in docs/monitoring.md."""
AGAIN_SECONDS = 30.0
PASSWORD, OTHER = "open-sesame-1", "close-sesame-2"


class Fault(NamedTuple):
    """A fault of a server: what does it, what ends it, and words of the line that tells it. `is_blocking`: None for either."""

    do: Callable[[Server, Redis], None]
    undo: Callable[[Server, Redis], None]
    words: str
    is_blocking: bool | None = True
    account: str = ""


def change_password(server: Server, redis: Redis) -> None:
    """Return the password of new connections; those that are open stay."""
    redis.config_set("requirepass", OTHER)


def change_password_and_cut(server: Server, redis: Redis) -> None:
    change_password(server, redis)
    redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def restore_password(server: Server, redis: Redis) -> None:
    redis.config_set("requirepass", PASSWORD)


def fill_clients(server: Server, redis: Redis) -> None:
    redis.config_set("maxclients", len(redis.client_list()))


def load_slowly(server: Server, redis: Redis) -> None:
    """Restart with a data set that takes long to load."""
    for number in range(180):
        redis.set(f"key{number}", os.urandom(500_000))
    redis.save()
    server.stop()
    server.start("--key-load-delay", "130000", wait=False)  # microseconds; while it loads, Redis answers every 2 MB


FAULTS = {
    "password": Fault(change_password, restore_password, "refuses the password", is_blocking=False),
    "password and connections": Fault(change_password_and_cut, restore_password, "refuses the password"),
    "full": Fault(
        lambda server, redis: redis.config_set("maxmemory", 1),
        lambda server, redis: redis.config_set("maxmemory", 0),
        "out of memory (maxmemory)",
    ),
    "clients": Fault(
        fill_clients, lambda server, redis: redis.config_set("maxclients", 1000), "too many clients", is_blocking=None
    ),
    "replica": Fault(
        lambda server, redis: redis.execute_command("REPLICAOF", "127.0.0.1", "1"),
        lambda server, redis: redis.execute_command("REPLICAOF", "NO", "ONE"),
        "read-only replica",
    ),
    "right": Fault(
        lambda server, redis: redis.execute_command("ACL", "SETUSER", "t3", "-zadd"),
        lambda server, redis: redis.execute_command("ACL", "SETUSER", "t3", "+zadd"),
        "zadd",
        account="t3",
    ),
    "scripts": Fault(
        lambda server, redis: redis.execute_command("ACL", "SETUSER", "t3", "-@scripting"),
        lambda server, redis: redis.execute_command("ACL", "SETUSER", "t3", "+@scripting"),
        "evalsha",
        account="t3",
    ),
    "gone": Fault(lambda server, redis: server.stop(), lambda server, redis: server.start() and None, "not running"),
    "hangs": Fault(
        lambda server, redis: server.pause(), lambda server, redis: server.resume(), "did not answer in time"
    ),
    "loading": Fault(load_slowly, lambda server, redis: None, "is loading its data set", is_blocking=None),
    "cannot save": Fault(
        lambda server, redis: cannot_save(server, redis),
        lambda server, redis: redis.config_set("stop-writes-on-bgsave-error", "no"),
        "cannot save",
    ),
}


def cannot_save(server: Server, redis: Redis) -> None:
    """Let a save fail, as with a full disk."""
    redis.config_set("dbfilename", "gone.rdb")
    (server.folder / "gone.rdb").mkdir()
    redis.config_set("save", "1 1")
    redis.set("changed", "1")
    deadline = time.monotonic() + 10
    while redis.info("persistence")["rdb_last_bgsave_status"] == "ok":
        assert time.monotonic() < deadline
        redis.set("changed", str(time.monotonic()))
        time.sleep(0.1)


def told(box: Sandbox, words: str, *, is_blocking: bool | None) -> str:
    """Wait until status tells it, within the promised time, and return the line."""
    keys = {True: ["consumer_waits"], False: ["queue_risk"], None: ["consumer_waits", "queue_risk"]}[is_blocking]
    found: list[str] = []

    def holds() -> bool:
        found[:] = [each["text"] for each in box.document("status")["problems"] if each["key"] in keys]
        return any(words in each for each in found)

    try:
        box.until(holds, f"status tells {words!r}", TOLD_SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{error}; it tells {found}") from None
    return found[0]


def runs_a_bump(box: Sandbox, run: str = "") -> None:
    """Wait until a bump ends as it should, without a restart of the consumer."""
    run = run or box.document("enqueue", "bump")["run"]
    box.until(lambda: box.has_ended(run), f"{run} ends", AGAIN_SECONDS)
    assert box.document("show", run)["outcome"] == "up_to_date"


def is_well(box: Sandbox) -> bool:
    consumer = box.document("status")["consumer"]
    return consumer["queue"] is None and consumer["waiting_for"] is None


def is_in_status_line(ear: Ear, words: str) -> bool:
    ear.hears("no such word", 0.3)
    return any(words in word for word in ear.heard if word.startswith("STATUS="))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_and_passes(make_box: Callable[..., Sandbox], ear: Ear, name: str) -> None:
    fault = FAULTS[name]
    server = Server(password=PASSWORD)
    try:
        redis = server.start().client
        url = server.url
        if fault.account:
            redis.execute_command("ACL", "SETUSER", fault.account, "on", f">{PASSWORD}", "~huey.*", "+@all", "-@admin")
            url = f"unix://{fault.account}:{PASSWORD}@{server.socket}"
        box = make_box(["ada"], queue_url=url)
        box.until(lambda: is_well(box), "the queue works", 10)
        pid = box.processes["consumer"].pid
        ear.forget()
        fault.do(server, redis)
        line = told(box, fault.words, is_blocking=fault.is_blocking)
        sent = box.t3flow("enqueue", "bump", "--json")
        said = box.t3flow("doctor").stdout
        assert fault.words in said, said
        box.until(lambda: is_in_status_line(ear, fault.words), "the status line tells it", TOLD_SECONDS)
        run = box.document("runs")[0]["run"]
        assert run in sent.stdout
        if fault.is_blocking:
            assert box.document("show", run)["status"] == "running", "it waits"
        fault.undo(server, redis)
        box.until(lambda: is_well(box), "nothing is told any more", AGAIN_SECONDS)
        runs_a_bump(box, run)
        runs_a_bump(box)
        assert box.processes["consumer"].pid == pid
        assert box.processes["consumer"].poll() is None
        log = (box.top / "log/consumer.log").read_text()
        for text in (line, sent.stdout, sent.stderr, said, log, *ear.heard):
            assert PASSWORD not in text
            assert OTHER not in text
        assert "Traceback" not in log
    finally:
        with suppress(RedisError, OSError, AssertionError):
            server.resume()
        server.close()


def test_the_words_of_a_server_that_hangs_up_at_once() -> None:
    """A client that was sending its password meanwhile learned only that the connection is closed."""
    server = Server(password=PASSWORD)
    try:
        redis = server.start().client
        redis.config_set("maxclients", len(redis.client_list()))
        with pytest.raises(RedisConnectionError, match="max number of clients"), refusals_told(open_pool(server.url)):
            raise RedisConnectionError("Error 32 while writing to socket. Broken pipe.")
        redis.config_set("maxclients", 1000)
        with pytest.raises(RedisConnectionError, match="Broken pipe"), refusals_told(open_pool(server.url)):
            raise RedisConnectionError("Error 32 while writing to socket. Broken pipe.")
    finally:
        server.close()


def test_a_wrong_password_at_the_start(make_box: Callable[..., Sandbox]) -> None:
    server = Server(password=OTHER)
    try:
        redis = server.start().client
        box = make_box(["ada"], queue_url=f"unix://:{PASSWORD}@{server.socket}")
        told(box, "refuses the password", is_blocking=True)
        run = box.document("enqueue", "bump")["run"]
        redis.config_set("requirepass", PASSWORD)
        runs_a_bump(box, run)
        assert PASSWORD not in (box.top / "log/consumer.log").read_text()
    finally:
        server.close()


def test_protected_mode(make_box: Callable[..., Sandbox]) -> None:
    """Another machine is refused by a Redis without a password."""
    port = free_port()
    server = Server("--protected-mode", "yes", port=port)
    proxy = Proxy(port, source="127.0.0.2")
    try:
        redis = server.start().client
        box = make_box(["ada"], queue_url=f"redis://127.0.0.1:{proxy.port}/0")
        told(box, "protected mode", is_blocking=True)
        redis.config_set("protected-mode", "no")
        runs_a_bump(box)
    finally:
        proxy.close()
        server.close()


def test_idle_connections_are_cut(make_box: Callable[..., Sandbox]) -> None:
    """A proxy cuts each connection that is a second old whenever it is idle: nothing is delayed, and nothing is told."""
    port = free_port()
    server = Server(port=port)
    proxy = Proxy(port, cut_after_seconds=1)
    try:
        server.start()
        box = make_box(["ada"], queue_url=f"redis://127.0.0.1:{proxy.port}/0")
        box.until(lambda: proxy.cut >= 4, "connections are cut", AGAIN_SECONDS)
        assert is_well(box)
        runs_a_bump(box)
        assert is_well(box)
        assert "cannot be used" not in (box.top / "log/consumer.log").read_text()
    finally:
        proxy.close()
        server.close()
