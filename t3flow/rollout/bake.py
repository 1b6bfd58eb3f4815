"""Watch real pairings after a version was assigned: the last check for what gate and verification could not see.

One fact in the journal holds the watch: its run, version, end, the users on it, the cursor in the dispatch's log, and the counts.
"""

import secrets
import shlex
import time
from collections import Counter
from contextlib import suppress
from functools import cache
from typing import Any, TypedDict

from loguru import logger

from t3flow import T3flowError
from t3flow.engine.errors import Interrupted, NotYet
from t3flow.engine.runs import new_run
from t3flow.engine.step import current_run, step
from t3flow.host import management, slots
from t3flow.host.host import Host, current_host
from t3flow.host.pairing import dispatch_log, log_lines, own_activity, probe
from t3flow.host.pairing.log_lines import Line
from t3flow.host.records import facts, holds
from t3flow.host.records.facts import BAKE, BAKE_CUT_SHORT
from t3flow.host.services.manager import ServiceError
from t3flow.rollout import suspicion
from t3flow.rollout.suspicion import SPAN_SECONDS, Counted, Suspicion

POLL_SECONDS = 5.0
ROLLBACK_PRIORITY = 10


class Verdict(TypedDict):
    """How a watch ended. `is_broken`: users cannot pair; `roll_back`: the users to return to their previous version."""

    is_broken: bool
    reason: str
    roll_back: list[str]


@step()
def begin_bake(version: str, users: list[str]) -> str:
    """Watch the pairings of these users, who were just moved to the version. Return the watching run, "" for none.

    A watch of the same version is extended with them and for as long from now; one of another version is replaced. Idempotent: the fact is written
    before its run is created, so that a repeat finds the id and creates what is missing.
    """
    host = current_host()
    if not users or not host.settings.bake.minutes or not host.settings.dispatch.log:
        return ""
    now = time.time()
    fresh: dict[str, Any] = {
        "run": f"bake-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}-{secrets.token_hex(3)}",
        "version": version,
        "users": {},
        "cursor": dispatch_log.end_of_log(host),
        "counted": [],
        "problem": "",
        "verdict": None,
    }
    known = facts.read(host.journal, BAKE)
    ended = known["run"] if known and host.journal.runs("id = ? and status != 'running'", known["run"]) else None

    def change(known: Any) -> dict[str, Any]:
        watch = fresh
        if known and known["version"] == version and known["verdict"] is None and known["run"] != ended:
            watch = known
        until = now + host.settings.bake.minutes * 60
        return {**watch, "until": until, "users": {**dict.fromkeys(users, now), **watch["users"]}}

    run = str(facts.change(host.journal, BAKE, change)["run"])
    if new_run(host.journal, "bake", {"version": version}, run_id=run):
        host.hint(run)
    return run


@step(interruptible=True)
def watch_pairings(version: str) -> Verdict:
    """Poll the dispatch's log as a delayed task until the time is over or too many pairings have failed.

    Counts and cursor are written in one commit: after a crash before it the same lines are read again, after it never. A crash can change only the
    time of a file's lines, which is when they were first read. A verdict is written in that commit too and found by a repeat. Before a version is
    blamed, users are paired now: whether the dispatch serves other users, and whether the users who failed still fail.
    """
    host, run = current_host(), current_run()
    known = facts.read(host.journal, BAKE)
    if known is None or known["run"] != run:
        return _taken_over()
    new, cursor, more, problem = read_log(host, known)
    if problem and problem != known["problem"]:
        logger.warning("watching pairings on {}: {}", version, problem)
    suspected = suspicion.suspect(host, version, added(known["counted"], new))
    finding = suspicion.check(host, version, suspected) if suspected else None
    if finding and finding.dispatch_at_fault:
        logger.error(
            "GATE INCONCLUSIVE: watching pairings on {}: {}; nothing is frozen or rejected", version, finding.reason
        )
        problem = finding.reason
    elif finding and not finding.is_broken:
        logger.info("watching pairings on {}: {}", version, finding.reason)

    def change(current: Any) -> Any:
        if current is None or current["run"] != run or current["verdict"] is not None:
            return current
        counted = [] if finding else added(current["counted"], new)  # what is no fault of the version counts no more
        is_broken = suspected and finding and finding.is_broken
        verdict = _broken(host, version, suspected) if suspected and is_broken else _left(host, version)
        recent = [entry for entry in counted if entry[0] > time.time() - SPAN_SECONDS]
        until = min(current["until"], time.time() + host.settings.bake.minutes * 60)  # the clock may have been set back
        if verdict is None and time.time() >= until:
            verdict = _passed(current, problem)
        return {**current, "cursor": cursor, "counted": recent, "problem": problem, "verdict": verdict, "until": until}

    after = facts.change(host.journal, BAKE, change, synced=False)
    if after is None or after["run"] != run:
        return _taken_over()
    if after["verdict"] is not None:
        verdict: Verdict = after["verdict"]
        return verdict
    until = time.strftime("%H:%M:%S", time.localtime(after["until"]))
    failures = sum(entry[3] for entry in after["counted"])
    at = time.time() if more else min(time.time() + POLL_SECONDS, after["until"])
    raise NotYet(at, problem or f"watching until {until}; {failures} failed in the last 10 minutes")


@step()
def end_bake() -> None:
    """Remove the watch if it is this run's, and record whether it had a verdict, as other hosts may wait for that. Idempotent."""
    run, journal = current_run(), current_host().journal
    watch = facts.read(journal, BAKE)
    if not watch or watch["run"] != run:
        return
    version, is_cut_short = watch["version"], watch["verdict"] is None
    facts.change(
        journal, BAKE_CUT_SHORT, lambda known: version if is_cut_short else None if known == version else known
    )
    facts.change(journal, BAKE, lambda known: None if known and known["run"] == run else known)


@step()
def begin_rollback(users: list[str]) -> str:
    """Start an urgent rollback of these users. Idempotent: a repeat finds the run."""
    host = current_host()
    run = f"rollback-of-{current_run()}"
    if new_run(host.journal, "rollback", {"users": users, "to": None}, priority=ROLLBACK_PRIORITY, run_id=run):
        host.hint(run)
    return run


def read_log(host: Host, known: dict[str, Any]) -> tuple[Counted, log_lines.Cursor, bool, str]:
    """Return what counts since the last look, the new cursor, whether there is more, and why nothing could be read."""
    try:
        part = dispatch_log.read(host, known["cursor"])
        return _countable(host, known, part.lines), part.cursor, part.more, ""
    except Interrupted:
        raise
    except T3flowError as error:
        return [], known["cursor"], False, str(error)


def _managed(host: Host, users: list[str]) -> set[str]:
    """Return the users that t3flow manages; all of them if the service manager does not answer, as a log line counts once or never."""
    try:
        return {user for user, (_, why) in management.survey(host, users).items() if not why}
    except ServiceError as error:
        logger.debug("{}", error)
        return set(users)


def _countable(host: Host, known: dict[str, Any], lines: list[Line]) -> Counted:
    """Return what counts against the version: lines of managed users of the map whose port is their own, except pairings by t3flow itself.

    Only users on the version count, and only from their move on. Other users fail and fall back for other reasons.
    """
    names = [entry.name for entry in host.user_map().users]
    mapped = _managed(host, names) if lines else set()

    @cache
    def is_on_it(user: str) -> bool:
        with suppress(slots.SlotError):
            return slots.effective(host.settings.paths.versions_dir, user) == str(known["version"])
        return False

    @cache
    def is_shut_out(user: str) -> bool:
        with suppress(T3flowError):
            return bool(probe.port_blocker(host, user))
        return False

    def counts(line: Line) -> bool:
        if line.user not in mapped or own_activity.is_own(host.journal, line.user, line.earliest, line.latest):
            return False
        if is_shut_out(line.user) or not is_on_it(line.user):
            return False
        moved = known["users"].get(line.user, line.latest + 1 if line.kind == "fallback" else 0.0)
        return bool(line.earliest >= moved)

    tally = Counter(lines)
    return [[line.latest, line.kind, line.user, number] for line, number in tally.items() if counts(line)]


def added(counted: Counted, new: Counted) -> Counted:
    """Return all entries in the order of time; those of one second become one entry, so that a flood stays small."""
    tally: Counter[tuple[int, str, str]] = Counter()
    for at, kind, user, number in [*counted, *new]:
        tally[int(at), kind, user] += number
    return [[*key, number] for key, number in sorted(tally.items())]


def _broken(host: Host, version: str, found: Suspicion) -> Verdict:
    """Return the verdict on a version that is at fault, and the users to roll back."""
    users = found.users
    counts = ", ".join(f"{user} {number}" for user, number in users.most_common(8)) + (", …" if len(users) > 8 else "")
    reason = (
        f"{users.total()} {found.words} within 10 minutes on {version} ({counts}; {found.on_it} users are on it), "
        "more than bake.max_failures allows"
    )
    versions_dir = host.settings.paths.versions_dir
    held = holds.holds(host.journal)
    concerned = sorted(user for user in users if slots.effective(versions_dir, user) == version and user not in held)
    if host.settings.bake.rollback and concerned:
        action = f"rolling back {', '.join(concerned)} (t3flow runs)"
    elif concerned:
        action = f"to go back: t3flow enqueue rollback {' '.join(f'--user {shlex.quote(user)}' for user in concerned)}"
    else:
        action = "no user concerned is on it any more: check t3flow verify and the dispatch's log"
    roll_back = concerned if host.settings.bake.rollback else []
    return {"is_broken": True, "reason": f"{reason}; {action}; to resume: t3flow unfreeze", "roll_back": roll_back}


def _passed(watch: dict[str, Any], problem: str) -> Verdict:
    """Return the verdict of a watch whose time is over."""
    counted = sum(entry[3] for entry in watch["counted"])
    found = f"not watched: {problem}" if problem else f"no excess of failed pairings ({counted} in the last 10 minutes)"
    return {"is_broken": False, "reason": f"{watch['version']}: {found}", "roll_back": []}


def _left(host: Host, version: str) -> Verdict | None:
    """Return the verdict if no user is assigned the version any more, as after a rollback; None while one is, or may be again."""
    assigned = {slots.effective(host.settings.paths.versions_dir, entry.name) for entry in host.user_map().users}
    if assigned & {version, slots.RESTORING}:
        return None
    return {"is_broken": False, "reason": f"no user is on {version} any more", "roll_back": []}


def _taken_over() -> Verdict:
    """Return the verdict of a watch that a newer one replaced."""
    return {"is_broken": False, "reason": "a newer watch has taken over", "roll_back": []}
