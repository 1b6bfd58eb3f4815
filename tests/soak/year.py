"""A year of nights on one host, with real parts and a wall clock of its own (shifted.py).

usage: python tests/soak/year.py [--nights N] [--users N] [--seed N] [--minutes M] [--days-each D] [--keep FOLDER]

Each night has a release or none, a fault or none, and at times
an order of an operator (plan.py); after each, the invariants hold (checks.py); at the end, nothing has grown (watched.py). The same seed plays
the same plan. Exits 1 at the first violation and keeps the journal and the logs; exits 2 if this machine cannot shift a clock.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "crash")]

import plan  # noqa: E402
import shifted  # noqa: E402
from loguru import logger  # noqa: E402

from t3flow.sandbox import enter  # noqa: E402

if TYPE_CHECKING:
    from host_of_year import Year

FULL_CHECK_EVERY = 25
MANY_RUNS = 10_000
"""Runs with which `status` is measured in the end."""
BYTES_PER_USER, OTHER_BYTES = 64 * 1024 * 1024, 256 * 1024 * 1024


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="year.py", description="a year of nights on one host")
    parser.add_argument("--nights", type=int, default=400)
    parser.add_argument(
        "--first", type=int, default=1, help="number of the first night, which decides what happens in it"
    )
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument(
        "--minutes", type=float, default=0, help="stop after so long, whatever the number of nights; 0 = never"
    )
    parser.add_argument("--days-each", type=float, default=1.0, help="days from one night to the next")
    parser.add_argument("--keep-days", type=int, default=90, help="journal.keep_days")
    parser.add_argument("--replaced-days", type=int, default=30, help="backup.replaced_days")
    parser.add_argument("--seeds", default="largest", help="gate.seeds")
    parser.add_argument("--keep", type=Path, default=Path("/var/tmp"), help="where evidence goes; /tmp is in memory")
    parser.add_argument("--log", type=Path, help="copy the logs into this new folder in the end")
    parser.add_argument("--top", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def play(given: argparse.Namespace) -> int:
    """Play the nights. Return the exit code."""
    from host_of_year import Year

    print(f"seed {given.seed}: {given.nights} nights, {given.users} users, {given.days_each:g} days each", flush=True)
    logger.remove()  # this process looks with t3flow's own functions
    year = Year(given.top, given.users, given.keep_days, given.replaced_days, given.seeds)
    history: list[dict[str, float]] = []
    try:
        play_nights(given, year, history)
    except AssertionError as error:
        at = given.first + len(history)
        folder = given.keep / f"t3soak-{given.seed}-{at}"
        year.keep_evidence(folder)
        print(f"VIOLATION in night {at}: {error}", file=sys.stderr)
        print(f"{plan.night(given.seed, at)}; evidence: {folder}; repeat with --seed {given.seed}", file=sys.stderr)
        return 1
    finally:
        year.close()
    return 0


def play_nights(given: argparse.Namespace, year: "Year", history: list[dict[str, float]]) -> None:
    """Play the nights, add what is watched to `history`, and print the table at the end, whatever the end is. Raise Violation."""
    import nights
    import watched
    from checks import Checks
    from host_of_year import Violation

    began, checks = time.monotonic(), Checks(year)
    first_ratio, times = 0.0, 3 if given.nights < watched.MANY else 9
    try:
        for number in range(given.first, given.first + given.nights):
            at = time.monotonic()
            what = nights.play(year, plan.night(given.seed, number), given.days_each)
            played = time.monotonic()
            checks.night(all_snapshots=number % FULL_CHECK_EVERY == 0)
            history.append(watched.measure(year))
            print(f"night {number}: {what} [{played - at:.1f} s, checks {time.monotonic() - played:.1f} s]", flush=True)
            first_ratio = first_ratio or watched.status_ratio(year, times)
            if given.minutes and time.monotonic() - began > given.minutes * 60:
                break
        if given.log:
            shutil.copytree(given.top / "log", given.log)
        checks.night(all_snapshots=True)
    finally:
        minutes = (time.monotonic() - began) / 60
        grown = watched.growth(history)
        print(watched.table(history, grown))
        print(
            f"{len(history)} nights in {minutes:.1f} min ({len(history) / minutes:.1f} a minute), {checks.restored} snapshots restored, "
            f"{year.consumers} consumers, {len(year.gone)} users left",
            flush=True,
        )
    last_ratio = watched.status_ratio(year, times)
    print(f"status: {first_ratio:.1f} × a bare start of Python on day one, {last_ratio:.1f} × in the end")
    if len(history) >= watched.MANY:
        runs = watched.fill_runs(year, MANY_RUNS)
        filled = watched.status_ratio(year, times)
        print(f"status with {runs} runs: {filled:.1f} × a bare start of Python")
        if (slower := max(last_ratio, filled) / first_ratio) > watched.STATUS_TOLERANCE:
            grown["status"] = f"takes {slower:.2f} × as long as on day one"
    checks.notice_damage()
    if grown:
        raise Violation("; ".join(f"{name} {text}" for name, text in grown.items()))


def main() -> int:
    """Enter the sandbox, then the namespace with its own clock, and play."""
    if (reason := shifted.why_not()) and shifted.INSIDE not in os.environ:
        print(f"soak: skipped, because {reason}", file=sys.stderr)
        return 2
    given = arguments()
    words = [sys.executable, str(HERE / "year.py"), *sys.argv[1:]]
    enter.enter(words, memory=True)
    if given.top is None:
        os.chmod(top := Path(tempfile.mkdtemp(prefix="t3y-", dir="/tmp")), 0o755)
        words += ["--top", str(top), "--seed", str(given.seed)]
        shifted.enter(top, OTHER_BYTES + given.users * BYTES_PER_USER, words)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        return play(given)
    finally:
        shutil.rmtree(given.top, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
