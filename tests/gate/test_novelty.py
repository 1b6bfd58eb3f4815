"""The order of trials with a hundred users: what is odd comes first, and the same data give the same order."""

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from t3flow.gate.novelty import Place, Profile, in_order

DATABASE, SECOND = "state.sqlite", "statev2.sqlite"
DAY = 86400.0
NOW = 1.8e9
TABLES = frozenset((DATABASE, f"table{number}") for number in range(20))


def migrations(
    numbers: Iterable[int], name: str = "Migration", database: str = DATABASE
) -> frozenset[tuple[str, int, str]]:
    return frozenset((database, number, f"{name}{number}") for number in numbers)


def alike(number: int) -> Profile:
    """Return one of many users who differ only in size and in the time of the last write, by less than a factor of two."""
    return Profile(
        f"user{number:03}",
        "0.0.24",
        migrations(range(1, 31)),
        frozenset({DATABASE}),
        TABLES,
        5_000_000 + 9973 * number,
        NOW - 60 * number,
    )


def odd(profile: Profile, kind: str) -> Profile:
    """Return a user who differs from the others in one property."""
    changes: dict[str, Callable[[], Profile]] = {
        "older schema": lambda: replace(profile, schema=migrations(range(1, 21))),
        "newer schema": lambda: replace(profile, schema=migrations(range(1, 33))),
        "reused number": lambda: replace(profile, schema=migrations(range(1, 30)) | migrations([30], "Preview")),
        "second database": lambda: replace(
            profile, schema=profile.schema | migrations([1, 2], database=SECOND), files=profile.files | {SECOND}
        ),
        "no schema": lambda: replace(profile, schema=frozenset()),
        "large": lambda: replace(profile, size_bytes=2_000_000_000),
        "small": lambda: replace(profile, size_bytes=100_000),
        "untouched for a year": lambda: replace(profile, newest=NOW - 365 * DAY),
        "tables of its own": lambda: replace(
            profile, tables=TABLES | {(DATABASE, "plugins"), (DATABASE, "hooks"), (DATABASE, "x")}
        ),
        "no identity": lambda: replace(profile, files=profile.files | {"environment-id"}),
    }
    return changes[kind]()


def hundred(*kinds: str, seed: int = 1) -> tuple[list[Profile], list[str]]:
    """Return a hundred users in any order, some of them odd, and the names of those."""
    chance = random.Random(seed)
    users = [alike(number) for number in range(100)]
    places = chance.sample(range(100), len(kinds))
    for place, kind in zip(places, kinds, strict=True):
        users[place] = odd(users[place], kind)
    names = [users[place].user for place in places]
    chance.shuffle(users)
    return users, names


def rank(order: list[Place], user: str) -> int:
    """Return at which trial it is a user's turn, from 1."""
    return [place.user for place in order].index(user) + 1


SCHEMAS = ("older schema", "newer schema", "reused number", "second database", "no schema")


@pytest.mark.parametrize("seed", range(5))
def test_each_of_five_odd_schemas_is_among_the_first_six(seed: int) -> None:
    users, names = hundred(*SCHEMAS, seed=seed)
    order = in_order(users)
    assert sorted(rank(order, name) for name in names) == [2, 3, 4, 5, 6]
    assert [place.is_first for place in order] == [True] * 6 + [False] * 94
    assert rank(order, names[0]) < rank(order, names[2]), "ten migrations differ more than one that is named otherwise"
    assert order[0].why == "has the most common schema, as 95 users do"
    assert order[1].why.startswith("another schema, that of 1 user; differs")


@pytest.mark.parametrize("kind", ["large", "small", "untouched for a year", "tables of its own", "no identity"])
def test_one_who_is_odd_in_anything_else_is_the_second(kind: str) -> None:
    users, (name,) = hundred(kind)
    assert rank(in_order(users), name) == 2


def test_those_who_are_odd_in_different_ways_are_all_among_the_first() -> None:
    users, names = hundred(*SCHEMAS, "large", "untouched for a year", "tables of its own", "no identity")
    order = in_order(users)
    assert max(rank(order, name) for name in names) <= 12


def test_odd_ones_are_first_also_where_every_schema_is_unique() -> None:
    """95 users have a migration of their own each; the five whose lists differ by much more come before."""
    users, names = hundred(*SCHEMAS[:2], *SCHEMAS[3:])
    users = [
        each if each.user in names else replace(each, schema=each.schema | migrations([31], f"Of{each.user}"))
        for each in users
    ]
    order = in_order(users)
    assert max(rank(order, name) for name in names) <= 6
    assert all(place.is_first for place in order)


def test_the_same_sets_have_the_same_order() -> None:
    users, _ = hundred(*SCHEMAS, "large")
    first = in_order(users)
    for seed in range(5):
        random.Random(seed).shuffle(users)
        assert in_order(users) == first
    assert sorted(place.user for place in first) == sorted(each.user for each in users)


def test_one_set_that_changes_does_not_move_the_others() -> None:
    """A user's own data give that user another place; the order of the others stays."""
    users, names = hundred(*SCHEMAS)
    before = [place.user for place in in_order(users) if place.user not in names]
    users = [odd(each, "large") if each.user == names[0] else each for each in users]
    assert [place.user for place in in_order(users) if place.user not in names] == before


def test_hostile_data_delay_nobody() -> None:
    """A user's lists may be as long as the owner's program passes them, and times may lie in any future."""
    users, _ = hundred(*SCHEMAS)
    users += [
        replace(alike(200 + number), schema=migrations(range(30_000), f"X{number}-"), newest=4e9, size_bytes=2**61)
        for number in range(10)
    ]
    began = time.monotonic()
    assert len(in_order(users)) == 110
    assert time.monotonic() - began < 5


def test_one_and_none() -> None:
    assert in_order([]) == []
    assert in_order([alike(1)]) == [Place("user001", True, "no schema is more common")]


def test_three_hundred_users_are_ordered_at_once() -> None:
    users = [
        replace(alike(number), schema=migrations(range(1, 31)) | migrations([31], f"Of{number}"))
        for number in range(300)
    ]
    began = time.process_time()
    in_order(users)
    assert time.process_time() - began < 2
