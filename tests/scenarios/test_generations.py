"""A bump across the generations of t3: from one Node process to a launcher with a native server, and on to another live database."""

from collections.abc import Callable

import pytest
from scenes import LATER, NEXT, bump, results

from t3flow.host.host import open_host
from t3flow.host.pairing import probe, verification
from t3flow.host.processes import proc
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import open_journal

NATIVE = {"generation": "C", "boot_window_ms": 0, "stop_ms": 20}


def test_from_node_to_native_to_another_database(make_box: Callable[..., Sandbox]) -> None:
    """An idle user is moved each time, and pairs by the cookie that the server of the moment names."""
    box = make_box(["ada"], quiet_seconds=0)
    for version, generation in ((NEXT, "C"), (LATER, "D")):
        box.publish(version, {**NATIVE, "generation": generation})
        document = bump(box, "--target", version)
        assert results(document) == {"ada": "restarted"}, document
        host = open_host(box.settings, open_journal(box.settings))
        pid = probe.own_server(host, "ada")
        assert pid != host.services.state("ada").main_pid
        assert probe.cookie_name(host, "ada").startswith("t3_session_")
        verification.verify(host, "ada", version, 10)


@pytest.mark.parametrize("fault", ["exits", "session_not_authenticated"])
def test_a_native_build_that_fails_in_place_is_undone(make_box: Callable[..., Sandbox], fault: str) -> None:
    """Launcher, server and monitor of the failed one are gone, and the former one pairs."""
    box = make_box(["ada"], quiet_seconds=0, behavior=NATIVE, databases={})
    rule = {"fault": fault, "when": {"not_scratch": True}}
    box.publish(NEXT, {**NATIVE, "rules": [rule]})
    document = bump(box, "--target", NEXT)
    assert results(document) == {"ada": "rolled_back"}, document
    host = open_host(box.settings, open_journal(box.settings))
    verification.verify(host, "ada", "0.0.24", 10)
    assert not any(NEXT in word for pid in host.services.pids("ada") for word in proc.command_line(pid))


def test_a_server_may_take_as_long_to_start_as_the_gate_gave_it(make_box: Callable[..., Sandbox]) -> None:
    """Longer than a pairing may take: that is counted from the first answer on."""
    box = make_box(["ada"], quiet_seconds=0)
    assert box.settings.dispatch.verify_timeout_s < 8 < box.settings.gate.start_timeout_s
    box.publish(NEXT, {**NATIVE, "rules": [{"fault": "slow_start", "seconds": 8, "when": {"not_scratch": True}}]})
    document = bump(box, "--target", NEXT)
    assert results(document) == {"ada": "restarted"}, document
    assert document["users"]["ada"]["downtime_s"] > 8
