"""The steps of the gate: choose seeds and their order, run the trials, several at a time, and run the controls with the version in use."""

import contextvars
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NotRequired, TypedDict

import psutil
from loguru import logger

from t3flow.engine.step import current_run, step
from t3flow.gate import novelty, trial_run
from t3flow.gate.novelty import Profile
from t3flow.gate.trial_run import Verdict
from t3flow.host import slots
from t3flow.host.backups import durations
from t3flow.host.cells import cells
from t3flow.host.cells.cells import Isolation
from t3flow.host.children import ChildError
from t3flow.host.host import Host, current_host
from t3flow.host.npm.staging import scratch_folder
from t3flow.host.records import catalog, rejections, version_schemas
from t3flow.host.users import User
from t3flow.t3.files import FIRST_DATABASE
from t3flow.t3.unknown import MARK
from t3flow.tasks import Snapshot

MEMORY_PER_TRIAL = 800 * 1024 * 1024
"""A real 0.0.42 with its launcher, monitor, a command beside it and the trial take 711 MB, 552 MB of it unshared."""
TRIALS_PER_CORE = 2
"""A trial waits for a third of its time, for an idle server to stay up and for one to stop: meanwhile another trial has the core."""
BATCH_OF_WIDTHS = 4
NO_END = 1e11
"""`until` of a trial that an operator asked for."""
NO_USER = "nobody"


class Seed(TypedDict):
    """A copy to try on: its user, the version in use there, the snapshot ("": an empty base dir), its size and files (as in `Snapshot`).

    `why`: the reason for its place in the order, for people.
    """

    user: str
    version: str
    path: str
    bytes: int
    level: int
    files: dict[str, str]
    why: NotRequired[str]


class Seeds(TypedDict):
    """All seeds in batches, one step each; how many at a time; until when (epoch seconds) a trial may begin; what it takes, for people.

    `schemas`: how many schema classes there are. A run that an earlier t3flow began does not have it.
    """

    batches: list[list[Seed]]
    width: int
    until: float
    takes: str
    schemas: NotRequired[int]


def empty_seed(version: str) -> Seed:
    """Return an empty base dir, as a new user has it."""
    return {"user": NO_USER, "version": version, "path": "", "bytes": 0, "level": 0, "files": {}}


def files_of(snapshot: Snapshot | Seed) -> dict[str, str]:
    """Return the files of a snapshot. A run that an earlier t3flow began recorded only the first one."""
    return snapshot.get("files") or ({FIRST_DATABASE: snapshot["path"]} if snapshot["path"] else {})


@step()
def choose_seeds(users: list[User], snapshots: list[Snapshot], default: str) -> Seeds:
    """Return the snapshots that `gate.seeds` selects, in the order of novelty; an empty base dir if there are none. Only reads."""
    host = current_host()
    selected = host.settings.gate.seeds
    version = {user["user"]: user["version"] for user in users}
    usable = [each for each in snapshots if not each["problem"]]
    if selected == "largest":
        usable = sorted(usable, key=lambda each: each["bytes"])[-1:]
    wanted = {each["user"]: each for each in usable if selected in ("all", "largest") or each["user"] in selected}
    order = novelty.in_order(_profiles(host, list(wanted.values()), version))
    chosen = [_seed(wanted[place.user], version[place.user], place.why) for place in order] or [empty_seed(default)]
    largest = trial_run.disk_bound(max(seed["bytes"] for seed in chosen))
    width = min(_width(host, largest), len(chosen))
    size = width * BATCH_OF_WIDTHS
    return {
        "batches": [chosen[start : start + size] for start in range(0, len(chosen), size)],
        "width": width,
        "until": time.time() + host.settings.gate.limit_minutes * 60,
        "takes": f"{len(chosen)} databases, {width} at a time, at most {width * largest / 1e6:.0f} MB of disk and "
        f"{width * cells.MEMORY_BYTES / 1e6:.0f} MB of memory",
        "schemas": sum(place.is_first for place in order),
    }


def _seed(snapshot: Snapshot, version: str, why: str) -> Seed:
    return {
        "user": snapshot["user"],
        "version": version,
        "path": snapshot["path"],
        "bytes": snapshot["bytes"],
        "level": snapshot["level"],
        "files": files_of(snapshot),
        "why": why,
    }


def _profiles(host: Host, snapshots: list[Snapshot], version: dict[str, str]) -> list[Profile]:
    """Return what is known about each snapshot. Which tables have rows is known from the user's newest snapshot on record."""
    only = snapshots[0]["user"] if len(snapshots) == 1 else None
    rows = {backup.user: backup.rows for backup in catalog.backups(host.journal, only)}
    return [
        Profile(
            user=each["user"],
            version=version[each["user"]],
            schema=frozenset(
                (name, number, text)
                for name, listed in (each.get("schema") or {}).items()
                for number, text in version_schemas.parse_schema(listed) or [(0, "")]
            ),
            files=frozenset(files_of(each)),
            tables=frozenset(
                (name, table)
                for name, counts in rows.get(each["user"], {}).items()
                for table, count in counts.items()
                if count
            ),
            size_bytes=each["bytes"],
            newest=max((marks[2] / 1e9 for marks in (each["fingerprint"] or {}).values()), default=None),
        )
        for each in snapshots
    ]


def _width(host: Host, disk_bytes: int) -> int:
    """Return how many trials the cores, memory and disk allow at a time; one if trials would share the host's network."""
    if not cells.isolation(host).is_available:
        return 1
    by_memory = psutil.virtual_memory().available // MEMORY_PER_TRIAL
    by_disk = psutil.disk_usage(str(scratch_folder(current_run()))).free // disk_bytes
    return max(1, min(TRIALS_PER_CORE * len(os.sched_getaffinity(0)), cells.MAX_PARALLEL, by_memory, by_disk))


@step(interruptible=True, former_names=("try_on",))
def run_trials(
    slot: str, version: str, seeds: list[Seed], width: int, until: float, has_passed: bool = False
) -> list[Verdict]:
    """Try a version on a copy of each database; a trial that would begin after `until` is inconclusive. A repeat is harmless: each copy is fresh.

    Unless the version `has_passed` before, `until` counts from its first pass on, or once it is of an unknown kind. Once a trial fails, no further
    one begins (`not_begun`), since the failure may prove the version bad. A trial that failed only by its time is repeated alone, because trials
    in parallel slow each other down. Records which migrations the version serves and how long it took to start. A t3 of an unknown kind is logged in
    words that an alert looks for.
    """
    isolation = _isolation()
    counts = threading.Event()
    if has_passed:
        counts.set()

    def judge(seed: Seed) -> Verdict:
        if counts.is_set() and time.time() > until:
            return _not_tried(seed, version, _limit())
        verdict = _try_one(slot, version, seed, isolation, asks_version=seed is seeds[0])
        if verdict["verdict"] == "pass" or verdict["unknown"]:
            counts.set()
        return verdict

    verdicts = _in_parallel(judge, seeds, width, version)
    for verdict in verdicts:
        if verdict["verdict"] == "pass":
            version_schemas.note_level(current_host().journal, version, verdict["level"])
            version_schemas.note_schema(current_host().journal, version, verdict["schema"], verdict["live"] or [])
            durations.note_start(current_host().journal, verdict["seed"], version, verdict["started_s"])
    unknown = {verdict["unknown"]: verdict["seed"] for verdict in verdicts if verdict["unknown"]}
    for fact, user in unknown.items():
        logger.warning("{}: t3 {} on the databases of {}: {}", MARK, version, user, fact)
    return verdicts


@step(interruptible=True, former_names=("try_controls",))
def run_controls(seeds: list[Seed], width: int, until: float) -> list[Verdict]:
    """Run the same trials with the version in use, to tell a bad version from a bad database, gate or host. A repeat is harmless.

    In parallel, as the trials; a control that would begin after `until` is inconclusive.
    """
    versions_dir = current_host().settings.paths.versions_dir
    isolation = _isolation()

    def judge(seed: Seed) -> Verdict:
        version = seed["version"]
        if time.time() > until:
            return _not_tried(seed, version, _limit())
        if not slots.has_slot(versions_dir, version):
            return _not_tried(seed, version, f"there is no slot of {version} to compare with")
        return _try_one(str(slots.slot_path(versions_dir, version)), version, seed, isolation)

    return _in_parallel(judge, seeds, width)


def _in_parallel(judge: Callable[[Seed], Verdict], seeds: list[Seed], width: int, version: str = "") -> list[Verdict]:
    """Return the verdicts on the seeds, `width` at a time. A trial that failed only by its time is repeated alone.

    `version`: under trial, of which a failure lets no further trial begin. Controls have none, as each belongs to a failure.
    """
    has_failed = threading.Event()

    def attempt(seed: Seed) -> Verdict:
        if version and has_failed.is_set():
            return {**_not_tried(seed, version, "another trial failed before"), "not_begun": True}
        verdict = judge(seed)
        if verdict["verdict"] == "fail":
            has_failed.set()
        return verdict

    with ThreadPoolExecutor(width) as pool:
        waiting = [pool.submit(contextvars.copy_context().run, attempt, seed) for seed in seeds]
        found = [each.result() for each in waiting]
    return [
        judge(seed) if verdict["verdict"] == "fail" and verdict["slow"] else verdict
        for seed, verdict in zip(seeds, found, strict=True)
    ]


def _isolation() -> Callable[[], Isolation]:
    """Return a function that returns the isolation of this step's cells, found once, and found again if the host was too slow. Raises CellError."""
    lock, found = threading.Lock(), list[Isolation]()

    def isolation() -> Isolation:
        with lock:
            if not found:
                found.append(cells.isolation(current_host()))
            return found[0]

    return isolation


def _limit() -> str:
    return f"gate.limit_minutes ({current_host().settings.gate.limit_minutes:g}) has passed"


def _try_one(
    slot: str, version: str, seed: Seed, isolation: Callable[[], Isolation], *, asks_version: bool = True
) -> Verdict:
    host = current_host()
    files = {name: Path(path) for name, path in files_of(seed).items()}
    scratch = scratch_folder(current_run())
    try:
        return trial_run.run_trial(
            host,
            isolation(),
            Path(slot),
            version,
            scratch,
            seed["user"],
            files,
            asks_version=asks_version,
            in_use=[*(version_schemas.schema_of_version(host.journal, seed["version"]) or {})],
        )
    except (ChildError, cells.CellError) as error:
        return _not_tried(seed, version, str(error))


def _not_tried(seed: Seed, version: str, reason: str) -> Verdict:
    return trial_run.verdict_of(seed["user"], version, Isolation(), "inconclusive", reason)


@step()
def note_untried(version: str, users: list[str]) -> None:
    """Record on whose databases a version was not tried, so that it is tried before these users are moved. Idempotent."""
    rejections.note_untried(current_host().journal, version, users)


@step()
def is_untried(user: str, version: str) -> bool:
    """Return whether a version must still be tried on a user's databases. Only reads."""
    return rejections.is_untried(current_host().journal, user, version)


@step()
def note_tried(user: str) -> None:
    """Record that a version was tried on a user's databases. Idempotent."""
    rejections.note_tried(current_host().journal, user)
