"""The shortest form of a simulated year, and controls of how it judges."""

import random
import subprocess
import sys
from pathlib import Path

import plan
import pytest
import shifted
import watched

YEAR = Path(__file__).with_name("year.py")


@pytest.mark.timeout(900)  # a loaded machine
@pytest.mark.skipif(bool(shifted.why_not()), reason=shifted.why_not())
def test_two_nights_of_a_year(tmp_path: Path) -> None:
    """In the second, the consumer is killed, and an operator rolls back. Each user has what they wrote, and every snapshot opens."""
    words = [
        "--first",
        "2",
        "--nights",
        "2",
        "--users",
        "2",
        "--seed",
        "51",
        "--days-each",
        "20",
        "--keep",
        str(tmp_path),
    ]
    done = subprocess.run([sys.executable, YEAR, *words], capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "night 3: good 503 kill" in done.stdout
    assert "snapshots restored" in done.stdout


def test_growth_is_noticed() -> None:
    """Rows that are added each night are growth; a value that settles after the first fill, and noise, are not."""
    noise = random.Random(1)
    history = [
        {
            "consumer MB": 52 + noise.random(),
            "table rejected": float(night),
            "slots": float(min(night, 8)),
            "WAL KB": 4000 * noise.random(),
        }
        for night in range(100)
    ]
    assert watched.growth(history) == {"table rejected": "grew from 49 to 99"}
    assert "consumer MB" in watched.growth([{**values, "consumer MB": 91.0} for values in history])


def test_a_seed_repeats_a_year() -> None:
    """All that is drawn is the same; another seed draws something else. Every kind of night occurs in a year."""
    year = [plan.night(7, number) for number in range(1, 401)]
    known = [(night.release, night.fault, night.order, night.kill_after_seconds, night.busy) for night in year]
    again = [plan.night(7, number) for number in range(1, 401)]
    assert known == [(night.release, night.fault, night.order, night.kill_after_seconds, night.busy) for night in again]
    assert known != [
        (night.release, night.fault, night.order, night.kill_after_seconds, night.busy)
        for night in (plan.night(8, number) for number in range(1, 401))
    ]
    assert {night.fault for night in year} == set(plan.FAULTS)
    assert {night.order for night in year} == set(plan.ORDERS)
    bad = [night for night in year if night.rule is not None]
    assert 40 < len(bad) < 75
