"""The consumer is killed (kill -9) again and again through a whole bump: it ends as if nothing had happened, or is undone."""

import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from scenes import ALL, FIRST, NEXT, deferrals, drained, everybody_is_well, is_busy

from t3flow.sandbox.host import Sandbox

NIGHTLIES: dict[str, list[dict[str, Any]]] = {
    "updated": [],
    "gate_failed": [{"fault": "mint_fails", "when": {"not_scratch": False}}],
    "rolled_back": [{"fault": "pairing_500", "when": {"not_scratch": True}}],
}
MOST_KILLS = 40


@pytest.mark.both_queues
@pytest.mark.parametrize("outcome", list(NIGHTLIES))
def test_killed_again_and_again(make_box: Callable[..., Sandbox], queue_url: str, outcome: str) -> None:
    dice = random.Random(f"{outcome}{queue_url[:4]}")
    box = make_box(ALL, queue_url=queue_url)
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32, "rules": NIGHTLIES[outcome]})
    run = box.document("enqueue", "bump")["run"]
    kills = 0
    for _ in itertools.repeat(None, MOST_KILLS):
        deadline = time.monotonic() + dice.uniform(0.02, 0.9 if outcome == "gate_failed" else 3.0)
        while time.monotonic() < deadline and box.journal.run(run).status == "running":
            time.sleep(0.01)
        if box.journal.run(run).status != "running":
            break
        box.kill("consumer")
        kills += 1
        time.sleep(dice.choice((0, 0, 0.2)))
        box.start_consumer()
    box.until(lambda: box.journal.run(run).status != "running", "the run has ended", 60)
    ended = box.journal.run(run)
    assert kills >= 2, "it was to be killed on the way"
    assert ended.outcome in (outcome, "error"), (ended.outcome, ended.result)
    moved = ended.outcome == "updated"
    everybody_is_well(box, {"ada": NEXT if moved else FIRST, "grace": FIRST, "linus": NEXT if moved else FIRST})
    assert [box.level(user) for user in ALL] == ([32, 30, 32] if moved else [30, 30, 30])
    status = box.document("status")
    assert (status["frozen"] is not None) == (ended.outcome in ("rolled_back", "error"))
    assert status["default_version"] == status["last_good"] == (NEXT if moved else FIRST)
    assert box.journal.query("select * from locks") == []
    if moved:
        assert list(deferrals(box)) == ["grace"]
        box.control("grace", "turn/end", turn=turn)
        drained(box, "grace", NEXT)
