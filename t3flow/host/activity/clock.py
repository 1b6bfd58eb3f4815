"""What a time in a database means when the clock was set while the server ran. Functions of time alone.

t3 writes the wall clock of the moment. A step of the clock since the server's start leaves two scales: rows from before the step carry the old
one, rows from after it today's. Which scale a row is on is not written anywhere. What is known exactly is the size of the step: the manager
noted the server's start on the old scale (`recorded`), and now less the server's monotonic age is the same moment on today's (`started`).

- A row from after the step is from after the start, so on today's scale it is not older than `started`. A row on the old scale that is from
  after the start is not older than `recorded`. So a row older than both is from before the start, whichever scale it is on: what it shows
  ended with the server before. A row younger than either may be from after the start.
- After a step forward nothing is ambiguous. After a step back, a row between `started` and `recorded` that is not ahead of the present clock is
  either old and dead, or young and alive. A row that is ahead of the present clock, and that the step does not explain, tells of a clock that
  was set more than once. Such rows count as alive at first, and for as long as an agent runs that may be at work on them. The doubt ends when
  neither an agent runs nor anything was heard for the quiet period: since the row's time, or for one ahead since the server's start.
- The newest change is taken for as young as either scale allows: the quiet period ends at most the step's size late.
"""

from dataclasses import dataclass

SLACK_SECONDS = 5.0
"""Times are noted a moment after what they are the times of, and clocks are slewed."""


@dataclass(frozen=True)
class ServerClock:
    """The clocks that a server has lived under: `now` and `recorded` in seconds since the epoch, `age` by the monotonic clock."""

    now: float
    age: float
    recorded: float

    @property
    def started(self) -> float:
        """The server's start on today's scale."""
        return self.now - self.age

    @property
    def step(self) -> float:
        """By how much the clock was set since the server's start: positive for forward, 0 for what slewing explains."""
        found = self.started - self.recorded
        return found if abs(found) > SLACK_SECONDS else 0.0

    def is_before_start(self, moment: float) -> bool:
        """Return whether a row of that time is from before the server's start, whichever scale it is on."""
        return moment < min(self.started, self.started - self.step) - SLACK_SECONDS

    def is_ambiguous(self, moment: float) -> bool:
        """Return whether a row of that time may be from before the server's start as well as from after it."""
        if self.is_before_start(moment):
            return False
        is_between = self.step < 0 and moment < self.started - self.step - SLACK_SECONDS
        return is_between or self.is_ahead(moment)

    def is_dead(self, moment: float, quiet_seconds: float, *, has_agents: bool) -> bool:
        """Return whether work of that time is not of the running server. In doubt it is; a doubt that only the clock raises ends."""
        if self.is_before_start(moment):
            return True
        if not self.is_ambiguous(moment):
            return False
        if self.is_ahead(moment):
            return not has_agents and self.age > quiet_seconds + SLACK_SECONDS
        if moment > self.now + SLACK_SECONDS:
            return True  # no row of today's scale, so an old one, of before the start
        return not has_agents and self.now - moment > quiet_seconds + SLACK_SECONDS

    def is_ahead(self, moment: float) -> bool:
        """Return whether a time is ahead of the present clock on either scale: another step, or a server before, has left it."""
        return min(moment, moment + self.step) > self.now + SLACK_SECONDS

    def youngest(self, moments: list[float]) -> float | None:
        """Return the latest moment on today's scale that one of these times may stand for; None without any.

        A time that is ahead on either scale stands for a change from before the start, which is itself a change.
        """
        plausible = [self.started for moment in moments if self.is_ahead(moment)]
        for moment in moments:
            plausible += [each for each in {moment, moment + self.step} if each <= self.now + SLACK_SECONDS]
        return max(plausible, default=None)
