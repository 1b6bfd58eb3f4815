"""Redis with TLS, behind Sentinel, restarted, and evicting: runs in flight end as they should, deferrals stay, and nothing runs twice."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from scenes import LATER, NEXT, bump, deferrals, drained, everybody_is_well, is_busy
from servers import SentinelServer, Server, authority, free_port, servers, tls_program
from test_causes import AGAIN_SECONDS, PASSWORD, is_well, runs_a_bump, told
from test_queue_faults import MINUTE_SECONDS, completed_once

from t3flow.sandbox.host import Sandbox

SENTINEL_PASSWORD = "open-sentinel-3"


def bump_in_its_gate(box: Sandbox) -> tuple[str, str]:
    """Begin a bump with a busy user, and return its run and the turn once it is in its gate."""
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32, "rules": [{"fault": "slow_start", "seconds": 3, "when": {}}]})
    run = box.document("enqueue", "bump")["run"]
    steps = lambda: {event["step"] for event in box.document("show", run)["events"]}  # noqa: E731
    box.until(lambda: "run_trials" in steps(), "the gate has begun", MINUTE_SECONDS)
    return run, turn


def ends_well(box: Sandbox, run: str, turn: str) -> None:
    """Wait until the bump ends as updated and the busy user follows after the turn."""
    box.until(lambda: box.has_ended(run), "the bump ends", MINUTE_SECONDS)
    assert box.document("show", run)["outcome"] == "updated"
    assert list(deferrals(box)) == ["grace"]
    box.control("grace", "turn/end", turn=turn)
    drained(box, "grace", NEXT, MINUTE_SECONDS)
    everybody_is_well(box, {"ada": NEXT, "grace": NEXT})
    completed_once(box)


@pytest.mark.parametrize("is_persistent", [True, False], ids=["persistent", "in memory"])
def test_it_restarts_in_mid_bump(make_box: Callable[..., Sandbox], is_persistent: bool) -> None:
    server = Server(*(("--appendonly", "yes") if is_persistent else ()))
    with servers(server):
        box = make_box(["ada", "grace"], queue_url=server.url)
        run, turn = bump_in_its_gate(box)
        server.stop()
        told(box, "is not running", is_blocking=True)
        server.start()
        box.until(lambda: is_well(box), "it works again", AGAIN_SECONDS)
        ends_well(box, run, turn)


def test_it_evicts(make_box: Callable[..., Sandbox]) -> None:
    """With allkeys-lru, Redis removes the schedule with a deferral in it: it is told before, and the journal restores it at once."""
    server = Server()
    with servers(server):
        redis = server.client
        box = make_box(["ada", "grace"], queue_url=server.url)
        turn = is_busy(box, "grace")
        box.publish(NEXT, {"schema_level": 32})
        assert bump(box)["outcome"] == "updated"
        redis.config_set("maxmemory-policy", "allkeys-random")
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] + 2**20)
        told(box, "may evict messages", is_blocking=False)
        assert "may evict messages" in box.t3flow("doctor").stdout
        [schedule] = redis.keys("huey.schedule.t3flow_*") or [b""]
        lost = 0
        deadline = time.monotonic() + AGAIN_SECONDS
        while lost == 0:
            redis.set(f"of others {time.monotonic()}", os.urandom(50_000))
            lost += redis.info("stats")["evicted_keys"] > 20 and not redis.exists(schedule)
            assert time.monotonic() < deadline
        box.until(
            lambda: "restored from the journal" in (box.top / "log/consumer.log").read_text(), "it is restored", 15
        )
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", 0)
        box.until(lambda: is_well(box), "nothing is told any more", AGAIN_SECONDS)
        box.control("grace", "turn/end", turn=turn)
        drained(box, "grace", NEXT, MINUTE_SECONDS)
        completed_once(box)


def test_sentinel_fails_over_in_mid_bump(make_box: Callable[..., Sandbox]) -> None:
    """The primary dies in the gate; its replica takes over, and the consumer follows it. The old primary comes back as a replica."""
    ports = [free_port() for _ in range(4)]
    auth = ("--masterauth", PASSWORD)
    primary = Server(*auth, port=ports[0], password=PASSWORD)
    replica = Server(*auth, "--replicaof", "127.0.0.1", str(ports[0]), port=ports[1], password=PASSWORD)
    rules = [
        f"sentinel monitor t3queue 127.0.0.1 {ports[0]} 1",
        f"sentinel auth-pass t3queue {PASSWORD}",
        "sentinel down-after-milliseconds t3queue 2000",
        "sentinel failover-timeout t3queue 5000",
        f"requirepass {SENTINEL_PASSWORD}",
    ]
    with servers(primary, replica):
        deadline = time.monotonic() + AGAIN_SECONDS
        while replica.client.info("replication")["master_link_status"] != "up":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        watchers = [SentinelServer(*rules, port=port) for port in ports[2:]]
        with servers(*watchers):
            hosts = ",".join(f"127.0.0.1:{port}" for port in ports[2:])
            url = f"redis+sentinel://:{PASSWORD}@{hosts}/t3queue/0?sentinel_password={SENTINEL_PASSWORD}"
            box = make_box(["ada", "grace"], queue_url=url)
            box.until(lambda: is_well(box), "the queue works", AGAIN_SECONDS)
            run, turn = bump_in_its_gate(box)
            primary.stop()
            told(box, "t3queue (by Sentinel)", is_blocking=True)
            ends_well(box, run, turn)
            box.until(lambda: is_well(box), "it works by the new primary", AGAIN_SECONDS)
            assert replica.client.info("replication")["role"] == "master"
            primary.start()
            runs_a_bump(box)
            watchers[0].stop()
            runs_a_bump(box)
            shown = (
                box.t3flow("config", "show").stdout
                + (box.top / "log/consumer.log").read_text()
                + box.t3flow("doctor").stdout
            )
            assert PASSWORD not in shown
            assert SENTINEL_PASSWORD not in shown


@pytest.fixture
def tls() -> str:
    program = tls_program()
    if program is None:
        pytest.skip("no redis-server with TLS: sh tests/redis_faults/prepare.sh")
    return program


def test_tls_by_an_authority_of_ones_own(make_box: Callable[..., Sandbox], tmp_path: Path, tls: str) -> None:
    """A bump passes over TLS. An unknown authority is named as the cause, and so is a Redis that does not speak TLS."""
    ca, certificate, key = authority(tmp_path, "ours")
    other, _, _ = authority(tmp_path, "theirs")
    port = free_port()
    words = ["--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"]
    server = Server(*map(str, words), program=tls, password=PASSWORD)
    with servers(server):
        url = f"rediss://:{PASSWORD}@127.0.0.1:{port}/0?ssl_ca_certs="
        trusted = tmp_path / "trusted.pem"
        trusted.write_bytes(other.read_bytes())
        box = make_box(["ada"], queue_url=f"{url}{trusted}")
        told(box, "certificate of Redis at 127.0.0.1", is_blocking=True)
        assert "ssl_ca_certs" in box.t3flow("status").stdout
        run = box.document("enqueue", "bump")["run"]
        trusted.write_bytes(ca.read_bytes())
        runs_a_bump(box, run)
        box.publish(LATER, {"schema_level": 32})
        assert bump(box)["outcome"] == "updated"
        assert Redis.from_url(f"{url}{ca}").dbsize() > 0
        assert PASSWORD not in (box.top / "log/consumer.log").read_text() + box.t3flow("config", "show").stdout


def test_no_tls_where_it_is_asked_for(make_box: Callable[..., Sandbox]) -> None:
    port = free_port()
    with servers(Server(port=port)):
        box = make_box(["ada"], queue_url=f"rediss://127.0.0.1:{port}/0")
        told(box, "or does not speak TLS", is_blocking=True)
