"""The present t3flow takes over hosts as earlier ones left them when they were killed: record.py recorded these states with the real earlier programs."""

import fcntl
import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import RedisServer
from redis import Redis
from states import BAD, FIRST, KEY, LATER, NEXT, STATES, USERS, Replayed, load_redis

from t3flow.engine.queue import queue_name
from t3flow.sandbox.host import Sandbox

END_SECONDS = 120.0
IN_FLIGHT = sorted(path.name.removesuffix(".tar.xz") for path in STATES.glob("*.tar.xz") if "frozen" not in path.name)
UNDONE = {"2b7057b-redis"}
"""States whose bump has other steps now: it is undone, and the next one does its work."""


@pytest.fixture
def replay(redis_server: RedisServer) -> Iterator[Callable[[str, str], Replayed]]:
    """Return a function that restores a state with a queue of this kind."""
    with ExitStack() as stack:

        def make(name: str, queue: str) -> Replayed:
            url = redis_server.url if queue == "redis" else ""
            lock = stack.enter_context(Path(f"/tmp/t3u-{name}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)  # a state has one path, and workers may replay it at the same time
            box = Replayed(name, url)
            stack.callback(box.close)
            if not name.endswith("redis") and url:
                text = box.config.read_text()
                box.config.write_text(text.replace(f"sqlite://{box.top}/state/queue.db", url))
            elif name.endswith("redis") and not url:
                text = box.config.read_text()
                box.config.write_text(text.replace(box.settings.queue.url, f"sqlite://{box.top}/state/queue.db"))
            if "redis" in box.recorded and url:
                former = box.recorded["queue"]
                load_redis(Redis.from_url(url), box.recorded["redis"], former, queue_name(KEY))
            box.restore()
            return box

        yield make


def shown_before(box: Sandbox) -> dict[str, Any]:
    """Return what the present commands read from the state before the consumer starts."""
    status: dict[str, Any] = box.document("status")
    assert list(status["rejected"]) == [BAD]
    assert (status["default_version"], status["last_good"]) == (NEXT, NEXT)
    assert [each["user"] for each in box.document("deferrals")] == ["grace"]
    assert {user: each["assigned_version"] for user, each in status["users"].items()} == {
        "ada": NEXT,
        "grace": FIRST,
        "linus": NEXT,
    }
    assert len(box.document("runs")) >= 3
    assert {each["user"] for each in box.document("backups")} == set(USERS)
    return status


def moved(box: Sandbox, versions: dict[str, str]) -> None:
    """Wait until these users run these versions and can pair."""

    def holds() -> bool:
        users = box.document("status")["users"]
        return all(users[user]["running_version"] == version for user, version in versions.items())

    box.until(holds, f"they run {versions}", END_SECONDS)
    for user in versions:
        box.await_pairing(user)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("queue", ["sqlite", "redis"])
@pytest.mark.parametrize("name", IN_FLIGHT)
def test_a_run_in_flight_goes_on(replay: Callable[[str, str], Replayed], name: str, queue: str) -> None:
    """Killed in a bump's gate with a deferral pending: the bump ends, the deferral is carried out, and holds and rejected versions stay."""
    box = replay(name, queue)
    shown_before(box)
    run = box.recorded["run"]
    assert box.document("show", run)["status"] == "running"
    box.start_consumer()
    box.until(lambda: box.has_ended(run), "the bump ends", END_SECONDS)
    shown = box.document("show", run)
    reason = shown["events"][-1]["data"]["reason"]
    assert (shown["outcome"], name) == ("error" if name in UNDONE else "updated", name), reason
    if name in UNDONE:
        assert "its changes were undone" in reason
        again = box.document("enqueue", "bump", "--wait", timeout_seconds=END_SECONDS)
        assert again["outcome"] == "updated"
    is_held = box.recorded["is_held"]
    moved(box, {"ada": LATER, "grace": LATER, "linus": NEXT if is_held else LATER})
    box.until(lambda: {each["user"] for each in box.document("deferrals")} <= {"linus"}, "grace's deferral is done", 30)
    status = box.document("status")
    assert (status["users"]["linus"]["held"] is not None) == is_held
    assert list(status["rejected"]) == [BAD]
    assert "Traceback" not in (box.top / "log/consumer.log").read_text()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("queue", ["sqlite", "redis"])
@pytest.mark.parametrize("name", sorted(path.name.removesuffix(".tar.xz") for path in STATES.glob("*-frozen.tar.xz")))
def test_a_frozen_host_stays_frozen(replay: Callable[[str, str], Replayed], name: str, queue: str) -> None:
    """The freeze, its reason, and the deferral stay; after unfreeze the deferred user is moved."""
    box = replay(name, queue)
    assert shown_before(box)["frozen"]["reason"] == "a holiday"
    box.start_consumer()
    box.until(lambda: box.document("deferrals")[0]["waiting_for"] == "frozen", "it waits for the freeze", 30)
    assert box.document("enqueue", "bump", "--wait")["outcome"] == "frozen"
    assert box.t3flow("unfreeze").returncode == 0
    moved(box, {"ada": NEXT, "grace": NEXT, "linus": NEXT})
    gc.collect()
