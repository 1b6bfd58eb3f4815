"""The demo ends as it announces, and notices when it does not."""

import subprocess
import sys
from pathlib import Path

ANOTHER = """
import sys, t3flow.sandbox.demo as demo
demo.BREAKS_MIGRATION = {'fault': 'log_noise'}
demo.Story.play = lambda story: (story.set_up(), story.nightly_that_breaks_data())
sys.exit(demo.main())
"""


def play(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=200, check=False)


def test_everything_is_as_announced() -> None:
    said = play("-m", "t3flow", "demo")
    assert said.returncode == 0, said.stdout
    assert "Everything was as announced" in said.stdout
    assert "NOT SO" not in said.stdout
    assert "\x1b" not in said.stdout + said.stderr, "plain lines when piped"
    assert not list(Path("/tmp").glob("t3flow-demo-*/state/consumer.lock"))


def test_what_is_not_as_announced_is_exit_1() -> None:
    """The nightly that is announced to break somebody's data is a good one here, so the gate stops nothing."""
    said = play("-c", ANOTHER)
    assert said.returncode == 1
    assert "✗ NOT SO:" in said.stdout
    assert "did not hold" in said.stdout
