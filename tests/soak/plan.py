"""What happens in each simulated night, drawn from the seed and the number of the night alone: a year can be repeated."""

import random
from dataclasses import dataclass
from typing import Any

LIVE: dict[str, Any] = {"when": {"not_scratch": True}}
GATE_SEES: tuple[dict[str, Any], ...] = (
    {"fault": "mint_fails"},
    {"fault": "pairing_500"},
    {"fault": "migration_throws"},
    {"fault": "crash_after", "seconds": 0.05},
    {"fault": "no_cookie"},
    {"fault": "snapshot_fails"},
)
"""Bad builds that no user gets."""
USERS_SEE: tuple[dict[str, Any], ...] = ({"fault": "pairing_500", **LIVE}, {"fault": "mint_fails", **LIVE})
"""Bad builds that the first restarted user gets: t3flow rolls back and freezes."""
BAD = 1 / 7
FAULTS = {
    "": 36,
    "kill": 14,
    "kill twice": 5,
    "registry down": 8,
    "incomplete release": 4,
    "full disk": 6,
    "clock back": 4,
    "clock ahead": 4,
    "upgrade": 8,
    "dispatch down": 3,
}
"""Faults of a night and their weights."""
ORDERS = {"": 48, "rollback": 9, "rollback user": 9, "restore": 9, "cancel": 5, "drop": 3, "dry run": 3}
"""What an operator does after a night, and the weights."""


@dataclass(frozen=True)
class Night:
    """The plan of one night. Shares are numbers from 0 to 1 that choose among what exists then."""

    number: int
    release: str
    """`good`, `gate`, `users` (a bad build that the gate or that users see) or "" (no release)."""
    rule: dict[str, Any] | None
    raises_level: bool
    scheduled: bool
    fault: str
    kill_after_seconds: tuple[float, ...]
    order: str
    busy: float
    leaves: bool
    joins: bool
    draw: random.Random
    """For choices that depend on the state of the host."""


def night(seed: int, number: int) -> Night:
    """Return the plan of a night. The first two nights have no faults: they are the reference of day one."""
    draw = random.Random(f"{seed}-{number}")
    early = number <= 2
    bad = draw.random() < BAD and not early
    seen_by = draw.choice(["gate", "gate", "users"]) if bad else ""
    release = seen_by or ("" if draw.random() < 0.06 and not early else "good")
    rule = draw.choice(GATE_SEES if seen_by == "gate" else USERS_SEE) if bad else None
    fault = draw.choices(list(FAULTS), list(FAULTS.values()))[0]
    order = draw.choices(list(ORDERS), list(ORDERS.values()))[0]
    kills = {"kill": 1, "kill twice": 2}.get(fault, 0)
    return Night(
        number=number,
        release=release,
        rule=rule,
        raises_level=draw.random() < 0.12,
        scheduled=draw.random() < 0.04,
        fault="" if early else fault,
        kill_after_seconds=tuple(draw.uniform(0.2, 9.0) for _ in range(kills)),
        order="" if early else order,
        busy=draw.choice([0.0, 0.0, 0.15, 0.3]),
        leaves=draw.random() < 0.12 and not early,
        joins=draw.random() < 0.12 and not early,
        draw=draw,
    )
