"""The queue goes away under a consumer that runs: what is pending comes back from the journal, once."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import RedisServer
from redis import Redis
from scenes import FIRST, LATER, NEXT, bump, deferrals, drained, everybody_is_well, is_busy

from t3flow.sandbox.host import Sandbox

MINUTE_SECONDS = 75.0
"""Recovery looks each minute."""


def completed_once(box: Sandbox) -> None:
    """No step of any run was completed twice with the same arguments, but those that ask or look."""
    for run in box.document("runs"):
        events = box.document("show", run["run"])["events"]
        done = [event for event in events if event["kind"] == "completed"]
        counted = Counter(
            event["step"] for event in done if event["step"] != "stop_if_idle" or event["data"]["result"]["stopped"]
        )
        for step in ("stop_if_idle", "assign_version", "accept", "stage"):
            assert counted[step] <= 2, (run, counted)


@pytest.mark.parametrize("how", ["deleted", "replaced", "garbage"])
def test_the_file_of_the_queue_goes(make_box: Callable[..., Sandbox], how: str) -> None:
    box = make_box(["ada", "grace"])
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    run = box.document("enqueue", "bump")["run"]
    box.until(
        lambda: any(event["step"] == "run_trials" for event in box.document("show", run)["events"]),
        "the gate has begun",
        MINUTE_SECONDS,
    )
    lose_queue(box, how)
    box.until(lambda: box.has_ended(run), "the bump ends", MINUTE_SECONDS)
    assert box.document("show", run)["outcome"] == "updated"
    assert list(deferrals(box)) == ["grace"]
    lose_queue(box, how)
    box.control("grace", "turn/end", turn=turn)
    drained(box, "grace", NEXT, MINUTE_SECONDS)
    everybody_is_well(box, {"ada": NEXT, "grace": NEXT})
    completed_once(box)
    box.publish(LATER, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated", "the new file serves as the old one did"
    assert (box.settings.paths.state_dir / "queue.db").stat().st_mode & 0o777 == 0o600


def lose_queue(box: Sandbox, how: str) -> None:
    """Return what a person may do to a file that they take for a cache."""
    top = Path(box.settings.queue.url.removeprefix("sqlite://")).parent
    for path in top.glob("queue.db*"):
        if how != "replaced" or path.name == "queue.db":
            path.unlink()
    if how == "replaced":
        (top / "queue.db").touch(mode=0o600)
    elif how == "garbage":
        (top / "queue.db").write_bytes(b"no database " * 1000)


def test_redis_is_emptied_and_its_memory_is_full(make_box: Callable[..., Sandbox], redis_server: RedisServer) -> None:
    box = make_box(["ada", "grace"], queue_url=redis_server.url)
    redis = Redis.from_url(redis_server.url)
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    run = box.document("enqueue", "bump")["run"]
    box.until(
        lambda: any(event["step"] == "run_trials" for event in box.document("show", run)["events"]),
        "the gate has begun",
        MINUTE_SECONDS,
    )
    redis.flushall()
    redis.config_set("maxmemory", 1)
    box.until(lambda: box.has_ended(run), "the bump ends", MINUTE_SECONDS)
    assert box.document("show", run)["outcome"] == "updated"
    box.until(lambda: box.document("status")["consumer"]["waiting_for"] == "the queue", "it is said", MINUTE_SECONDS)
    box.control("grace", "turn/end", turn=turn)
    redis.config_set("maxmemory", 0)
    drained(box, "grace", NEXT, MINUTE_SECONDS)
    everybody_is_well(box, {"ada": NEXT, "grace": NEXT})
    completed_once(box)


def test_redis_goes_while_nothing_is_to_be_sent(make_box: Callable[..., Sandbox], redis_server: RedisServer) -> None:
    """Status says so within seconds, though no run sends anything, and so is who follows a run told; and no more once it is back."""
    box = make_box(["ada"], queue_url=redis_server.url)
    waits = lambda: box.document("status")["consumer"]["waiting_for"]  # noqa: E731
    assert waits() is None
    redis_server.stop()
    box.until(lambda: waits() == "the queue", "it is said", 15)
    assert "is waiting for the queue" in box.t3flow("status").stdout
    said = box.top / "said"
    with said.open("w") as file:
        words = [sys.executable, "-m", "t3flow", "enqueue", "bump", "--wait"]
        follower = subprocess.Popen(words, env=box.environment, stdout=file, stderr=file)
    box.until(lambda: "The consumer is waiting for the queue" in said.read_text(), "who follows a run is told", 20)
    redis_server.start()
    box.until(lambda: waits() is None, "it is over", 20)
    assert follower.wait(60) == 0
    assert "up_to_date" in said.read_text()


def test_another_queue_takes_over(make_box: Callable[..., Sandbox], redis_server: RedisServer) -> None:
    """`queue.url` is changed with a bump in its gate and a deferral pending; the messages of the old queue never meet a worker."""
    box = make_box(["ada", "grace"])
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    box.publish(LATER, {"schema_level": 32, "rules": [{"fault": "slow_start", "seconds": 3, "when": {}}]})
    run = box.document("enqueue", "bump")["run"]
    box.until(
        lambda: any(event["step"] == "run_trials" for event in box.document("show", run)["events"]),
        "the gate has begun",
        MINUTE_SECONDS,
    )
    box.end("consumer")
    text = box.config.read_text()
    box.config.write_text(text.replace(box.settings.queue.url, redis_server.url))
    box.start_consumer()
    box.until(lambda: box.has_ended(run), "the bump ends", 60)
    assert box.document("show", run)["outcome"] == "updated"
    box.control("grace", "turn/end", turn=turn)
    drained(box, "grace", LATER)
    everybody_is_well(box, {"ada": LATER, "grace": LATER})
    assert box.assigned("ada") != FIRST
