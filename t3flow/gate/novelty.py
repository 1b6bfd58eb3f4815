"""The order of trials: the databases that stand for the most users first, then those that differ most from all before them. No I/O.

A build fails on what no build has met yet. The first trial is on the set that most others resemble; each further one is on the set that differs most
from every set before it (farthest-first traversal), and until every schema was tried, only on a set whose schema was not.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

FILE_WEIGHT = 4.0
"""A database or small file that only one of two sets has counts as much as four migrations. A table that only one of them uses, another version in
use, a factor of two in size and a factor of two in age each count as much as one."""
DAY_SECONDS = 86400.0

Schema = frozenset[tuple[str, int, str]]
"""Applied migrations of a set: database, id and name of each."""


@dataclass(frozen=True)
class Profile:
    """What is known about a user's set before any trial.

    `files`: its databases and identity files; `tables`: tables that have rows; `newest`: time of the last write (epoch seconds), None if the set
    was written to while it was copied.
    """

    user: str
    version: str
    schema: Schema
    files: frozenset[str]
    tables: frozenset[tuple[str, str]]
    size_bytes: int
    newest: float | None


class Place(NamedTuple):
    """The place of a user's set in the order. `is_first`: no earlier one has its schema. `why`: the reason for this place, for people."""

    user: str
    is_first: bool
    why: str


def in_order(profiles: list[Profile]) -> list[Place]:
    """Return all sets in the order in which a version is tried on them, with the first of each schema before all others.

    Deterministic: the same sets have the same order, however they are listed. It compares each pair of sets: a third of a second for 300 users.
    """
    sets = sorted(profiles, key=lambda profile: profile.user)
    classes: dict[Schema, int] = {}
    kinds = [classes.setdefault(each.schema, len(classes)) for each in sets]
    users_of = Counter(kinds)
    distance = _measure(sets, kinds)
    left = list(range(len(sets)))
    nearest = [math.inf] * len(sets)
    tried: set[int] = set()
    places: list[Place] = []
    while left:
        untried = [each for each in left if kinds[each] not in tried] if len(tried) < len(users_of) else left
        # of equal ones, the first by name
        chosen = max(untried, key=lambda each: nearest[each]) if places else _typical(sets, kinds, users_of)
        is_first = kinds[chosen] not in tried
        why = _why(users_of[kinds[chosen]], nearest[chosen], is_first=is_first)
        places.append(Place(sets[chosen].user, is_first, why))
        tried.add(kinds[chosen])
        left.remove(chosen)
        for each in left:
            nearest[each] = min(nearest[each], distance(each, chosen))
    return places


def _measure(sets: list[Profile], kinds: list[int]) -> Callable[[int, int], float]:
    """Return a function that compares two of these sets, given by number; its unit is one migration."""
    newest = max((each.newest or 0.0 for each in sets), default=0.0)
    sizes = [round(math.log2(1 + each.size_bytes)) for each in sets]
    ages = [round(math.log2(1 + (newest - each.newest) / DAY_SECONDS)) if each.newest else 0 for each in sets]
    forms: dict[tuple[frozenset[str], frozenset[tuple[str, str]]], int] = {}
    form = [forms.setdefault((each.files, each.tables), len(forms)) for each in sets]
    known: dict[tuple[int, int, int, int], float] = {}

    def distance(one: int, other: int) -> float:
        pair = (kinds[one], kinds[other], form[one], form[other])
        if pair not in known:
            known[pair] = (
                len(sets[one].schema ^ sets[other].schema)
                + FILE_WEIGHT * len(sets[one].files ^ sets[other].files)
                + len(sets[one].tables ^ sets[other].tables)
            )
        numbers = abs(sizes[one] - sizes[other]) + abs(ages[one] - ages[other])
        return known[pair] + numbers + (sets[one].version != sets[other].version)

    return distance


def _typical(sets: list[Profile], kinds: list[int], users_of: Counter[int]) -> int:
    """Return the set that stands for the most users: of the most common schema, the one of median size."""
    most = max(users_of.values())
    kind = next(kind for kind in kinds if users_of[kind] == most)
    alike = sorted((each for each in range(len(sets)) if kinds[each] == kind), key=lambda each: sets[each].size_bytes)
    return alike[len(alike) // 2]


def _why(users: int, distance: float, *, is_first: bool) -> str:
    if distance == math.inf:
        return f"has the most common schema, as {users} users do" if users > 1 else "no schema is more common"
    if is_first:
        return f"another schema, that of {users} user{'s' if users > 1 else ''}; differs from those before by {distance:.0f}"
    return f"a schema tried before; differs from those before by {distance:.0f}"
