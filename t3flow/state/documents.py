"""The documents of the read model: what `--json` prints, and what page, metrics and messages show.

Each type is a contract: within one SCHEMA, keys are added, never removed or given another meaning. `docs/schemas` has them as JSON Schemas, which
`tools/schemas.py` writes. Times are RFC 3339 with an offset.
"""

from typing import Any, Literal, TypedDict

from t3flow.state.fleet_documents import Fleet
from t3flow.state.fleet_documents import FleetStatus as FleetStatus

SCHEMA: Literal[1] = 1
"""The version of these documents."""


class Problem(TypedDict):
    """What is wrong. `key`: a stable name of the kind; `user`: the user concerned; `remedy`: what to do, which ends with the command to run."""

    key: str
    user: str | None
    text: str
    remedy: str


class Frozen(TypedDict):
    """Why tracking is frozen."""

    reason: str
    since: str
    by: str


class Held(TypedDict):
    """Why an operator keeps a user on their version, and until when (None: until released)."""

    since: str
    until: str | None
    reason: str
    by: str


class Deferral(TypedDict):
    """A pending restart of one user. `old`: the problem that it has become, with its remedy; "" for none."""

    user: str
    target: str
    since: str
    checks: int
    next_check: str | None
    waiting_for: str
    detail: str
    run: str
    old: str


class LeftBehind(TypedDict):
    """Why a bump to `target` left a user on another version."""

    target: str
    waiting_for: str
    detail: str
    since: str


class User(TypedDict):
    """One user. `unknown`: what t3flow does not know about their kind of t3, "" for nothing; `pairing`: ok, failing or unknown."""

    unit: str
    active: bool
    running_version: str | None
    assigned_version: str | None
    pairing: Literal["ok", "failing", "unknown"]
    pairing_since: str | None
    pairing_seen: str | None
    pairing_reason: str
    unknown: str
    deferred: Deferral | None
    held: Held | None
    left_behind: LeftBehind | None
    managed: bool
    why_unmanaged: str


class RunWaits(TypedDict):
    """The run that waits for the registry, with what it waits for and when it tries again."""

    run: str
    waiting_for: str
    next_try: str | None


class LastBump(TypedDict):
    """How the last bump ended."""

    run: str
    outcome: str | None
    reason: str | None
    ended: str


class Bake(TypedDict):
    """The version whose pairings are watched. `problem`: why nothing is seen; "" for none."""

    version: str
    until: str
    problem: str


class Schedule(TypedDict):
    """When bumps are due, by which clock. `problem`: why that is not known; "" for none."""

    bump: str
    timezone: str | None
    next: str | None
    problem: str


class QueueFault(TypedDict):
    """Why the queue cannot be used, or will not be usable soon (not `is_blocking`), and the command that helps."""

    cause: str
    remedy: str
    is_blocking: bool
    since: str | None


class Consumer(TypedDict):
    """The consumer. `waiting_for`: what it cannot work without now."""

    alive: bool
    pid: int | None
    waiting_for: str | None
    queue: QueueFault | None


class Verify(TypedDict):
    """The hourly verify (`every_minutes` 0: off). `overdue`: users whom it has not reached for over two periods; `waiting_for`: "" for nothing."""

    every_minutes: float
    last: str | None
    waiting_for: str
    overdue: list[str]


class DispatchFault(TypedDict):
    """Why no user could pair through the dispatch when the hourly verify tried last, and since when."""

    since: str
    problem: str


class Channel(TypedDict):
    """A channel of messages, without secrets. `failing_since`: None while it works; `waiting`: messages on their way; `dead`: given up on."""

    name: str
    shown: str
    sent_at: str | None
    failing_since: str | None
    cause: str
    waiting: int
    dead: int


class Status(TypedDict):
    """What `status --json` prints. `observed`: when servers and units were looked at; problems have the most urgent first; `fleet` None: none."""

    schema: Literal[1]
    observed: str | None
    problems: list[Problem]
    default_version: str | None
    last_good: str | None
    tracked_tag: str
    pin: str | None
    frozen: Frozen | None
    rejected: dict[str, str]
    users: dict[str, User]
    user_map_problems: list[str]
    launcher_problems: list[str]
    metrics_problems: list[str]
    run: str | None
    run_doing: str | None
    run_waits: RunWaits | None
    newer_runs: list[str]
    last_bump: LastBump | None
    bake: Bake | None
    verify: Verify
    dispatch_fault: DispatchFault | None
    next_bump: str | None
    schedule: Schedule
    consumer: Consumer
    channels: list[Channel]
    fleet: Fleet | None


class RunSummary(TypedDict):
    """One run, as `runs --json` lists it. `asked_by`: the person; None for a run that t3flow started itself."""

    run: str
    workflow: str
    args: dict[str, Any]
    asked_by: str | None
    status: Literal["running", "succeeded", "failed", "cancelled"]
    outcome: str | None
    reason: str
    created: str
    updated: str


class Event(TypedDict):
    """One entry of a run's history. `data` depends on `kind`."""

    seq: int
    at: str
    kind: str
    step: str | None
    attempt: int | None
    data: dict[str, Any]


class RunHistory(RunSummary):
    """One run with its history, as `show RUN --json` prints it."""

    schema: Literal[1]
    events: list[Event]


class Action(TypedDict):
    """What a person asked t3flow to do. `by`: an account, or on the page an identity; `result`: None while it is under way or was interrupted."""

    id: str
    at: str
    by: str
    via: Literal["cli", "page", "user"]
    action: str
    arguments: dict[str, Any]
    run: str | None
    result: str | None


class MyWish(TypedDict):
    """What a user wishes for: to be moved now, or later than `until`."""

    kind: Literal["now", "later"]
    at: str
    until: str | None


class MyAnswer(TypedDict):
    """The consumer's answer to a user's last wish, by its id. `ok`: it is as the user wished."""

    id: str
    ok: bool
    text: str


class Me(TypedDict):
    """What `t3flow me --json` prints: one user's server, what waits for them and why, and what they wished for."""

    schema: Literal[1]
    user: str
    running_version: str | None
    assigned_version: str | None
    default_version: str | None
    active: bool
    managed: bool
    frozen: Frozen | None
    held: Held | None
    deferred: Deferral | None
    wish: MyWish | None
    answer: MyAnswer | None
    later_days: float
    next_bump: str | None


class UserResult(TypedDict):
    """How one user fared in a run."""

    result: Literal["restarted", "deferred", "rolled_back", "failed", "skipped", "untouched"]
    version: str
    downtime_s: float | None
    reason: str


RunResult = TypedDict(  # `from` is a keyword of Python, so that this cannot be a class
    "RunResult",
    {
        "schema": Literal[1],
        "run": str,
        "workflow": str,
        "status": Literal["running", "succeeded", "failed", "cancelled"],
        "outcome": str | None,
        "from": str | None,
        "target": str | None,
        "reason": str,
        "users": dict[str, UserResult],
        "notices": list[str],
    },
)
"""What `--wait --json` prints."""


class Backup(TypedDict):
    """A snapshot, or databases that were kept when they were replaced (`kind`). `version` wrote them; `before`: the version moved to then.

    `files`: size in bytes by name; None for a file that is gone.
    """

    user: str
    backup: str
    kind: Literal["snapshot", "kept"]
    path: str
    version: str | None
    before: str | None
    level: int | None
    created: str | None
    bytes: int | None
    files: dict[str, int | None]


class Verified(TypedDict):
    """Whether a user could pair through the dispatch just now, and why not."""

    user: str
    ok: bool
    reason: str


class Message(TypedDict):
    """A message to the owner, as `notify.webhook_url` receives it. `key` is the same in each attempt to send it.

    `occasions`: all that it is about, of those that `notify.on` names; `occasion` is the first. `commands`: what to run. `run`: the run that it is
    about; `problems`: what needs a person, or no longer does.
    """

    schema: Literal[1]
    key: str
    at: str
    host: str
    occasion: str
    occasions: list[str]
    title: str
    text: str
    commands: list[str]
    run: RunResult | None
    problems: list[Problem]


class Sent(TypedDict):
    """Whether a channel took the message of `t3flow notify test`, and why not."""

    channel: str
    shown: str
    ok: bool
    reason: str
    seconds: float


class Finding(TypedDict):
    """What the doctor found: the name of the check, the problem, the remedy."""

    check: str
    problem: str
    remedy: str
