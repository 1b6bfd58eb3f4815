"""How a bump waits for its turn, and what else goes on meanwhile: one sandbox, another host by its key, and one real Redis."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import RedisServer
from hosts import BAKE, edit, make_keys, settings_of
from records_of import record
from redis import Redis
from scenes import FIRST, NEXT, bump, deferrals, is_busy, results

from t3flow.fleet import signatures
from t3flow.fleet.records import CLAIM, FREED, RECORD, Claim
from t3flow.host import slots
from t3flow.sandbox.host import Sandbox

USERS = ["ada", "grace"]
SLOT = "t3flow:default:slot:0"


class Other:
    """The host b, which is only a key: what it publishes."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self._keys = signatures.read_keys("default", "b", folder / "b.key", folder / "peers")
        self.redis = Redis.from_url(server.url)
        self._seq = 0
        self.publish()

    def publish(self, **more: object) -> None:
        """Publish a record."""
        self._seq += 1
        found = record("b", seq=self._seq, at=self.redis.time()[0], **more)
        data = self._keys.sign(RECORD, found.body())
        self.redis.set("t3flow:default:host:b", data)
        self.redis.publish("t3flow:default:changes", data)

    def hold(self) -> None:
        """Take the slot."""
        now = float(self.redis.time()[0])
        self.redis.set(SLOT, self._keys.sign(CLAIM, Claim("b", "bump-b", NEXT, now).body()))

    def free(self) -> None:
        """Free the slot."""
        self.redis.delete(SLOT)
        self.redis.publish("t3flow:default:changes", FREED)


@pytest.fixture
def other(tmp_path: Path, redis_server: RedisServer) -> Other:
    """Return the other host, which holds the slot."""
    make_keys(tmp_path, "a", "b")
    found = Other(tmp_path, redis_server)
    found.hold()
    return found


@pytest.fixture
def box(make_box: Callable[..., Sandbox], redis_server: RedisServer, tmp_path: Path, other: Other) -> Sandbox:
    """Return a host of the fleet whose runs wait for half a minute."""
    box = make_box(USERS, extra=settings_of("a", tmp_path, redis_server.url) + BAKE, consumer=False)
    edit(box, "retry_s = 0", "retry_s = 3")
    box.start_consumer()
    box.publish(NEXT, {"schema_level": 32})
    return box


def begin(box: Sandbox) -> str:
    """Begin a bump, and wait until it waits for the turn. Return its run."""
    run = box.t3flow("enqueue", "bump").stdout.split()[-1]
    seen: list[dict[str, str]] = []

    def waits() -> bool:
        if waiting := box.document("status")["run_waits"]:
            seen.append(waiting)
        return bool(seen)

    box.until(waits, "the bump waits", 90)
    assert seen[0]["waiting_for"] == "the slot is held by b: t3flow fleet status"
    return run


def outcome(box: Sandbox, run: str) -> str:
    """Wait until a run ends, and return its outcome."""
    box.until(lambda: box.has_ended(run), f"{run} ends", 90)
    return str(box.document("show", run)["outcome"])


def starts(box: Sandbox, run: str, step: str) -> int:
    """Return how often a run began a step."""
    events = box.document("show", run)["events"]
    return sum(each["kind"] == "started" and each["step"] == step for each in events)


def test_a_run_that_waits_holds_nothing_and_goes_on_at_once(box: Sandbox, other: Other) -> None:
    """Killed while it waits, and other runs go on. Staging and gate are not repeated. It starts within seconds after the slot is free."""
    run = begin(box)
    assert box.t3flow("enqueue", "drain", "--wait").returncode == 0, "the host is not held"
    assert box.t3flow("verify").returncode == 0
    box.kill("consumer")
    box.start_consumer()
    other.free()
    assert outcome(box, run) == "updated"
    assert (starts(box, run, "stage"), starts(box, run, "choose_seeds")) == (1, 1)
    assert {box.assigned(user) for user in USERS} == {NEXT}
    box.until(lambda: other.redis.get(SLOT) is None, "the slot is given back after the bake", 30)
    assert box.document("fleet", "status")["hosts"][0]["verified"] == [NEXT]
    assert box.t3flow("fleet", "status").returncode == 0


@pytest.mark.parametrize("how", ["cancel", "freeze", "reject", "time"])
def test_a_run_whose_turn_does_not_come(box: Sandbox, other: Other, how: str) -> None:
    """It ends with one line, no user was touched, and what it staged is gone."""
    run = begin(box)
    if how == "cancel":
        assert box.t3flow("cancel", run).returncode == 0
    elif how == "freeze":
        assert box.t3flow("freeze", "--reason", "demo").returncode == 0
    elif how == "reject":
        other.publish(rejected={NEXT: "grace cannot pair"})
    expected = {"cancel": "cancelled", "freeze": "frozen", "reject": "refused_rejected", "time": "fleet_wait"}[how]
    assert outcome(box, run) == expected
    shown = box.document("show", run)
    assert starts(box, run, "stop_if_idle") == 0
    assert not slots.has_slot(box.settings.paths.versions_dir, NEXT)
    status = box.document("status")
    if how == "reject":
        assert shown["reason"] == (
            f"{NEXT} was rejected by the host b: grace cannot pair; "
            f"to try it here anyway: t3flow enqueue bump --target {NEXT} --again"
        )
        assert status["rejected"] == {NEXT: "rejected by the host b: grace cannot pair"}
        assert bump(box)["outcome"] == "refused_rejected"
    if how == "time":
        assert shown["reason"] == f"{NEXT} was not started: the slot is held by b: t3flow fleet status"
        assert any(each["key"] == "last_bump" for each in status["problems"])
    assert other.redis.get(SLOT) is not None, "the other host's slot stays"


def test_an_operator_frees_the_slot_of_a_host_that_is_gone(box: Sandbox, other: Other) -> None:
    """It is recorded with the account; the run that waits goes on."""
    run = begin(box)
    shown = box.t3flow("fleet", "status").stdout
    assert f"Slot 0: held by b for {NEXT}" in shown
    freed = box.t3flow("fleet", "release", "b")
    assert freed.stdout.strip() == "Freed slot 0 of b; the next host may take its turn"
    assert outcome(box, run) == "updated"
    again = box.t3flow("fleet", "release", "b")
    assert again.stdout.strip() == "b holds no slot"
    found = [each for each in box.document("actions") if each["action"] == "fleet release"]
    assert [each["arguments"] for each in found] == [{"host": "b"}] * 2
    assert all(each["by"] for each in found)
    for wrong in ((), ("b", "--slot", "0"), ("--slot", "7"), ("../b",)):
        assert box.t3flow("fleet", "release", *wrong).returncode in (1, 2)


def test_a_drain_takes_the_turn_for_a_version_that_no_user_has_yet(box: Sandbox, other: Other) -> None:
    """All users are busy, so that the bump restarts none and frees the slot; the drain of the first one waits for the other host then."""
    turns = {user: is_busy(box, user) for user in USERS}
    other.free()
    ended = bump(box)
    assert results(ended) == dict.fromkeys(USERS, "deferred")
    box.until(lambda: other.redis.get(SLOT) is None, "no user was restarted: the slot is free", 30)
    other.hold()
    box.control("ada", "turn/end", turn=turns["ada"])
    detail = "the fleet: the slot is held by b: t3flow fleet status"
    box.until(lambda: deferrals(box)["ada"]["detail"] == detail, "the drain waits for the turn", 60)
    assert deferrals(box)["ada"]["waiting_for"] == "host_busy"
    assert box.assigned("ada") == FIRST
    other.free()
    box.until(lambda: box.assigned("ada") == NEXT, "ada is moved", 60)
    box.until(lambda: other.redis.get(SLOT) is None, "the bake ended well", 60)
    other.hold()
    other.publish(rejected={NEXT: "linus cannot pair"})
    box.control("grace", "turn/end", turn=turns["grace"])
    box.until(lambda: "was rejected" in deferrals(box)["grace"]["detail"], "what another host rejected waits", 60)
    assert box.assigned("grace") == FIRST
    other.publish()
    box.until(lambda: box.assigned("grace") == NEXT, "an accepted version needs no turn", 60)


def test_without_redis_nothing_new_is_started_and_all_else_goes_on(
    box: Sandbox, other: Other, redis_server: RedisServer
) -> None:
    """Status says so within seconds, without a password. The slot of a host that lost Redis in between is given back later."""
    other.free()
    turn = is_busy(box, "ada")
    redis_server.stop()
    box.until(lambda: box.document("status")["fleet"]["problem"], "status says it", 15)
    [problem] = [each for each in box.document("status")["problems"] if each["key"] == "fleet_unreachable"]
    assert problem["text"].startswith("The fleet does not answer, first ")
    ended = bump(box, timeout_seconds=180)
    assert ended["outcome"] == "fleet_wait"
    assert box.t3flow("fleet", "status").returncode == 1
    assert {box.assigned(user) for user in USERS} == {FIRST}
    assert any(each["check"] == "fleet" for each in box.document("doctor"))
    box.control("ada", "turn/end", turn=turn)
    redis_server.start()
    box.until(lambda: not box.document("status")["fleet"]["problem"], "it answers again", 60)
    began = time.time()
    assert bump(box)["outcome"] == "updated", began
