"""Records and claims from other hosts, field by field: what does not fit is one error."""

from typing import Any

import pytest
from records_of import record

from t3flow.fleet.errors import BadRecord
from t3flow.fleet.records import LONGEST_TEXT, MOST_VERSIONS, Claim, claim_of, record_of, shortened

GOOD = record(rejected={"2.0.0": "it failed"}, target="2.0.0", waiting="for b", waiting_since=3.0)
WRONG = [
    ("seq", -1),
    ("seq", True),
    ("seq", 1.5),
    ("seq", 2**70),
    ("at", float("nan")),
    ("at", float("inf")),
    ("at", -1),
    ("at", "1"),
    ("wave", 100),
    ("default", None),
    ("default", "1\x1b[31m"),
    ("default", "1" * 101),
    ("frozen", "x" * (LONGEST_TEXT + 1)),
    ("accepted", "1.0.0"),
    ("accepted", [1]),
    ("verified", ["1"] * (MOST_VERSIONS + 1)),
    ("rejected", []),
    ("rejected", {"1.0.0": 3}),
    ("rejected", {"1\n": "x"}),
    ("waiting", "a\nb"),
    ("waiting_since", True),
]


def test_a_record_survives_its_body() -> None:
    assert record_of("a", GOOD.body()) == GOOD
    claim = Claim("a", "bump-1", "1.0.0", 5.0)
    assert claim_of("a", claim.body()) == claim


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_field_that_does_not_fit_is_refused(key: str, value: Any) -> None:
    with pytest.raises(BadRecord, match=key):
        record_of("a", {**GOOD.body(), key: value})


@pytest.mark.parametrize("key", sorted(GOOD.body()))
def test_a_field_that_is_missing_is_refused(key: str) -> None:
    body = GOOD.body()
    del body[key]
    with pytest.raises(BadRecord):
        record_of("a", body)


def test_texts_are_cut_to_what_a_record_may_have() -> None:
    text = shortened("a\nb \x1b[1m" + "x" * 1000)
    assert text.startswith("a b [1mx")
    assert record_of("a", record(frozen=text).body()).frozen == text
