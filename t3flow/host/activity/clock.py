"""Ages of database rows when the wall clock was set while the server ran. Pure functions of time.

t3 stores wall-clock times. If the clock is set (stepped) after the server started, rows from before the step are on the old time scale and later rows
on the new one; no row says which. The size of the step is known: the manager recorded the server's start on the old scale (`recorded`), and the
present time minus the server's monotonic age is the same moment on the new scale (`started`).

- A row written after the start is not older than `started` on the new scale, or not older than `recorded` on the old one. A row older than both is
  therefore from before the start: the work that it shows ended with the previous server. Any other row may be from after the start.
- After a step forward, nothing is ambiguous. After a step back, a row between `started` and `recorded` and not in the future is either old and dead,
  or new and alive. A row in the future that the step does not explain shows that the clock was set more than once. Such rows count as alive at
  first, and as long as an agent runs that may be working on them. They count as dead once no agent runs and the quiet period has passed without a
  change: since the row's time, or for a row in the future, since the server's start.
- The newest change is taken as the latest moment that either scale allows, so the quiet period ends at most one step too late.
"""

from dataclasses import dataclass

SLACK_SECONDS = 5.0
"""Times are written a moment after the event, and clocks are slewed."""


@dataclass(frozen=True)
class ServerClock:
    """The clocks of a server: `now` and `recorded` in epoch seconds, `age` in seconds of the monotonic clock."""

    now: float
    age: float
    recorded: float

    @property
    def started(self) -> float:
        """Return the server's start on the new scale."""
        return self.now - self.age

    @property
    def step(self) -> float:
        """Return how far the clock was set since the server's start: positive for forward, 0 for what slewing explains."""
        step = self.started - self.recorded
        return step if abs(step) > SLACK_SECONDS else 0.0

    def is_before_start(self, moment: float) -> bool:
        """Return whether a row of that time is from before the server's start on either scale."""
        return moment < min(self.started, self.started - self.step) - SLACK_SECONDS

    def is_ambiguous(self, moment: float) -> bool:
        """Return whether a row of that time may be from before or after the server's start."""
        if self.is_before_start(moment):
            return False
        is_between = self.step < 0 and moment < self.started - self.step - SLACK_SECONDS
        return is_between or self.is_ahead(moment)

    def is_dead(self, moment: float, quiet_seconds: float, *, has_agents: bool) -> bool:
        """Return whether work of that time does not belong to the running server. In doubt it does; a doubt that only the clock raises expires."""
        if self.is_before_start(moment):
            return True
        if not self.is_ambiguous(moment):
            return False
        if self.is_ahead(moment):
            return not has_agents and self.age > quiet_seconds + SLACK_SECONDS
        if moment > self.now + SLACK_SECONDS:
            return True  # not on the new scale, so from before the start
        return not has_agents and self.now - moment > quiet_seconds + SLACK_SECONDS

    def is_ahead(self, moment: float) -> bool:
        """Return whether a time is in the future on both scales: left by another step or by a previous server."""
        return min(moment, moment + self.step) > self.now + SLACK_SECONDS

    def youngest(self, moments: list[float]) -> float | None:
        """Return the latest moment on the new scale that one of these times may stand for, or None without times.

        A time in the future on both scales stands for the server's start, the latest moment of a change before it.
        """
        plausible = [self.started for moment in moments if self.is_ahead(moment)]
        for moment in moments:
            plausible += [each for each in {moment, moment + self.step} if each <= self.now + SLACK_SECONDS]
        return max(plausible, default=None)
