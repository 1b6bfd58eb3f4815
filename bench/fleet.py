"""A good night of six hosts in three waves with one Redis: the time from one wave to the next, and what the night costs Redis.

The hosts, their network, and their Redis are those of tests/fleet. Exits with an error if a host restarted users out of order, if a wave took 5 s or
more to begin after the last bake of the one before, or if the night took 1,000 commands.
"""

import sys
from itertools import pairwise
from pathlib import Path

from common import show, sized, waiting
from sandboxed import go_inside

TESTS = Path(__file__).parent.parent / "tests"
VERSION = "0.0.25-nightly.20260609.501"
WAVES = sized((["a", "b"], ["c", "d"], ["e", "f"]), (["a"], ["b"]))
PATIENCE_SECONDS = 3600
MOST_SECONDS, MOST_COMMANDS = 5.0, 1000


def main() -> None:
    """Play the night with real consumers, users, and bumps; only npm's part is done before."""
    sys.path[:0] = [str(TESTS), str(TESTS / "fleet")]
    from fleets import Fleet
    from network import reason_not_possible
    from waves import assert_at_most, assert_in_waves, gap_seconds, nights

    if reason := reason_not_possible():
        print(f"skipped: {reason}")
        return
    fleet = Fleet(patience_seconds=PATIENCE_SECONDS)
    try:
        names = "".join("".join(wave) for wave in WAVES)
        for number, wave in enumerate(WAVES):
            fleet.add("".join(wave), wave=number)
        with waiting(f"{len(names)} hosts to start"):
            fleet.start(names)
        fleet.publish(VERSION, {"schema_level": 32})
        before = fleet.redis.commands()
        with waiting(f"a night of {len(names)} hosts"):
            found = nights(fleet, fleet.bumps(names, VERSION), VERSION)
        after = fleet.redis.commands()
    finally:
        fleet.close()
    assert_in_waves(found, WAVES)
    assert_at_most(1, found)
    turns = [each.accepted - each.stopped for each in found.values()]
    gaps = [gap_seconds(found, earlier, later) for earlier, later in pairwise(WAVES)]
    show("a host's own turn, first stop to acceptance", turns)
    show("last bake of a wave to first stop of the next", gaps, "turn", turns)
    spent = {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}
    split = ", ".join(f"{name} {count}" for name, count in sorted(spent.items(), key=lambda each: -each[1]))
    print(f"commands of Redis for {len(names)} hosts: {sum(spent.values())} ({split})")
    if max(gaps) >= MOST_SECONDS:
        raise SystemExit(f"a wave began {max(gaps):.1f} s after the one before, not in less than {MOST_SECONDS:g} s")
    if sum(spent.values()) >= MOST_COMMANDS:
        raise SystemExit(f"the night took {sum(spent.values())} commands, not less than {MOST_COMMANDS}")


if __name__ == "__main__":
    go_inside()
    main()
