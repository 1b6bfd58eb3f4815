"""Kill the consumer at each state-changing system call of each scenario, start it again, and check the result.

usage, with the project's Python:  tests/crash/sweep.py list | all | spread | point | twice | random | power | fail   [OPTION...]

The scenarios are bumps, and (except for `random` and `fail`) rollback, restore, adopt and its undo (not for `power`); --scenario selects one, `bumps` or `verbs`.
`list` prints the points; `all` plays each of them, killing the consumer alone and with all its children; `spread` plays as many as fit into --seconds,
chosen by --seed; `point` plays one, given as a line of `list`; `twice` kills at --count points and again during the recovery; `random` kills
--count times anywhere in bumps of ten users; `power` cuts the power at --count points and boots everything again; `fail` makes --count
writes fail. Each prints what went wrong and exits 1.
"""

import argparse
import errno
import json
import multiprocessing
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "scenarios"))
sys.path.insert(0, str(Path(__file__).parent))

from bumps import attempt_fault
from plays import CALLS, PLAYS, attempt, host_for, rig_for
from power import VARIANTS
from rig import IDLE, MANY, Attempt, Rig
from takeover import TAKEOVERS
from tracer import ANY, FAILING, Point
from verbs import RESTORES, ROLLBACKS

SWEPT = ("good", "gate", "undo", "freeze")
VERBS = (*ROLLBACKS, *RESTORES, *TAKEOVERS)
CUT = ("alone", "gate", "undo", "freeze")
CUT_TOO = ("rollback", "rollback_fails", *RESTORES)
"""Scenarios for a power cut: none in which a turn or server must survive until the run ends."""
GROUPS = {"bumps": SWEPT, "verbs": VERBS}
RETRIES = 5
"""Attempts for a point that is not reached because of thread timing."""
CHAIN = 4
"""Kills of `random` in one bump."""
NPM_STEPS = ("resolve", "stage")
ALIKE = {
    "bump": (
        "frozen_reason",
        "resolve",
        "guard",
        "assign_explicitly",
        "open_scratch",
        "stage",
        "survey_users",
        "choose_seeds",
    ),
    "rollback": ("freeze_tracking", "survey_users", "plan_rollback", "back_up"),
    "adopt": ("survey_host", "open_scratch", "known_schemas", "import_install", "stage", "run_trials", "decide"),
}
"""Steps that are the same in all scenarios of a workflow, after the same steps."""
FIRST_OF_ITS_KIND = (SWEPT[0], *list(ROLLBACKS)[:1], *list(TAKEOVERS)[:1])
Task = tuple[str, list[Point | int], str]


def staged(name: str, kills: list[Point | int]) -> bool:
    """Return whether the slot may exist before an attempt: not if the kill is during its creation."""
    known = all(isinstance(kill, Point) or name in VERBS for kill in kills)
    return known and not any(f" {step}." in str(kill) for kill in kills for step in NPM_STEPS)


def worth(lines: list[dict[str, Any]]) -> list[Point]:
    """Select points from all calls of a run: all calls of t3flow except most page writes, and some of other programs.

    Of the pages written to a file other than the journal, and of another program's calls, take the first, the middle and the last.
    """
    groups: dict[Any, list[Point]] = defaultdict(list)
    for number, line in enumerate(lines):
        point = Point(line["mark"], line["who"], line["call"], line["number"])
        ours = point.who in ("worker", "thread", "helper")
        if not ours:
            groups[point.mark, line["pid"], point.who].append(point)
        elif point.call == "pwrite64" and "journal.db" not in line["about"]:
            groups[point.mark, point.who, line["about"]].append(point)
        else:
            groups[number].append(point)
    taken: list[Point] = []
    for group in groups.values():
        taken += dict.fromkeys([group[0], group[len(group) // 2], group[-1]])
    return list(dict.fromkeys(taken))


def points_of(rig: Rig, name: str) -> list[Point]:
    """Return the points of an undisturbed run with a real npm that a second run also has. Others depend on timing."""
    lists = []
    for _ in range(2):
        found = attempt(rig, name, [], record=True, staged=False)
        if found.wrong:
            raise SystemExit(f"{name}: the undisturbed run is wrong: {found.wrong}")
        lists.append(worth(found.points))
    again = {(point.mark, point.who) if point.mark != ANY else point for point in lists[1]}
    return [point for point in lists[0] if point in again or (point.mark, point.who) in again]


class Crew:
    """A pool of processes with rigs that play tasks until none is left or the time is over."""

    def __init__(self, jobs: int, keep: Path, deadline: float, idle: list[str]) -> None:
        self.jobs, self.keep, self.deadline, self.idle = jobs, keep, deadline, idle

    def take(self, tasks: list[Task]) -> Iterator[tuple[Task, Attempt]]:
        """Yield each task with its result when it is done."""
        queue: Any = multiprocessing.Queue()
        results: Any = multiprocessing.Queue()
        for task in tasks:
            queue.put(task)
        workers = [
            multiprocessing.Process(
                target=work, args=(queue, results, self.keep / str(number), self.deadline, self.idle)
            )
            for number in range(self.jobs)
        ]
        for worker in workers:
            queue.put(None)
            worker.start()
        working = len(workers)
        while working:
            result = results.get()
            if result is None:
                working -= 1
            else:
                yield result
        queue.cancel_join_thread()
        for worker in workers:
            worker.join()


class Bench:
    """Rigs for tasks, one for each kind of host. A rig is replaced after a failure."""

    def __init__(self, keep: Path, idle: list[str] = IDLE) -> None:
        self.keep, self.idle = keep, idle
        self.rigs: dict[str, Rig] = {}

    def rig(self, name: str) -> Rig:
        """Return the rig of a scenario."""
        kind = host_for(name)
        if kind not in self.rigs:
            self.rigs[kind] = rig_for(name, self.idle)
        return self.rigs[kind]

    def play(self, task: Task) -> Attempt:
        """Play a task and return the result. Retry a point that is not reached."""
        name, kills, whom = task
        for _ in range(RETRIES):
            rig = self.rig(name)
            if whom.startswith("errno:"):
                assert isinstance(kills[0], Point)
                found = attempt_fault(rig, name, kills[0], whom)
            else:
                found = attempt(rig, name, kills, whom, staged=staged(name, kills))
            if found.wrong:
                rig.keep(self.keep / f"{name}-{time.time():.0f}")
                rig.kill_everything()
                self.rigs.pop(host_for(name)).close()
            if found.wrong or found.killed or found.reached:
                break
        return found

    def take(self, tasks: Iterable[Task], seconds: float) -> Iterator[tuple[Task, Attempt]]:
        """Yield each task with its result, until none is left or the time is over."""
        deadline = time.time() + seconds
        for task in tasks:
            if time.time() >= deadline:
                break
            yield task, self.play(task)

    def close(self) -> None:
        """Close all rigs."""
        for rig in self.rigs.values():
            rig.close()


def work(queue: Any, results: Any, keep: Path, deadline: float, idle: list[str]) -> None:
    """Play tasks in one process."""
    bench = Bench(keep, idle)
    try:
        for result in bench.take(iter(queue.get, None), deadline - time.time()):
            results.put(result)
    finally:
        bench.close()
        results.put(None)


def run_tasks(tasks: list[Task], jobs: int, keep: Path, seconds: float, idle: list[str] = IDLE) -> int:
    """Play tasks in this many processes, report the results, and return the exit status."""
    return tell(len(tasks), Crew(jobs, keep, time.time() + seconds, idle).take(tasks))


def tell(listed: int, taken: Iterable[tuple[Task, Attempt]]) -> int:
    """Report results as they arrive, and return the exit status."""
    began = time.time()
    done = reached = killed = 0
    wrong: list[str] = []
    outcomes: Counter[str] = Counter()
    repeated: Counter[str] = Counter()
    resumed: list[float] = []
    for task, found in taken:
        done += 1
        reached += found.reached
        killed += found.killed
        outcomes[f"{found.scenario} {found.outcome}"] += 1
        repeated.update(found.repeated)
        if found.resumed_seconds is not None:
            resumed.append(found.resumed_seconds)
        if found.wrong:
            wrong.append(spell(task))
            print(f"WRONG {spell(task)}\n  " + "\n  ".join(found.wrong), flush=True)
        elif not found.reached:
            print(f"not reached {spell(task)}", flush=True)
        if done % 25 == 0:
            print(f"{done} of {listed} after {time.time() - began:.0f} s, {len(wrong)} wrong", flush=True)
    minutes = (time.time() - began) / 60
    print(
        f"\n{listed} listed, {done} taken, {reached} reached, {killed} kills, {len(wrong)} wrong, {minutes:.1f} minutes"
    )
    print("outcomes:", dict(outcomes))
    print("steps that ran again:", dict(repeated))
    if resumed:
        resumed.sort()
        print(
            f"from the consumer's start to the resumed step: p50 {resumed[len(resumed) // 2]:.2f} s, most {resumed[-1]:.2f} s"
        )
    return 1 if wrong else 0


def spell(task: Task) -> str:
    """Return a task as a line for `point`."""
    name, kills, whom = task
    return json.dumps(
        {"scenario": name, "whom": whom, "kills": [asdict(kill) if isinstance(kill, Point) else kill for kill in kills]}
    )


def read(line: str) -> Task:
    """Return the task of a line."""
    fields = json.loads(line)
    return (
        fields["scenario"],
        [kill if isinstance(kill, int) else Point(**kill) for kill in fields["kills"]],
        fields["whom"],
    )


def all_points(names: list[str]) -> list[Task]:
    """Return all points of all scenarios: the consumer killed alone and with its children, or once if it has none.

    The common beginning of scenarios is played only in the first of a kind.
    """
    tasks: list[Task] = []
    for _, group in groupby(names, host_for):
        rig: Rig | None = None
        for name in group:
            rig = rig or rig_for(name, IDLE)
            try:
                points = points_of(rig, name)
            except BaseException:
                rig.close()
                raise
            tasks += tasks_at(name, points, name in (names[0], *FIRST_OF_ITS_KIND))
        if rig is not None:
            rig.close()
    return tasks


def tasks_at(name: str, points: list[Point], is_first: bool) -> list[Task]:
    """Return the points of a scenario as tasks; `is_first` adds the points that all scenarios of its kind have."""
    tasks: list[Task] = []
    with_children = {point.mark for point in points if point.who not in ("worker", "thread")} | {ANY}
    for point in points:
        alike = any(f"{kind} {step}." in point.mark for kind in ALIKE for step in ALIKE[kind])
        if is_first or not (alike or "drain " in point.mark):
            tasks.append((name, [point], "all"))
            if point.mark in with_children:
                tasks.append((name, [point], "one"))
    return tasks


def dice_of_the_hour() -> random.Random:
    """For tests: other points each hour. The head of a test run names the seed; T3CRASH_SEED takes those of another time again."""
    return random.Random(int(os.environ["T3CRASH_SEED"]))


def twice(dice: random.Random, tasks: list[Task], count: int) -> list[Task]:
    """Return some of the tasks with a second kill soon after the consumer's restart."""
    return [(name, [*kills, dice.randrange(1, 60)], whom) for name, kills, whom in dice.sample(tasks, count)]


def power_cuts(dice: random.Random, tasks: list[Task], count: int) -> list[Task]:
    """Return some of the tasks with a power cut instead of a kill."""
    return [
        (name, kills, f"power:{VARIANTS[number % len(VARIANTS)]}:{dice.randrange(10**6)}")
        for number, (name, kills, _) in enumerate(dice.sample(tasks, count))
    ]


def failures(dice: random.Random, tasks: list[Task], count: int) -> list[Task]:
    """Return some of the writes as failures: no space, read-only, I/O error; once or lasting."""
    able = [
        task
        for task in tasks
        if isinstance(kill := task[1][0], Point)
        and kill.call in FAILING
        and kill.who in ("worker", "thread", "helper")
        and staged(task[0], task[1])
    ]
    kinds = [
        f"errno:{number}:{how}" for number in (errno.ENOSPC, errno.EROFS, errno.EIO) for how in ("once", "lasting")
    ]
    return [(name, kills, dice.choice(kinds)) for name, kills, _ in dice.sample(able, min(count, len(able)))]


def random_chains(dice: random.Random, names: list[str], count: int) -> list[Task]:
    """Return bumps of ten users with several kills each, at any call."""
    return [
        (
            dice.choice(names),
            [dice.randrange(1, dice.choice([100, 300, 1000])) for _ in range(CHAIN)],
            dice.choice(["one", "all"]),
        )
        for _ in range(-(-count // CHAIN))
    ]


def anywhere(dice: random.Random, names: Iterable[str], count: int) -> list[Task]:
    """Return this many rounds of scenarios with one kill each, at any call except page writes, of the consumer alone or of all."""
    return [
        (name, [dice.randrange(1, CALLS[name])], dice.choice(["one", "all"]))
        for _ in range(count)
        for name in dice.sample(sorted(names), len(set(names)))
    ]


def main() -> int:
    """Parse the arguments and run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["list", "all", "spread", "point", "twice", "random", "power", "fail"])
    parser.add_argument("line", nargs="?", help="for `point`: a line of `list`, or - to read lines from standard input")
    parser.add_argument("--scenario", action="append", choices=[*PLAYS, *GROUPS])
    parser.add_argument("--seconds", type=float, default=5400)
    parser.add_argument("--seed", type=int, default=int(time.time()) // 3600)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--keep", type=Path, default=Path("/tmp/t3flow-crash"))
    given = parser.parse_args()
    default = {"power": (*CUT, *CUT_TOO), "fail": CUT, "random": SWEPT}.get(given.what, (*SWEPT, *VERBS))
    names = [each for name in given.scenario or default for each in GROUPS.get(name, (name,))]
    dice = random.Random(given.seed)
    if given.what == "point":
        tasks = [read(line) for line in (sys.stdin if given.line == "-" else [given.line])]
    elif given.what == "random":
        tasks = random_chains(dice, names, given.count)
    else:
        tasks = all_points(names)
    if given.what == "list":
        print("\n".join(spell(task) for task in tasks))
        return 0
    if given.what in ("spread", "twice", "random", "power", "fail"):
        print(f"seed {given.seed}")
    if given.what == "spread":
        dice.shuffle(tasks)
    if given.what == "power":
        tasks = power_cuts(dice, tasks, given.count)
    if given.what == "fail":
        tasks = failures(dice, tasks, given.count)
    if given.what == "twice":
        tasks = twice(dice, tasks, given.count)
    return run_tasks(
        tasks, min(given.jobs, len(tasks)), given.keep, given.seconds, MANY if given.what == "random" else IDLE
    )


if __name__ == "__main__":
    sys.exit(main())
