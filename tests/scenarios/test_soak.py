"""The soak: after the first restart of a bump, real pairings are watched before the next one."""

import time
from collections.abc import Callable
from typing import Any

from scenes import FIRST, LATER, NEXT, bump, content, deferrals, everybody_is_well, results, write
from test_bake import browse, frozen, logged

from t3flow.sandbox.host import Sandbox

BROKEN = {"fault": "pairing_500", "when": {"not_scratch": True, "sql": "select 1 from broken"}}


def soaking(
    make_box: Callable[..., Sandbox], users: list[str], seconds: float, *rules: Any, **more: Any
) -> tuple[Sandbox, str]:
    """Return a host on which a bump soaks, and its run. The first user of the map is the first who is restarted."""
    extra = f'[canary]\norder = "map_order"\nsoak_minutes = {seconds / 60}\n[bake]\nmax_failures = 3\n'
    box = make_box(users, extra=extra, **more)
    box.publish(NEXT, {"schema_level": 32, "rules": list(rules)})
    run: str = box.document("enqueue", "bump")["run"]
    begins(box, run)
    return box, run


def begins(box: Sandbox, run: str) -> None:
    box.until(lambda: steps(box, run, "watch_soak"), "the bump soaks", 90)


def steps(box: Sandbox, run: str, step: str) -> list[float]:
    return [event.at for event in box.journal.events(run) if event.step == step]


def ended(box: Sandbox, run: str, seconds: float = 60) -> dict[str, Any]:
    box.until(lambda: box.journal.run(run).status != "running", "the bump has ended", seconds)
    ended = box.journal.run(run)
    return {"outcome": ended.outcome, **ended.result}


def test_the_next_restart_waits_for_the_soak_over_a_kill(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    box, run = soaking(make_box, ["ada", "grace", "linus"], 9, queue_url=queue_url)
    assert (box.assigned("ada"), box.assigned("grace")) == (NEXT, FIRST)
    began = steps(box, run, "begin_soak")[-1]
    assert browse(box, "ada") == 302
    box.until(lambda: "before the next restart" in (box.document("status")["run_doing"] or ""), "status says so", 8)
    box.kill("consumer")
    box.start_consumer()
    found = ended(box, run, 90)
    assert results(found) == {"ada": "restarted", "grace": "restarted", "linus": "restarted"}
    stops = steps(box, run, "stop_if_idle")
    assert max(at for at in stops if at < began + 5) < began
    assert min(at for at in stops if at > began) >= began + 9
    assert len(set(steps(box, run, "begin_soak"))) == 2, "one soak: its start and its end"
    assert found["notices"] == []
    everybody_is_well(box, {"ada": NEXT, "grace": NEXT, "linus": NEXT})


def test_a_fault_in_the_soak_is_the_versions(make_box: Callable[..., Sandbox]) -> None:
    """Ada's browsers get 500 although she was verified: she goes back with what she wrote kept, nobody else was touched, and it is frozen."""
    box, run = soaking(make_box, ["ada", "grace"], 120, BROKEN)
    time.sleep(10)  # what the restart may have caused is no fault of the version
    write(box.database("ada"), "create table broken as select 'precious' as word")
    deadline = time.monotonic() + 60
    while box.journal.run(run).status == "running" and time.monotonic() < deadline:
        browse(box, "ada")
        time.sleep(0.3)
    found = ended(box, run, 60)
    assert (found["outcome"], results(found)) == ("rolled_back", {"ada": "rolled_back", "grace": "untouched"}), found
    assert "in the soak after the first restart" in frozen(box)
    assert NEXT in box.document("status")["rejected"]
    assert [browse(box, user) for user in box.users] == [302, 302]
    everybody_is_well(box, {"ada": FIRST, "grace": FIRST})
    [kept] = box.database("ada").parent.glob("replaced-*/state.sqlite")
    assert any("precious" in line for line in content(kept))


def test_an_unreadable_log_is_said_and_the_user_is_paired_at_the_end(make_box: Callable[..., Sandbox]) -> None:
    """Nothing is seen of real pairings: t3flow pairs the user itself, and blames the version if that fails while others pair."""
    extra = f'[canary]\norder = "map_order"\nsoak_minutes = {8 / 60}\n'
    box = make_box(["ada", "grace"], consumer=False, extra=extra)
    box.config.write_text(box.config.read_text().replace("log/dispatch.log", "log/nothing.log"))
    box.start_consumer()
    box.publish(NEXT, {"schema_level": 32, "rules": [BROKEN]})
    run = box.document("enqueue", "bump")["run"]
    begins(box, run)
    write(box.database("ada"), "create table broken as select 'precious' as word")
    found = ended(box, run, 90)
    assert results(found) == {"ada": "rolled_back", "grace": "untouched"}, found
    assert found["notices"][0].startswith("the soak saw no pairings: ")
    assert NEXT in box.document("status")["rejected"]
    everybody_is_well(box, {"ada": FIRST, "grace": FIRST})


def test_a_dispatch_that_breaks_in_the_soak_blames_no_version(make_box: Callable[..., Sandbox]) -> None:
    """No user pairs at the end: nobody else is restarted, nothing is frozen or rejected, and the others are deferred."""
    box, run = soaking(make_box, ["ada", "grace"], 8)
    box.kill("dispatch")
    (box.top / "log/dispatch.log").unlink()
    found = ended(box, run, 90)
    assert results(found) == {"ada": "restarted", "grace": "deferred"}, found
    assert "the dispatch is at fault" in found["users"]["grace"]["reason"]
    status = box.document("status")
    assert (status["frozen"], status["rejected"], box.assigned("grace")) == (None, {}, FIRST)
    box.start_dispatch()


def test_a_rollback_goes_first(make_box: Callable[..., Sandbox]) -> None:
    """The bump keeps the host while it soaks; a rollback, a freeze by hand and a cancel end that within seconds, and nothing of ada's is lost."""
    box, run = soaking(make_box, ["ada", "grace"], 600)
    began = time.monotonic()
    back = box.document("enqueue", "rollback", "--user", "ada", "--wait")
    assert results(back) == {"ada": "rolled_back"}
    assert time.monotonic() - began < 30
    found = ended(box, run, 5)
    assert (found["outcome"], results(found)) == ("frozen", {"ada": "restarted", "grace": "deferred"})
    box.t3flow("unfreeze")
    for number, way in enumerate(("touch", "cancel")):
        version = LATER.replace("502", f"{502 + number}")
        box.publish(version, {"schema_level": 32})
        run = box.document("enqueue", "bump")["run"]
        begins(box, run)
        began = time.monotonic()
        if way == "touch":
            (box.top / "etc/t3-autoupdate.freeze").touch()
        else:
            assert box.t3flow("cancel", run).returncode == 0
        found = ended(box, run, 10)
        assert found["outcome"] == {"touch": "frozen", "cancel": "cancelled"}[way]
        assert results(found) == {"ada": "restarted", "grace": "deferred"}
        assert time.monotonic() - began < 10
        (box.top / "etc/t3-autoupdate.freeze").unlink(missing_ok=True)
    assert deferrals(box)["grace"]["target"] == version


def test_no_soak_by_default_or_for_the_last_user(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"], extra="[canary]\nsoak_minutes = 60\n")
    box.publish(NEXT, {"schema_level": 32})
    assert results(bump(box)) == {"ada": "restarted"}
    assert logged(box, "paired user=ada") > 0
