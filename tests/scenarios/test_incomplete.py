"""A release whose part is not in the registry yet: the run sleeps and tries again, the host is free meanwhile, nothing is remembered or frozen."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from origins import host_of, of
from scenes import FIRST, NEXT, bump, everybody_is_well, results
from test_releases import package

from t3flow.engine.errors import NotYet
from t3flow.engine.runs import new_run
from t3flow.host.host import set_current_host
from t3flow.rollout import registry_wait
from t3flow.sandbox.host import Sandbox

PART = "@t3code/t3-part"


def release(box: Sandbox, version: str = NEXT) -> None:
    """Publish a good build in two parts."""
    of(box).publish(version, package(box.top / "made", PART, version, os=["linux"]))
    box.publish(version, {"schema_level": 32}, manifest={"optionalDependencies": {PART: version}})


def asleep(box: Sandbox, run: str) -> bool:
    """Whether a run waits for the registry, and `status` says so."""
    waits = box.document("status")["run_waits"]
    return bool(waits and waits["run"] == run)


@pytest.fixture
def waiting(make_box: Callable[..., Sandbox], queue_url: str, request: pytest.FixtureRequest) -> tuple[Sandbox, str]:
    """Return a sandbox and a bump in it that waits for the tarball of a part."""
    box = make_box(["ada"], queue_url=queue_url, consumer=False)
    box.environment["T3FLOW_SCHEDULE__RETRY_S"] = "600" if "sleeps long" in (request.function.__doc__ or "") else "10"
    box.start_consumer()
    release(box)
    of(box).set_faults(status=404, only="tarball", package=PART)
    run = box.document("enqueue", "bump")["run"]
    box.until(lambda: asleep(box, run), "the run waits for the registry", 60)
    return box, run


def ended(box: Sandbox, run: str) -> dict[str, Any]:
    """Return a run that has ended."""
    box.until(lambda: box.has_ended(run), "the run ends", 90)
    found: dict[str, Any] = box.document("show", run)
    return found


def nothing_is_left(box: Sandbox, run: str) -> None:
    """Neither scratch nor slot nor lock nor a memory of the version."""
    assert [entry.name for entry in (box.top / "opt/t3/versions").iterdir()] == [FIRST]
    assert not (box.top / "scratch" / f"t3flow-{run}").exists()
    status = box.document("status")
    assert (status["rejected"], status["frozen"]) == ({}, None)


def test_the_part_comes_and_the_same_run_goes_on(waiting: tuple[Sandbox, str]) -> None:
    """Meanwhile it has nothing, others have the host, and a consumer that is killed finds it asleep."""
    box, run = waiting
    said = box.document("status")
    assert said["run_waits"]["waiting_for"].startswith(f"t3@{NEXT} is not complete in the registry yet: E404")
    assert "next attempt at" in said["run_waits"]["waiting_for"]
    assert f"{run} is waiting: " in box.t3flow("status").stdout
    nothing_is_left(box, run)
    assert box.document("enqueue", "drain", "--wait")["outcome"] == "up_to_date"
    assert bump(box, "--dry-run")["outcome"] == "incomplete_release", "a dry run does not wait"
    box.kill("consumer")
    of(box).set_faults()
    box.start_consumer()
    found = ended(box, run)
    assert found["outcome"] == "updated", found["reason"]
    everybody_is_well(box, {"ada": NEXT})


def test_the_part_does_not_come(make_box: Callable[..., Sandbox]) -> None:
    """A person's run tries again for a while, then ends; the version is tried as usual when it is whole."""
    box = make_box(["ada"], consumer=False)
    box.environment["T3FLOW_SCHEDULE__RETRY_S"] = "1"
    box.start_consumer()
    release(box)
    of(box).set_faults(status=404, package=PART)
    waited = box.t3flow("enqueue", "bump", "--wait")
    assert waited.returncode == 1
    assert waited.stdout.startswith(f"incomplete_release: t3@{NEXT} is not complete in the registry yet: its part")
    assert "next attempt at" in waited.stderr
    run = box.document("status")["last_bump"]["run"]
    events = box.document("show", run)["events"]
    assert sum(event["step"] == "await_registry" and event["kind"] == "completed" for event in events) >= 2
    assert box.document("show", run)["status"] == "failed"
    nothing_is_left(box, run)
    everybody_is_well(box, {"ada": FIRST})
    of(box).set_faults()
    assert results(bump(box)) == {"ada": "restarted"}


@pytest.mark.parametrize("how", ["freeze", "cancel"])
def test_a_run_that_waits_is_stopped_at_once(waiting: tuple[Sandbox, str], how: str) -> None:
    """It sleeps long, and need not wake for that."""
    box, run = waiting
    began = time.monotonic()
    box.t3flow("freeze") if how == "freeze" else box.t3flow("cancel", run)
    found = ended(box, run)
    assert time.monotonic() - began < 20
    assert (found["outcome"], found["status"]) == ({"freeze": "frozen", "cancel": "cancelled"}[how], "cancelled")
    box.t3flow("unfreeze")
    nothing_is_left(box, run)


def test_the_registry_is_away_for_a_while(make_box: Callable[..., Sandbox]) -> None:
    """The same treatment: the run that met it goes on by itself."""
    box = make_box(["ada"], consumer=False)
    box.environment |= {"T3FLOW_SCHEDULE__RETRY_S": "6", "T3FLOW_NPM__RETRY_FOR_S": "1"}
    box.start_consumer()
    release(box)
    of(box).set_faults(down=True)
    run = box.document("enqueue", "bump")["run"]
    box.until(lambda: asleep(box, run), "the run waits for the registry", 60)
    assert "the registry does not answer" in box.document("status")["run_waits"]["waiting_for"]
    of(box).set_faults()
    assert ended(box, run)["outcome"] == "updated"


def test_a_scheduled_run_tries_again_until_the_latest_hour(make_box: Callable[..., Sandbox]) -> None:
    """The waits double up to four times the first; a person's run has twelve times that."""
    box = make_box(["ada"], start=False)
    with host_of(box, schedule__retry_s="300", schedule__latest="07:00", schedule__timezone="UTC") as host:
        set_current_host(host)
        now = time.time()
        again = registry_wait.plan_retry.unjournaled("no part", 0, 0, now)
        assert 299 < again["at"] - now < 301
        assert again["until"] > now
        waits = [
            registry_wait.plan_retry.unjournaled("no part", tries, now + 9e9, now)["at"] - time.time()
            for tries in range(5)
        ]
        assert [round(wait / 300) for wait in waits] == [1, 2, 4, 4, 4]
        assert registry_wait.plan_retry.unjournaled("no part", 1, now + 500, now)["at"] == 0
        assert round(registry_wait.plan_retry.unjournaled("no part", 0, 0, None)["until"] - now, -1) == 3600
        with pytest.raises(NotYet):
            registry_wait.await_registry.unjournaled(now + 100, "no part")
        registry_wait.await_registry.unjournaled(now - 1, "no part")
        registry_wait.await_registry.unjournaled(now + 99999, "the clock was set back")
    with host_of(box, schedule__retry_s="0") as host:
        set_current_host(host)
        assert registry_wait.plan_retry.unjournaled("no part", 0, 0, None)["at"] == 0


def test_a_scheduled_run_that_is_late(make_box: Callable[..., Sandbox]) -> None:
    """Its latest hour comes before the part: it ends incomplete, and says so in one line."""
    box = make_box(["ada"], consumer=False)
    latest = time.strftime("%H:%M", time.gmtime(time.time() + 60))
    box.environment |= {
        "T3FLOW_SCHEDULE__RETRY_S": "300",
        "T3FLOW_SCHEDULE__LATEST": latest,
        "T3FLOW_SCHEDULE__TIMEZONE": "UTC",
    }
    release(box)
    of(box).unpublish(NEXT, PART)
    run = new_run(box.journal, "bump", {"due": time.time()}, run_id="bump-20260609T0400-scheduled")
    box.start_consumer()
    found = ended(box, str(run))
    assert (found["outcome"], found["status"]) == ("incomplete_release", "failed")
    nothing_is_left(box, str(run))


def test_a_slot_folder_that_cannot_be_written(make_box: Callable[..., Sandbox]) -> None:
    """One line that names it, also in a dry run, before anything is fetched."""
    box = make_box(["ada"])
    release(box)
    of(box).set_faults(hang=True, only="tarball")
    slots = box.top / "opt/t3/versions"
    slots.chmod(0o555)
    for words in (("--dry-run",), ()):
        said = bump(box, *words)
        assert said["outcome"] == "error", said
        assert f"{slots} cannot be written" in said["reason"]
    slots.chmod(0o755)
    assert [entry.name for entry in slots.iterdir()] == [FIRST]
