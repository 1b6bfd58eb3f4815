"""Replaced sets: the databases that a restore or rollback replaced, preserved in `userdata/replaced-TIME` and accessed as their owner alone."""

import json
import shlex
import time
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from t3flow import T3flowError
from t3flow.engine.files import safe_name
from t3flow.engine.journal import Journal
from t3flow.engine.log import logger
from t3flow.host.host import Host
from t3flow.host.owner.answers import MALFORMED, OwnerProblem, one_line
from t3flow.host.owner.program import run_as_owner
from t3flow.host.records import tables

PREFIX = "replaced-"
KEEP_SECONDS = 14 * 86400.0
ACCESS_SECONDS = 30.0


class ReplacedError(T3flowError):
    """A replaced set does not exist, or may not be dropped yet."""


@dataclass(frozen=True)
class ReplacedSet:
    """A replaced set: folder name, size, time (epoch seconds), schema level (None: unreadable), version that wrote it ("": unknown).

    `files` maps each file of the set to its size in bytes, logs included.
    """

    user: str
    name: str
    size_bytes: int
    created: float
    level: int | None
    files: dict[str, int]
    written_by: str


def note(journal: Journal, user: str, name: str, version: str) -> None:
    """Record a replaced set and the version that wrote it. Idempotent."""
    with tables.transaction(journal) as connection:
        connection.execute("insert or replace into kept values (?, ?, ?)", (user, name, version))


def forget(journal: Journal, user: str, name: str) -> None:
    """Delete the record of a replaced set that is in place again or dropped. Idempotent."""
    with tables.transaction(journal) as connection:
        connection.execute("delete from kept where user = ? and name = ?", (user, name))


def recorded_versions(journal: Journal) -> dict[tuple[str, str], str]:
    """Return (user, name) of each recorded replaced set → the version that wrote it."""
    found = tables.rows(journal, "kept", "kept", "select user, name, wrote from kept order by user, name")
    return {(str(user), str(name)): str(version) for user, name, version in found}


def is_recorded(journal: Journal, user: str, name: str) -> bool:
    """Return whether a set was replaced and preserved under this name."""
    return (user, name) in recorded_versions(journal)


def versions_needed(journal: Journal) -> set[str]:
    """Return the versions that wrote replaced sets younger than KEEP_SECONDS."""
    return {version for (_, name), version in recorded_versions(journal).items() if age_seconds(name) < KEEP_SECONDS}


def age_seconds(name: str) -> float:
    """Return how long ago a set was replaced, from the time in its name."""
    moment = datetime.strptime(name.removeprefix(PREFIX), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return time.time() - moment.timestamp()


def list_replaced(host: Host, user: str) -> list[ReplacedSet]:
    """Return a user's replaced sets, oldest first, as the owner's program lists them. Raises OwnerProblem."""
    answer = run_as_owner(host, user, "list-replaced", timeout_seconds=ACCESS_SECONDS)
    versions = recorded_versions(host.journal)
    try:
        found = [
            ReplacedSet(user, *_checked(entry), versions.get((user, str(entry[0])), "")) for entry in answer["replaced"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise OwnerProblem(MALFORMED) from error
    return sorted(found, key=lambda each: (each.created, each.name))


def _checked(entry: Any) -> tuple[str, int, float, int | None, dict[str, int]]:
    name, size, created, level, sizes = entry
    if not isinstance(name, str) or not name.startswith(PREFIX):
        raise ValueError(json.dumps(name))
    files = {one_line(str(each)): int(bytes_) for each, bytes_ in dict(sizes).items()}
    with suppress(ValueError):  # SQLite creates and removes a log when it reads, which changes the folder's time
        created = min(float(created), time.time() - age_seconds(name))
    return safe_name(name), int(size), float(created), None if level is None else int(level), files


def find(host: Host, user: str, name: str) -> ReplacedSet | None:
    """Return a user's replaced set of this name, or None. Raises OwnerProblem."""
    return next((each for each in list_replaced(host, user) if each.name == name), None)


def drop(host: Host, replaced: ReplacedSet, *, force: bool) -> None:
    """Remove a replaced set. Raises ReplacedError if it is younger than KEEP_SECONDS, unless `force`. Idempotent."""
    age = time.time() - replaced.created
    if age < KEEP_SECONDS and not force:
        raise ReplacedError(
            f"{replaced.name} of {replaced.user} is kept for {(KEEP_SECONDS - age) / 86400:.0f} more days; "
            f"to drop it now: t3flow backups drop {shlex.quote(replaced.user)} {replaced.name} --force"
        )
    run_as_owner(host, replaced.user, "drop-replaced", safe_name(replaced.name), timeout_seconds=ACCESS_SECONDS)
    forget(host.journal, replaced.user, replaced.name)


def drop_expired(host: Host, requested: Container[str]) -> list[str]:
    """Remove the recorded sets that are older than `backup.replaced_days`, except `requested` names. Return what was removed, as USER/NAME.

    Idempotent. A home that does not answer is left for the next time, and delays no other user's for long.
    """
    days = float(host.settings.backup.replaced_days)
    dropped, failing = [], set()
    for user, name in recorded_versions(host.journal) if days else ():
        if user in failing or name in requested or _age_or_zero(name) <= max(days * 86400, KEEP_SECONDS):
            continue
        try:
            run_as_owner(host, user, "drop-replaced", safe_name(name), timeout_seconds=ACCESS_SECONDS)
        except (T3flowError, OSError) as error:
            failing.add(user)
            logger.warning("{} of {} is over {:g} days old and cannot be dropped: {}", name, user, days, error)
            continue
        forget(host.journal, user, name)
        dropped.append(f"{user}/{name}")
    return dropped


def _age_or_zero(name: str) -> float:
    with suppress(ValueError):
        return age_seconds(name)
    return 0.0
