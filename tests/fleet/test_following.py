"""Which version a later wave follows."""

import pytest
from records_of import record

from t3flow.fleet.following import best

DEFAULT, NEWEST = "1.0.0", "1.0.5"


@pytest.mark.parametrize(
    ("verified", "targets", "rejected", "follows"),
    [
        ([["1.0.0"], ["1.0.0"]], ["", ""], set(), NEWEST),
        ([["1.0.0", "1.0.3"], ["1.0.3"]], ["1.0.5", ""], set(), "1.0.3"),
        ([["1.0.3"], ["1.0.2"]], ["1.0.4", ""], set(), "1.0.4"),
        ([["1.0.0"], ["1.0.0"]], ["1.0.4", "1.0.3"], set(), "1.0.4"),
        ([["1.0.3"], ["1.0.3"]], ["1.0.4", ""], {"1.0.3"}, "1.0.4"),
        ([["1.0.6"], ["1.0.6"]], ["1.0.6", ""], set(), NEWEST),
        ([["../x"], ["../x"]], ["rubbish", "latest"], set(), NEWEST),
    ],
)
def test_a_later_wave_follows(verified: list[list[str]], targets: list[str], rejected: set[str], follows: str) -> None:
    """What all verified, else what one is at, else what the tag points at; nothing older, newer, rejected, or that is no version."""
    earlier = [
        record(name, verified=tuple(each), target=target)
        for name, each, target in zip("ab", verified, targets, strict=True)
    ]
    assert best(earlier, NEWEST, DEFAULT, rejected) == follows


def test_without_an_earlier_host_the_tag_decides() -> None:
    assert best([], NEWEST, DEFAULT, set()) == NEWEST
