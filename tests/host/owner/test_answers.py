"""Answers from a home: what file systems give is accepted, anything else is refused."""

import json

import pytest

from t3flow.host.owner.answers import OwnerProblem, parse_answer


@pytest.mark.parametrize(
    ("marks", "is_refused"),
    [
        ([1, 4096, 1_800_000_000_000_000_000], False),
        ([2**64 - 1, 4096, 1_800_000_000_000_000_000], False),
        ([1, 4096, -1], False),
        ([2**64, 4096, 1], True),
        ([-1, 4096, 1], True),
        ([1, -1, 1], True),
        ([1, 4096, 2**65], True),
        ([1, 4096, 1.5], True),
        ([True, 4096, 1], True),
    ],
)
def test_the_marks_of_a_file(marks: list[float], is_refused: bool) -> None:
    """Network and union file systems have inode numbers of 64 bits. A file may be older than 1970."""
    text = json.dumps({"fingerprint": {"state.sqlite": marks}}).encode()
    if is_refused:
        with pytest.raises(OwnerProblem):
            parse_answer(text)
    else:
        assert parse_answer(text)["fingerprint"] == {"state.sqlite": marks}
