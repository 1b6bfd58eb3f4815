"""One simulated night: a release, a fault, the bump, the morning after it, and what an operator does."""

import os
import time
from contextlib import suppress
from pathlib import Path

from host_of_year import DAY, FOUR, Violation, Year
from plan import Night

from t3flow.engine.journal import Run
from t3flow.host.backups import replaced
from t3flow.host.pruning import ACCEPTED
from t3flow.host.records import facts
from t3flow.periodic import NEXT_BUMP

SCHEDULED_SECONDS = 100.0
BALLAST = "ballast"
LEFT_FREE_BYTES = 24 * 1024 * 1024

MISSED = ("updated", "gate_failed", "rolled_back")
"""Outcomes without a release in this night: the registry may have been down when the last one came."""


def play(year: Year, night: Night, days_each: float) -> str:
    """Play a night and its morning. Return what happened in one line. Raise Violation."""
    year.to(night.number, 3.9, days_each)
    what = come_and_go(year, night)
    year.mark(night.number)
    busy = [user for user in year.box.users if night.draw.random() < night.busy]
    for user in busy:
        year.start_turn(user)
    if night.release:
        version = year.release(night)
        what.append(f"{night.release} {version.rsplit('.', 1)[1]}")
    run = with_fault(year, night)
    what += [night.fault, "scheduled" if night.scheduled else "", run.outcome or run.status]
    if run.outcome == "updated":
        year.new.clear()
    if not night.fault:
        is_expected(night, run)
    year.to(night.number, 8, days_each)
    year.settle()
    marks_are_kept(year)
    if night.order and night.order != "cancel":
        what.append(order(year, night))
        year.settle()
    return " ".join(word for word in what if word)


def is_expected(night: Night, run: Run) -> None:
    """Check the outcome of an undisturbed bump. A build that only users see fail is `updated` while all of them are busy."""
    expected = {
        "": ("up_to_date", "refused_rejected", "refused_downgrade", *MISSED),
        "good": ("updated",),
        "gate": ("gate_failed",),
        "users": ("rolled_back", "updated"),
    }
    cancelled = ("cancelled",) if night.order == "cancel" else ()
    if run.outcome not in (*expected[night.release], *cancelled):
        raise Violation(f"outcome {run.outcome} of {night.release or 'no'} release: {run.result}")


def come_and_go(year: Year, night: Night) -> list[str]:
    """Let a user leave and another one join."""
    what = []
    if night.leaves and len(year.box.users) > 2:
        user = night.draw.choice(year.box.users)
        year.leave(user)
        what.append(f"-{user}")
    if night.joins or (night.leaves and len(year.box.users) < len(year.idle)):
        year.join()
        what.append(f"+{year.box.users[-1]}")
    return what


def with_fault(year: Year, night: Night) -> Run:
    """Run the bump of a night with its fault, and return it."""
    if night.fault == "upgrade":
        year.upgrade()
    elif night.fault == "registry down":
        year.registry().set_faults(down=True)
    elif night.fault == "incomplete release":
        year.registry().set_faults(only="tarball", status=404)
    elif night.fault == "full disk":
        fill(year.box.top / "disk")
    elif night.fault == "dispatch down":
        year.box.end("dispatch")
    try:
        run = start(year, night)
        disturb(year, night, run)
        return year.ended(run)
    finally:
        year.registry().set_faults()
        with suppress(FileNotFoundError):
            (year.box.top / "disk" / BALLAST).unlink()
        if night.fault == "dispatch down":
            year.box.start_dispatch()


def start(year: Year, night: Night) -> str:
    """Start the bump, by the schedule or as an operator, and return its id."""
    if not night.scheduled or night.fault:
        return year.enqueue("bump")
    known = {run.id for run in year.journal.runs("workflow = 'bump'")}
    four = time.time() // DAY * DAY + FOUR
    year.clock.advance(four - 60 - time.time())

    def is_planned() -> bool:
        return bool((facts.read(year.journal, NEXT_BUMP) or {}).get("due") == four)

    def started() -> list[str]:
        return [run.id for run in year.journal.runs("workflow = 'bump'") if run.id not in known]

    year.box.until(is_planned, "the bump is planned for today", SCHEDULED_SECONDS)
    year.clock.advance(max(0, four - 1 - time.time()))
    year.box.until(started, "the schedule starts the bump", SCHEDULED_SECONDS)
    return started()[0]


def disturb(year: Year, night: Night, run: str) -> None:
    """Kill the consumer, cancel the run, or set the clock while the run is at work."""
    for seconds in night.kill_after_seconds:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not year.over(run):
            time.sleep(0.05)
        year.box.kill("consumer")
        year.start_consumer()
    if night.order == "cancel":
        time.sleep(night.draw.uniform(0.2, 12.0))
        year.box.t3flow("cancel", run)
    if night.fault in ("clock back", "clock ahead"):
        time.sleep(night.draw.uniform(0.2, 5.0))
        year.clock.advance(3600 if night.fault == "clock ahead" else -3600)


def fill(disk: Path) -> None:
    """Leave little room on the disk of t3flow's folders."""
    status = os.statvfs(disk)
    free = status.f_bavail * status.f_frsize - LEFT_FREE_BYTES
    with (disk / BALLAST).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free))


def marks_are_kept(year: Year) -> None:
    """Check that each user's database has what was written last."""
    for user, mark in year.marks.items():
        if (found := year.mark_of(year.box.database(user))) != mark:
            raise Violation(f"the database of {user} is of night {found}, not {mark}")


# What operators do --------------------------------------------------------------------------------------------------


def order(year: Year, night: Night) -> str:
    """Carry out an order and check what it promises. Return it in words."""
    return {
        "rollback": rollback_all,
        "rollback user": rollback_user,
        "restore": restore,
        "drop": drop,
        "dry run": dry_run,
    }[night.order](year, night)


def rollback_all(year: Year, night: Night) -> str:
    """Roll all users back to the version before: it must be possible for each user who has a snapshot of the move to it."""
    due = {}
    for user in year.box.users:
        to = [each for each in year.snapshots() if each.user == user and each.version == year.box.assigned(user)]
        if any(each.written_by != each.version for each in to):
            due[user] = True
    known = {user: replaced_names(year, user) for user in due}
    run = year.ended(year.enqueue("rollback"))
    results = {user: entry["result"] for user, entry in run.result.get("users", {}).items()}
    accepted = facts.read(year.journal, ACCEPTED) or []
    for user in due:
        if results.get(user) == "rolled_back":
            rolled_back(year, user, known[user])
        elif results.get(user) != "untouched" or not accepted:
            raise Violation(f"rollback left {user} as {results.get(user)}: {run.result}")
    if due and "rolled_back" not in results.values():
        raise Violation(f"rollback rolled nobody back: {run.result}")
    return f"rollback {run.outcome} ({list(results.values()).count('rolled_back')} of {len(results)})"


def rollback_user(year: Year, night: Night) -> str:
    """Roll one user back to any version of which a snapshot remains."""
    choices = [each for each in year.snapshots() if each.written_by not in ("", year.box.assigned(each.user))]
    if not choices:
        return ""
    chosen = night.draw.choice(choices)
    known = replaced_names(year, chosen.user)
    words = ("--to", chosen.written_by, "--user", chosen.user)
    run = year.ended(year.enqueue("rollback", *words))
    result = run.result.get("users", {}).get(chosen.user, {})
    if result.get("result") != "rolled_back" or year.box.assigned(chosen.user) != chosen.written_by:
        raise Violation(f"rollback {' '.join(words)}: {run.outcome} {result or run.result}")
    rolled_back(year, chosen.user, known)
    return f"rollback {chosen.user} to {chosen.written_by.rsplit('.', 1)[-1]}"


def restore(year: Year, night: Night) -> str:
    """Put any snapshot back, together with the version that wrote it."""
    if not (choices := year.snapshots()):
        return ""
    chosen = night.draw.choice(choices)
    wanted = year.mark_of(Path(chosen.path))
    known = replaced_names(year, chosen.user)
    done = year.box.t3flow("restore", chosen.user, Path(chosen.path).name, "--wait", timeout_seconds=200)
    if done.returncode != 0:
        raise Violation(f"restore {chosen.user} {Path(chosen.path).name}: {done.stdout} {done.stderr}")
    rolled_back(year, chosen.user, known, wanted)
    return f"restore {chosen.user} of night {wanted}"


def replaced_names(year: Year, user: str) -> set[str]:
    """Return the names of the replaced sets in a home."""
    return {path.name for path in year.box.database(user).parent.glob(f"{replaced.PREFIX}*")}


def rolled_back(year: Year, user: str, known: set[str], wanted: int | None = None) -> None:
    """Check the database of a user who was taken back: it stayed, or the one before is preserved with all of its data."""
    if wanted is None and year.mark_of(year.box.database(user)) == year.marks[user]:
        return  # the earlier version knows the present database
    new = replaced_names(year, user) - known
    if not any(
        year.mark_of(year.box.database(user).parent / name / "state.sqlite") == year.marks[user] for name in new
    ):
        raise Violation(f"what {user} wrote in night {year.marks[user]} is in none of {sorted(new)}")
    is_ = year.mark_of(year.box.database(user))
    if wanted is not None and is_ != wanted:
        raise Violation(f"the database of {user} is of night {is_}, not {wanted}")
    year.marks[user] = is_


def drop(year: Year, night: Night) -> str:
    """Drop a replaced set that is old enough, as a person does."""
    host = year.host
    old = [
        each
        for user in year.box.users
        for each in replaced.list_replaced(host, user)
        if time.time() - each.created > replaced.KEEP_SECONDS + 86400
    ]
    if not old:
        return ""
    chosen = night.draw.choice(old)
    done = year.box.t3flow("backups", "drop", chosen.user, chosen.name)
    if done.returncode != 0:
        raise Violation(f"backups drop {chosen.user} {chosen.name}: {done.stderr}")
    return f"drop {chosen.name} of {chosen.user}"


def dry_run(year: Year, night: Night) -> str:
    """Try the present release without a change."""
    return f"dry run: {year.ended(year.enqueue('bump', '--dry-run')).outcome}"
