"""The numbers of the host that the metrics show: the state of the host, the counters, and the sizes of disks and snapshots, as of one moment."""

import json
import shutil
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from t3flow.deferrals import blockers
from t3flow.engine.journal import Journal
from t3flow.engine.runs import HOST_LEASE
from t3flow.host.records import counters, facts, tables
from t3flow.periodic import HEARTBEAT, NEXT_BUMP
from t3flow.settings.load import Settings
from t3flow.state.documents import Status
from t3flow.state.host import collect
from t3flow.state.sources import journal_if_any

PORT_TAKEN, NOT_STARTED = "port_taken", "not_started"
"""Why t3flow owes a user the start of their server: another program has the port, or the service manager refuses."""


class Disk(NamedTuple):
    """The room on a file system, in bytes."""

    free: int
    size: int


class Snapshots(NamedTuple):
    """A user's snapshots: bytes in total, bytes of the newest, and its time (epoch seconds)."""

    total: int
    newest: int
    at: float


class Owed(NamedTuple):
    """A server that t3flow stopped and could not start again: why, and since when (epoch seconds)."""

    user: str
    reason: str
    since: float


class Journaled(NamedTuple):
    """What the journal has beside the state of the host. `lease`: workflow → since when it has the host; `running`: workflow → runs in progress."""

    counters: dict[str, counters.Counters]
    blockers: list[blockers.Blocker]
    owed: list[Owed]
    running: dict[str, int]
    lease: dict[str, float]
    next_bump: float | None
    heartbeat: float | None


class Measurements(NamedTuple):
    """All numbers. `disks`: what is on it → the room."""

    status: Status
    journaled: Journaled
    snapshots: dict[str, Snapshots]
    disks: dict[str, Disk]


NOTHING = Journaled({}, [], [], {}, {}, None, None)


def measure(
    settings: Settings, journal: Journal | None = None, snapshots: dict[str, Snapshots] | None = None
) -> Measurements:
    """Measure the host. Works without a consumer, and without a journal.

    `journal`: if it is open already; `snapshots`: what `snapshots_of` returned a moment ago. Servers are as the consumer
    observed them last, unless no consumer runs and this account may look by itself.
    """
    journal = journal or journal_if_any(settings)
    status = collect(settings, journal, is_live=False)
    if not status["consumer"]["alive"]:
        status = collect(settings, journal)
    if journal is None:
        return Measurements(status, NOTHING, {}, disks(settings))
    found = snapshots_of(journal) if snapshots is None else snapshots
    return Measurements(status, journaled(journal, status), found, disks(settings))


def journaled(journal: Journal, status: Status) -> Journaled:
    """Return what the journal has beside the state of the host."""
    running = journal.query("select workflow, count(*) from runs where status = 'running' group by workflow")
    lease = journal.query(
        "select workflow, since from locks join runs on runs.id = locks.run where name = ?", HOST_LEASE
    )
    planned = facts.read(journal, NEXT_BUMP) or {}
    return Journaled(
        counters.read(journal),
        blockers.shown(journal),
        owed_starts(journal, status),
        {str(workflow): int(number) for workflow, number in running},
        {str(workflow): float(since) for workflow, since in lease},
        planned.get("at"),
        facts.read(journal, HEARTBEAT),
    )


def owed_starts(journal: Journal, status: Status) -> list[Owed]:
    """Return the servers that a `revive` run is to start, one for each user."""
    rows = journal.query(
        "select json_extract(args, '$.user'), min(created) from runs where status = 'running' and workflow = 'revive' group by 1"
    )
    found = []
    for user, since in rows:
        each = status["users"].get(str(user))
        is_taken = each is not None and " is taken by " in each["pairing_reason"]
        found.append(Owed(str(user), PORT_TAKEN if is_taken else NOT_STARTED, float(since)))
    return found


def snapshots_of(journal: Journal) -> dict[str, Snapshots]:
    """Return each user's snapshots, as far as this account may see their files."""
    files: dict[str, list[str]] = {}
    if tables.has_table(journal, "backup_sets"):
        rows = journal.query("select path, files from backup_sets")
        files = {str(path): list(json.loads(names).values()) for path, names in rows}
    sizes: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    for path, user, created in journal.query("select path, user, created from backups order by created, path"):
        names = files.get(path) or [Path(path).name]
        with suppress(OSError):
            total = sum(Path(path).with_name(name).stat().st_size for name in names)
            sizes[str(user)].append((total, float(created)))
    return {user: Snapshots(sum(size for size, _ in each), *each[-1]) for user, each in sizes.items()}


def disks(settings: Settings) -> dict[str, Disk]:
    """Return the room on the file systems that t3flow writes to. One that this account may not see is left out."""
    paths = settings.paths
    folders = {
        "backups": paths.backup_dir,
        "scratch": paths.scratch_dir,
        "state": paths.state_dir,
        "versions": paths.versions_dir,
    }
    found = {}
    for name, folder in folders.items():
        with suppress(OSError):
            usage = shutil.disk_usage(folder)
            found[name] = Disk(usage.free, usage.total)
    return found
