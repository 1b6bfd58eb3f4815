"""A kill at any write: the message arrives, once, or twice with one key if the kill came between send and commit."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from receiver import receiving

from t3flow.sandbox.host import Sandbox

PROGRAM = Path(__file__).parents[2] / "notifier.py"


@pytest.mark.processes
def test_killed_before_each_statement_that_writes(tmp_path: Path) -> None:
    with receiving() as receiver:
        (tmp_path / "box").mkdir()
        box = Sandbox(tmp_path / "box", [], extra=f'[notify]\nwebhook_url = "{receiver.url}/hook"\n')
        words = [sys.executable, str(PROGRAM), str(box.config)]
        played = subprocess.run(words, env=box.environment, capture_output=True, text=True, timeout=200, check=False)
        assert played.returncode == 0, played.stderr
        *killed, last = json.loads(played.stdout)
        received = Counter(each.key for each in receiver.of("/hook"))
    assert len(killed) > 15, "each write was met"
    assert set(received) == {*killed, last}, "none is lost"
    assert received[last] == 1
    assert set(received.values()) == {1, 2}
    twice = [number for number, run in enumerate(killed) if received[run] == 2]
    assert twice == list(range(twice[0], len(killed)))[: len(twice)], "only between send and commit"
    for run in killed:
        assert len({each.body for each in receiver.of("/hook") if each.key == run}) == 1
