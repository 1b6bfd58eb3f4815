"""docs/monitoring.md says what there is: each setting, occasion, kind of problem, key of the document, and kind of ping."""

import re
from pathlib import Path

import pytest

from t3flow.host.records import outbox
from t3flow.service.notifications import apprise_channel, derive, http_channel, pings, told
from t3flow.settings.schema import declared
from t3flow.settings.values import OCCASIONS
from t3flow.state.documents import Message

PAGE = (Path(__file__).parents[3] / "docs/monitoring.md").read_text()
SECTION = PAGE.split("\n## Messages\n")[1].split("\n## ")[0]
NAMES = {
    *(key for key in declared() if key.startswith("notify.")),
    *OCCASIONS,
    *told.SETTLE_SECONDS,
    *told.REPEATS,
    *("URL", "URL/start", "URL/fail", "URL/log"),
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_name_is_explained(name: str) -> None:
    assert f"`{name}`" in SECTION


def test_the_example_has_each_key_of_the_document() -> None:
    example = SECTION.split("```json\n")[1].split("\n```")[0]
    assert set(re.findall(r'(?m)^  "(\w+)":', example)) == set(Message.__annotations__)


@pytest.mark.parametrize(
    "words",
    [
        f"within {http_channel.TIMEOUT_SECONDS:g} s",
        f"After {outbox.KEEP_TRYING_SECONDS / 86400:g} days, the message becomes a dead letter",
        f"for {outbox.DEAD_DAYS} days",
        f"Up to {outbox.MAX_WAITING} messages",
        "up to once an hour" if outbox.LONGEST_RETRY_SECONDS == 3600 else "",
        f"within {derive.GATHER_SECONDS / 60:g} minutes share a message",
        f"within {pings.MISSED_SECONDS / 3600:g} hours after one was due",
        f"may use {apprise_channel.TIMEOUT_SECONDS:g} s and 1 GB",
    ],
)
def test_the_bounds_are_those_of_the_code(words: str) -> None:
    assert words
    assert words in " ".join(SECTION.split())
