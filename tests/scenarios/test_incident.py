"""2026-06-09 again: 0.0.25 renamed the pairing endpoint and migrated each database one way; `GET /` went on to say 200. Nobody is to notice."""

import time
from collections.abc import Callable

import pytest
from scenes import ALL, FIRST, NEXT, bump, deferrals, drained, everybody_is_well, is_busy, results

from t3flow.sandbox.host import Sandbox
from t3flow.sandbox.probes import LOCKED, pairing_browsers, restarts

NEVER = ("no column", "no such", "returned 404", "returned 500", "returned 401", "is being restored")
"""What a schema or an endpoint that do not fit look like, in the dispatch's log."""


def test_the_dispatch_of_that_day_knew_the_old_endpoint_alone(make_box: Callable[..., Sandbox]) -> None:
    """Then the gate says so, and nobody is touched."""
    box = make_box(ALL, consumer=False)
    text = box.config.read_text()
    box.config.write_text(text.replace("[dispatch]\n", '[dispatch]\npair_endpoints = ["/api/auth/bootstrap"]\n'))
    box.start_consumer()
    servers = {user: box.supervise("status", user)["main_pid"] for user in ALL}
    box.publish(NEXT)
    said = bump(box)
    assert said["outcome"] == "gate_failed"
    assert "/api/auth/bootstrap" in said["reason"]
    assert "404" in said["reason"]
    assert "dispatch.pair_endpoints" in said["reason"], "it says where the new one belongs"
    assert {user: box.supervise("status", user)["main_pid"] for user in ALL} == servers
    assert [box.level(user) for user in ALL] == [30, 30, 30]
    everybody_is_well(box, dict.fromkeys(ALL, FIRST))


@pytest.mark.timeout(200)
def test_everybody_can_pair_at_every_moment_of_the_bump(make_box: Callable[..., Sandbox]) -> None:
    """A browser for each user pairs all the time, the deferred user's too; the same for as long without a bump is the control."""
    box = make_box(ALL)
    turn = is_busy(box, "grace")
    box.publish(NEXT)  # as the real one: level 32, the endpoint renamed
    began = time.monotonic()
    with pairing_browsers(box, ALL) as during:
        said = bump(box)
        assert results(said)["grace"] == "deferred", said
        for user in ("ada", "linus"):  # a pairing at the wrong moment is a doubt, and gone a second later
            drained(box, user, NEXT)
        assert list(deferrals(box)) == ["grace"]
        time.sleep(3)
        assert box.level("grace") == 30, "pairing while she waits has not migrated her database"
        box.control("grace", "turn/end", turn=turn)
        drained(box, "grace", NEXT)
        time.sleep(1)
    lasted = time.monotonic() - began
    with pairing_browsers(box, ALL) as control:
        time.sleep(lasted)
    assert control.tried > 30
    assert during.tried > 30
    away = restarts(box)
    assert set(away) == set(ALL)
    assert all(end - start < 15 for spans in away.values() for start, end in spans)
    unexplained = [
        failure
        for failure in during.outside(away)
        if LOCKED not in failure.cause and failure.cause not in control.causes()
    ]
    assert unexplained == []
    wrong = [
        failure
        for failure in during.failures
        if LOCKED not in failure.cause and any(word in failure.cause for word in NEVER)
    ]
    assert wrong == []
    everybody_is_well(box, dict.fromkeys(ALL, NEXT))


def test_the_probe_would_notice(make_box: Callable[..., Sandbox]) -> None:
    """Minting with the new build under an old server, as that day: the probe sees an error of the schema, outside any restart."""
    box = make_box(["ada"], consumer=False)
    box.publish(NEXT)
    with pairing_browsers(box, ["ada"]) as found:
        time.sleep(1)
        assert not [failure for failure in found.failures if LOCKED not in failure.cause]
        box.install_slot(NEXT)
        box.assign("ada", NEXT)
        box.until(lambda: len(found.failures) > 3, "pairing fails")
    assert found.outside(restarts(box))
    assert any(any(word in failure.cause for word in NEVER) for failure in found.failures), found.failures[-1]
