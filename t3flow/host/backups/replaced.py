"""Databases that were replaced: kept in `userdata/replaced-TIME` of their user's base dir, seen and removed as their owner alone."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from t3flow import T3flowError
from t3flow.engine.files import safe_name
from t3flow.engine.journal import Journal
from t3flow.host import tables
from t3flow.host.host import Host
from t3flow.host.owner import OwnerProblem, run_as_owner
from t3flow.host.owner_answers import one_line

PREFIX = "replaced-"
KEEP_SECONDS = 14 * 86400.0
LOOK_SECONDS = 30.0


class KeptError(T3flowError):
    """A kept database is not to be had, or not to be dropped yet."""


@dataclass(frozen=True)
class Kept:
    """A kept database: its folder's name, size, time (epoch seconds), schema level (None: cannot be read), version that wrote it ("": not known).

    `files`: file of the state → its bytes, with its log.
    """

    user: str
    name: str
    bytes: int
    created: float
    level: int | None
    files: dict[str, int]
    wrote: str


def note(journal: Journal, user: str, name: str, wrote: str) -> None:
    """Notes that a database is kept, and which version wrote it. Repeating it writes the same."""
    with tables.writing(journal) as connection:
        connection.execute("insert or replace into kept values (?, ?, ?)", (user, name, wrote))


def forget(journal: Journal, user: str, name: str) -> None:
    """Forgets a kept database that is in place again, or gone. Repeating it is harmless."""
    with tables.writing(journal) as connection:
        connection.execute("delete from kept where user = ? and name = ?", (user, name))


def wrote(journal: Journal) -> dict[tuple[str, str], str]:
    """User and name of each kept database on record → the version that wrote it."""
    found = tables.rows(journal, "kept", "kept", "select user, name, wrote from kept order by user, name")
    return {(str(user), str(name)): str(version) for user, name, version in found}


def is_noted(journal: Journal, user: str, name: str) -> bool:
    """Whether a database was kept and another put in its place."""
    return (user, name) in wrote(journal)


def versions_needed(journal: Journal) -> set[str]:
    """The versions that wrote databases which are kept, as far as that is promised."""
    return {version for (_, name), version in wrote(journal).items() if age_seconds(name) < KEEP_SECONDS}


def age_seconds(name: str) -> float:
    """How long ago a database was replaced, by the name that it is kept under."""
    moment = datetime.strptime(name.removeprefix(PREFIX), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return time.time() - moment.timestamp()


def listing(host: Host, user: str) -> list[Kept]:
    """A user's kept databases, oldest first, as the owner says. Raises OwnerProblem."""
    answer = run_as_owner(host, user, "kept", timeout_seconds=LOOK_SECONDS)
    by = wrote(host.journal)
    try:
        found = [Kept(user, *_checked(entry), by.get((user, str(entry[0])), "")) for entry in answer["kept"]]
    except (KeyError, TypeError, ValueError) as error:
        raise OwnerProblem("the answer from the home is not as it should be") from error
    return sorted(found, key=lambda kept: (kept.created, kept.name))


def _checked(entry: Any) -> tuple[str, int, float, int | None, dict[str, int]]:
    name, size, created, level, sizes = entry
    if not isinstance(name, str) or not name.startswith(PREFIX):
        raise ValueError(json.dumps(name))
    named = {one_line(str(each)): int(size) for each, size in dict(sizes).items()}
    with suppress(
        ValueError
    ):  # to read a database makes and removes its log beside it, which its folder takes for a change
        created = min(float(created), time.time() - age_seconds(name))
    return safe_name(name), int(size), float(created), None if level is None else int(level), named


def find(host: Host, user: str, name: str) -> Kept | None:
    """One of them, or None. Raises OwnerProblem."""
    return next((kept for kept in listing(host, user) if kept.name == name), None)


def drop(host: Host, kept: Kept, *, force: bool) -> None:
    """Removes a kept database. Raises KeptError for one that is not old enough, unless `force`. Repeating it is harmless."""
    age = time.time() - kept.created
    if age < KEEP_SECONDS and not force:
        raise KeptError(
            f"{kept.name} of {kept.user} is kept for {(KEEP_SECONDS - age) / 86400:.0f} more days; "
            f"to drop it all the same: t3flow backups drop {kept.user} {kept.name} --force"
        )
    run_as_owner(host, kept.user, "drop-kept", safe_name(kept.name), timeout_seconds=LOOK_SECONDS)
    forget(host.journal, kept.user, kept.name)
