"""A version that starts slowly, as with a long migration: what the gate let through is given the time in place that the gate measured, and a margin."""

from collections.abc import Callable

from scenes import NEXT, bump, everybody_is_well, results

from t3flow.sandbox.host import Sandbox

SETTINGS = {"T3FLOW_DISPATCH__VERIFY_TIMEOUT_S": "2", "T3FLOW_GATE__START_TIMEOUT_S": "5"}
IN_GATE_SECONDS, IN_PLACE_SECONDS = 3, 7.5
"""In place longer than either setting, as on a host under load."""


def test_what_takes_long_in_the_gate_may_take_longer_in_place(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"], consumer=False)
    box.environment.update(SETTINGS)
    box.start_consumer()
    slow_in_place = {"fault": "slow_start", "seconds": IN_PLACE_SECONDS, "when": {"not_scratch": True}}
    slow_in_gate = {"fault": "slow_start", "seconds": IN_GATE_SECONDS, "when": {}}
    box.publish(NEXT, {"schema_level": 32, "rules": [slow_in_place, slow_in_gate]})
    said = bump(box)
    assert (said["outcome"], results(said)) == ("updated", {"ada": "restarted"}), said
    assert said["users"]["ada"]["downtime_s"] > IN_PLACE_SECONDS
    status = box.document("status")
    assert (status["frozen"], status["rejected"]) == (None, {})
    everybody_is_well(box, {"ada": NEXT})
