"""The documents about the fleet: see `documents.py` for what holds for all of them."""

from typing import Literal, TypedDict


class FleetHost(TypedDict):
    """One host of the fleet, as its last valid record has it; `seen` None: it has published none. Times are of this host's clock.

    `verified`: the accepted versions whose bake has ended well; `target`: the version that a bump of the host is at or waits with; `waiting`: why it
    waits, since `waiting_since`; "" and None for a host that does not.
    """

    host: str
    is_this_host: bool
    seen: str | None
    silent: bool
    wave: int | None
    default_version: str
    last_good: str
    frozen: str
    verified: list[str]
    rejected: dict[str, str]
    target: str
    waiting: str
    waiting_since: str | None


class FleetSlot(TypedDict):
    """One slot, with the host that holds it (None: free). `problem`: why its content could not be read, which counts as held."""

    slot: int
    host: str | None
    version: str | None
    run: str | None
    since: str | None
    problem: str


class FleetDropped(TypedDict):
    """Records of a host, or claims of a slot, that were dropped. `is_current`: what is there now is still not valid."""

    place: str
    reason: str
    count: int
    last: str
    is_current: bool


class FleetTurn(TypedDict):
    """What this host has its turn for. `is_alone`: it goes on without the fleet."""

    run: str
    version: str
    since: str
    is_alone: bool


class FleetWaiting(TypedDict):
    """Why a run of this host waits or waited for its turn last, and since when the host has had none. `is_over`: that run has ended."""

    run: str
    version: str
    reason: str
    since: str
    is_over: bool


class Fleet(TypedDict):
    """The fleet as this host knows it. `asked`: when it answered last; `problem`: why it does not answer, since `unreachable_since`.

    `stuck`: why the fleet does not go on without a person, each line with the command to run.
    """

    backend: Literal["redis", "fleetlock"]
    group: str
    host: str
    wave: int
    asked: str | None
    problem: str
    unreachable_since: str | None
    hosts: list[FleetHost]
    slots: list[FleetSlot]
    turn: FleetTurn | None
    waiting: FleetWaiting | None
    stuck: list[str]
    dropped: list[FleetDropped]


class FleetStatus(Fleet):
    """What `t3flow fleet status --json` prints."""

    schema: Literal[1]
