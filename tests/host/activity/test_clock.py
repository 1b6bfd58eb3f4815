"""Ages of rows after the clock was set. Pure functions of time; the server started at 0 on the old scale."""

import pytest

from t3flow.host.activity.clock import ServerClock

QUIET = 900.0
HOUR = 3600.0


def after(age: float, step: float) -> ServerClock:
    """Return the clocks of a server of that age whose clock was set forward by `step`."""
    return ServerClock(now=age + step, age=age, recorded=0.0)


@pytest.mark.parametrize("step", [0.0, 3.0, 2 * HOUR, -2 * HOUR, 8766 * HOUR, -8766 * HOUR])
@pytest.mark.parametrize("age", [60.0, HOUR, 30 * HOUR])
def test_a_live_turn_is_never_dead_while_an_agent_runs(age: float, step: float) -> None:
    """At any time after the start, before or after the step."""
    clock = after(age, step)
    for since_start in (0.0, 1.0, age / 2, age):
        for moment in (since_start, since_start + step):
            assert not clock.is_dead(moment, QUIET, has_agents=True), (since_start, moment)


@pytest.mark.parametrize("step", [0.0, 2 * HOUR, -2 * HOUR, 8766 * HOUR, -8766 * HOUR])
def test_a_turn_of_a_server_before_is_dead_in_the_end(step: float) -> None:
    """At once if nothing is ambiguous, else after the quiet period."""
    for before in (10.0, HOUR, 3 * HOUR, 1000 * HOUR):
        dead_at = [
            age
            for age in (0.0, HOUR, 10 * HOUR, 2000 * HOUR)
            if after(age, step).is_dead(-before, QUIET, has_agents=False)
        ]
        assert 2000 * HOUR in dead_at, before
        if step >= 0:
            assert 0.0 in dead_at, before


def test_after_a_step_back_only_a_row_that_may_be_young_is_doubted() -> None:
    """The clock went back by two hours an hour after the start: a row from half an hour before the start could be a later one on the new scale."""
    clock = after(HOUR, -2 * HOUR)
    assert (clock.started, clock.step) == (-2 * HOUR, -2 * HOUR)
    assert clock.is_dead(-HOUR / 2, QUIET, has_agents=True), "ahead of the present clock: of the old scale alone"
    assert not clock.is_dead(-HOUR - 60, QUIET, has_agents=False), "perhaps a turn that began a minute ago"
    assert clock.is_dead(-HOUR - 2 * QUIET, QUIET, has_agents=False), "a turn without an agent for so long is none"
    assert not clock.is_dead(-HOUR - 2 * QUIET, QUIET, has_agents=True)
    assert clock.is_dead(-2 * HOUR - 60, QUIET, has_agents=True), "older than the start on either scale"


def test_a_row_ahead_of_every_clock_is_doubted_for_the_quiet_period() -> None:
    """The clock was set more than once, so the time of writing is unknown."""
    ahead = 8766 * HOUR
    assert not after(QUIET / 2, 0).is_dead(ahead, QUIET, has_agents=False)
    assert after(2 * QUIET, 0).is_dead(ahead, QUIET, has_agents=False)
    assert not after(2 * QUIET, 0).is_dead(ahead, QUIET, has_agents=True)


@pytest.mark.parametrize(
    ("age", "step", "moments", "youngest"),
    [
        (HOUR, 0.0, [100.0], 100.0),
        (HOUR, 0.0, [], None),
        (HOUR, 2 * HOUR, [HOUR - 60], 3 * HOUR - 60),
        (HOUR, 2 * HOUR, [3 * HOUR - 60], 3 * HOUR - 60),
        (HOUR, -2 * HOUR, [HOUR - 60], -HOUR - 60),
        (HOUR, -2 * HOUR, [-HOUR - 60], -HOUR - 60),
        (HOUR, 0.0, [8766 * HOUR], 0.0),
        (HOUR, 0.0, [8766 * HOUR, 600.0], 600.0),
    ],
    ids=["plain", "none", "old, forward", "new, forward", "old, back", "new, back", "ahead", "ahead and plain"],
)
def test_the_newest_change_is_as_young_as_it_may_be(
    age: float, step: float, moments: list[float], youngest: float | None
) -> None:
    """The quiet period never ends early."""
    assert after(age, step).youngest(moments) == youngest
