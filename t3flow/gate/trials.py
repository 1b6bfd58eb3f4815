"""The steps of the gate: which databases a version is tried on, the trials, several at a time, and the control with the version in use."""

import contextvars
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import psutil
from loguru import logger

from t3flow.engine.step import current_run, step
from t3flow.gate import trial_run
from t3flow.gate.trial_run import Verdict
from t3flow.host import slots
from t3flow.host.backups import durations
from t3flow.host.cells import cells
from t3flow.host.children import ChildError
from t3flow.host.host import Host, this_host
from t3flow.host.records import known_schemas, rejections
from t3flow.host.staging import scratch_folder
from t3flow.host.users import Person
from t3flow.t3.files import FIRST_DATABASE
from t3flow.t3.unknown import MARK
from t3flow.tasks import Snapshot

MEMORY_PER_TRIAL = 800 * 1024 * 1024
"""What a real server with its launcher and monitor, a command beside it and the trial itself take: 711 MB of a real 0.0.42, 552 of it not shared."""
BATCH_OF_WIDTHS = 4
NO_END = 1e11
"""`until` of a trial that a person asked for."""
NOBODY = "nobody"


class Seed(TypedDict):
    """A state to try on: whose, the version in use there, the snapshot ("": an empty base dir), its size and files (as `Snapshot` has them)."""

    user: str
    version: str
    path: str
    bytes: int
    level: int
    files: dict[str, str]


class Seeds(TypedDict):
    """All seeds in batches, each one step; how many at a time; until when (epoch seconds) a trial may begin; what it takes, for people."""

    batches: list[list[Seed]]
    width: int
    until: float
    takes: str


def empty_seed(version: str) -> Seed:
    """An empty base dir, as a new user has it."""
    return {"user": NOBODY, "version": version, "path": "", "bytes": 0, "level": 0, "files": {}}


def files_of(kept: Snapshot | Seed) -> dict[str, str]:
    """The files of a snapshot. A run that an earlier t3flow began has the first one alone."""
    return kept.get("files") or ({FIRST_DATABASE: kept["path"]} if kept["path"] else {})


@step()
def choose_seeds(users: list[Person], snapshots: list[Snapshot], default: str) -> Seeds:
    """The snapshots that `gate.seeds` asks a candidate to be tried on; an empty base dir where there is none. Only reads."""
    host = this_host()
    wanted = host.settings.gate.seeds
    version = {user["user"]: user["version"] for user in users}
    usable: list[Seed] = [
        {
            "user": each["user"],
            "version": version[each["user"]],
            "path": each["path"],
            "bytes": each["bytes"],
            "level": each["level"],
            "files": files_of(each),
        }
        for each in snapshots
        if not each["problem"]
    ]
    if wanted == "largest":
        usable = sorted(usable, key=lambda seed: seed["bytes"])[-1:]
    chosen = [seed for seed in usable if wanted in ("all", "largest") or seed["user"] in wanted]
    chosen = chosen or [empty_seed(default)]
    largest = trial_run.disk_bound(max(seed["bytes"] for seed in chosen))
    width = min(_width(host, largest), len(chosen))
    size = width * BATCH_OF_WIDTHS
    return {
        "batches": [chosen[start : start + size] for start in range(0, len(chosen), size)],
        "width": width,
        "until": time.time() + host.settings.gate.limit_minutes * 60,
        "takes": f"{len(chosen)} databases, {width} at a time, at most {width * largest / 1e6:.0f} MB of disk and "
        f"{width * cells.MEMORY_BYTES / 1e6:.0f} MB of memory",
    }


def _width(host: Host, disk_bytes: int) -> int:
    """How many trials cores, memory and disk allow at a time; one where they would share the host's network."""
    if not cells.isolation(host).is_available:
        return 1
    by_memory = psutil.virtual_memory().available // MEMORY_PER_TRIAL
    by_disk = psutil.disk_usage(str(scratch_folder(current_run()))).free // disk_bytes
    return max(1, min(os.cpu_count() or 1, cells.MAX_PARALLEL, by_memory, by_disk))


@step(interruptible=True)
def try_on(slot: str, version: str, seeds: list[Seed], width: int, until: float) -> list[Verdict]:
    """Tries a version on a copy of each database; what would begin after `until` is inconclusive. Repeating it is harmless: each copy is fresh.

    What failed by its time alone is tried once more with the host to itself: trials side by side make each other slow. The migrations that
    the version was shown to serve are noted, and how long it took to start. A t3 of a kind that is not known is said in the log, in words that
    an alert looks for.
    """

    def hold(seed: Seed) -> Verdict:
        if time.time() > until:
            return _not_tried(seed, version, _limit())
        return _try_one(slot, version, seed, asks_version=seed is seeds[0])

    found = _side_by_side(hold, seeds, width)
    for verdict in found:
        if verdict["verdict"] == "pass":
            known_schemas.note_level(this_host().journal, version, verdict["level"])
            known_schemas.note_schema(this_host().journal, version, verdict["schema"], verdict["live"] or [])
            durations.note_start(this_host().journal, verdict["seed"], version, verdict["started_s"])
    unknown = {verdict["unknown"]: verdict["seed"] for verdict in found if verdict["unknown"]}
    for what, user in unknown.items():
        logger.warning("{}: t3 {} on the databases of {}: {}", MARK, version, user, what)
    return found


@step(interruptible=True)
def try_controls(seeds: list[Seed], width: int, until: float) -> list[Verdict]:
    """The same with the version in use on each: is it the candidate that fails, or the database, the gate, the host? Repeating it is harmless.

    Side by side as the candidate's trials; what would begin after `until` is inconclusive.
    """
    versions_dir = this_host().settings.paths.versions_dir

    def hold(seed: Seed) -> Verdict:
        version = seed["version"]
        if time.time() > until:
            return _not_tried(seed, version, _limit())
        if not slots.has_slot(versions_dir, version):
            return _not_tried(seed, version, f"there is no slot of {version} to compare with")
        return _try_one(str(slots.slot_path(versions_dir, version)), version, seed)

    return _side_by_side(hold, seeds, width)


def _side_by_side(hold: Callable[[Seed], Verdict], seeds: list[Seed], width: int) -> list[Verdict]:
    """The verdicts on seeds, so many at a time. What failed by its time alone is tried once more with the host to itself."""
    with ThreadPoolExecutor(width) as pool:
        waiting = [pool.submit(contextvars.copy_context().run, hold, seed) for seed in seeds]
        found = [each.result() for each in waiting]
    return [
        hold(seed) if verdict["verdict"] == "fail" and verdict["slow"] else verdict
        for seed, verdict in zip(seeds, found, strict=True)
    ]


def _limit() -> str:
    return f"gate.limit_minutes ({this_host().settings.gate.limit_minutes:g}) is over"


def _try_one(slot: str, version: str, seed: Seed, *, asks_version: bool = True) -> Verdict:
    host = this_host()
    files = {name: Path(path) for name, path in files_of(seed).items()}
    scratch = scratch_folder(current_run())
    try:
        return trial_run.run_trial(
            host,
            cells.isolation(host),
            Path(slot),
            version,
            scratch,
            seed["user"],
            files,
            asks_version=asks_version,
            in_use=[*(known_schemas.schema_of_version(host.journal, seed["version"]) or {})],
        )
    except (ChildError, cells.CellError) as error:
        return _not_tried(seed, version, str(error))


def _not_tried(seed: Seed, version: str, reason: str) -> Verdict:
    return trial_run.verdict_of(seed["user"], version, cells.Isolation(), "inconclusive", reason)


@step()
def note_untried(version: str, users: list[str]) -> None:
    """Notes whose database a version was not tried on, so that this is done before they are moved. Repeating it writes the same."""
    rejections.note_untried(this_host().journal, version, users)


@step()
def is_untried(user: str, version: str) -> bool:
    """Whether a version has still to be tried on a user's database. Only reads."""
    return rejections.is_untried(this_host().journal, user, version)


@step()
def note_tried(user: str) -> None:
    """A user's database was tried after all. Repeating it is harmless."""
    rejections.note_tried(this_host().journal, user)
