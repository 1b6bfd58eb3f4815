"""Two sandboxes with one real Redis: turns, waves, rejections, and slots, as people see them."""

from collections.abc import Callable
from pathlib import Path

from hosts import make_hosts
from scenes import FIRST, NEXT, bump

from t3flow.sandbox.host import Sandbox
from t3flow.state.times import epoch


def fleet(box: Sandbox) -> dict:
    """Return what `fleet status` prints."""
    return box.document("fleet", "status")


def test_a_later_wave_waits_and_follows(make_box: Callable[..., Sandbox], redis_server, tmp_path: Path) -> None:
    """The host of wave 1 waits until wave 0 has verified the version, and then starts at once."""
    first, second = make_hosts(make_box, tmp_path, redis_server.url, {"a": 0, "b": 1}).values()
    for box in (first, second):
        box.publish(NEXT, {"schema_level": 32})
    run = second.t3flow("enqueue", "bump").stdout.split()[-1]
    second.until(lambda: fleet(second)["waiting"], "b waits", 60)
    assert fleet(second)["waiting"]["reason"] == f"the host a of wave 0 has not accepted {NEXT}"
    assert second.assigned("ada") == FIRST
    metrics = second.t3flow("metrics").stdout.splitlines()
    for line in ("t3flow_fleet_up 1.0", "t3flow_fleet_stuck 0.0", 't3flow_fleet_host_silent{host="a"} 0.0'):
        assert line in metrics, line
    assert any(line.startswith("t3flow_fleet_waiting_since_timestamp_seconds ") for line in metrics)
    ended = bump(first)
    assert ended["outcome"] == "updated", ended
    second.until(lambda: second.assigned("ada") == NEXT, "b follows", 30)
    bake = next(run for run in first.document("runs") if run["workflow"] == "bake")
    events = second.document("show", run)["events"]
    stop = next(each for each in events if each["kind"] == "started" and each["step"] == "stop_if_idle")
    assert epoch(stop["at"]) - epoch(bake["updated"]) < 5
    second.until(lambda: fleet(second)["slots"][0]["host"] is None, "the slot is free again", 30)
