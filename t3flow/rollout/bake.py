"""Watching real pairings after a version was given to somebody: the last look at what gate and verification could not see.

One fact in the journal holds the watch: its run, version, end, who is on it, where in the dispatch's log it has come to, what it has counted.
"""

import secrets
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
from t3flow.host import manageable, own_activity, slots
from t3flow.host.host import Host, this_host
from t3flow.host.pairing import dispatch_log, probe
from t3flow.host.pairing.dispatch_log import Line
from t3flow.host.records import facts
from t3flow.host.services.manager import ServiceError
from t3flow.rollout import suspicion
from t3flow.rollout.suspicion import SPAN_SECONDS, Counted, Suspicion

BAKE = "bake"
LOOK_SECONDS = 5.0
ROLLBACK_PRIORITY = 10


class Verdict(TypedDict):
    """How a watch ended. `is_broken`: users cannot pair; `roll_back`: who is to go back to their former version."""

    is_broken: bool
    reason: str
    roll_back: list[str]


@step()
def begin_bake(version: str, users: list[str]) -> str:
    """Has the pairings of these users watched, who were just moved to the version. Returns the watching run, "" for none.

    A watch of the same version goes on, with them and for as long from now; one of another version is replaced. Repeating it is harmless: the
    fact is written before its run is made, so that a repetition finds the id and makes what is missing.
    """
    host = this_host()
    if not users or not host.settings.bake.minutes or not host.settings.dispatch.log:
        return ""
    now = time.time()
    fresh: dict[str, Any] = {
        "run": f"bake-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}-{secrets.token_hex(3)}",
        "version": version,
        "users": {},
        "cursor": dispatch_log.start(host),
        "counted": [],
        "problem": "",
        "verdict": None,
    }
    known = facts.read(host.journal, BAKE)
    ended = known["run"] if known and host.journal.runs("id = ? and status != 'running'", known["run"]) else None

    def change(known: Any) -> dict[str, Any]:
        goes_on = known and known["version"] == version and known["verdict"] is None and known["run"] != ended
        watch: dict[str, Any] = known if goes_on else fresh
        until = now + host.settings.bake.minutes * 60
        return {**watch, "until": until, "users": {**dict.fromkeys(users, now), **watch["users"]}}

    run = str(facts.change(host.journal, BAKE, change)["run"])
    if new_run(host.journal, "bake", {"version": version}, run_id=run):
        host.hint(run)
    return run


@step(interruptible=True)
def watch_pairings(version: str) -> Verdict:
    """Looks into the dispatch's log again and again as a delayed task, until the time is over or too much has failed.

    Counts and cursor are written in one commit: killed before it, the same lines are read again; after it, never. What a kill or a power cut can
    change is the time of a file's lines, which is when they were first read. A verdict is written in that commit too, and found by a repetition.
    Before a version is blamed, users are paired now: whether the dispatch serves others, and whether those who failed still fail.
    """
    host, run = this_host(), current_run()
    known = facts.read(host.journal, BAKE)
    if known is None or known["run"] != run:
        return _taken_over()
    new, cursor, more, problem = _look(host, known)
    if problem and problem != known["problem"]:
        logger.warning("the watch over {}: {}", version, problem)
    suspected = suspicion.suspect(host, version, _added(known["counted"], new))
    finding = suspicion.check(host, version, suspected) if suspected else None
    if finding and finding.dispatch_at_fault:
        logger.error("GATE INCONCLUSIVE: the watch over {}: {}; nothing is frozen or rejected", version, finding.reason)
        problem = finding.reason
    elif finding and not finding.is_broken:
        logger.info("the watch over {}: {}", version, finding.reason)

    def change(current: Any) -> Any:
        if current is None or current["run"] != run or current["verdict"] is not None:
            return current
        counted = (
            [] if finding else _added(current["counted"], new)
        )  # what was found to be no fault of the version counts no more
        is_broken = suspected and finding and finding.is_broken
        verdict = _broken(host, version, suspected) if suspected and is_broken else _left(host, version)
        recent = [entry for entry in counted if entry[0] > time.time() - SPAN_SECONDS]
        if verdict is None and time.time() >= current["until"]:
            verdict = _passed(current, problem)
        return {**current, "cursor": cursor, "counted": recent, "problem": problem, "verdict": verdict}

    after = facts.change(host.journal, BAKE, change, synced=False)
    if after is None or after["run"] != run:
        return _taken_over()
    if after["verdict"] is not None:
        found: Verdict = after["verdict"]
        return found
    until = time.strftime("%H:%M:%S", time.localtime(after["until"]))
    failures = sum(entry[3] for entry in after["counted"])
    at = time.time() if more else min(time.time() + LOOK_SECONDS, after["until"])
    raise NotYet(at, problem or f"watching until {until}; {failures} failed in the last 10 minutes")


@step()
def end_bake() -> None:
    """Removes the watch, if it is this run's. Repeating it finds it gone, or another's."""
    run = current_run()
    facts.change(this_host().journal, BAKE, lambda known: None if known and known["run"] == run else known)


@step()
def begin_rollback(users: list[str]) -> str:
    """Has these users rolled back, before anybody else gets the host. Repeating it finds the run there."""
    host = this_host()
    run = f"rollback-of-{current_run()}"
    if new_run(host.journal, "rollback", {"users": users, "to": None}, priority=ROLLBACK_PRIORITY, run_id=run):
        host.hint(run)
    return run


def _look(host: Host, known: dict[str, Any]) -> tuple[Counted, dispatch_log.Cursor, bool, str]:
    """What is to be counted since the last look, the new cursor, whether there is more, and why nothing could be read."""
    try:
        part = dispatch_log.read(host, known["cursor"])
        return _countable(host, known, part.lines), part.cursor, part.more, ""
    except Interrupted:
        raise
    except T3flowError as error:
        return [], known["cursor"], False, str(error)


def _managed(host: Host, users: list[str]) -> set[str]:
    """Return the users that t3flow manages: all of them where their manager does not answer, as what was logged counts once or never."""
    try:
        return {user for user, (_, why) in manageable.survey(host, users).items() if not why}
    except ServiceError as error:
        logger.debug("{}", error)
        return set(users)


def _countable(host: Host, known: dict[str, Any], lines: list[Line]) -> Counted:
    """Of what was logged, what speaks against the version: of users of the map whom t3flow manages and whose port is not in others' hands, and
    not of our own doing.

    Only users who are on the version count, and from their move on. Others fail and fall back for other reasons.
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
            return bool(probe.shut_out(host, user))
        return False

    def counts(line: Line) -> bool:
        if line.user not in mapped or own_activity.was_ours(host.journal, line.user, line.earliest, line.latest):
            return False
        if is_shut_out(line.user) or not is_on_it(line.user):
            return False
        moved = known["users"].get(line.user, line.latest + 1 if line.kind == "fallback" else 0.0)
        return bool(line.earliest >= moved)

    tally = Counter(lines)
    return [[line.latest, line.kind, line.user, number] for line, number in tally.items() if counts(line)]


def _added(counted: Counted, new: Counted) -> Counted:
    """All of it, in the order of time; what is of one second is one entry, so that a flood stays small."""
    tally: Counter[tuple[int, str, str]] = Counter()
    for at, kind, user, number in [*counted, *new]:
        tally[int(at), kind, user] += number
    return [[*key, number] for key, number in sorted(tally.items())]


def _broken(host: Host, version: str, found: Suspicion) -> Verdict:
    """The verdict on a version that is to blame, and who is to go back."""
    users = found.users
    who = ", ".join(f"{user} {number}" for user, number in users.most_common(8)) + (", …" if len(users) > 8 else "")
    told = f"{users.total()} {found.words} within 10 minutes on {version} ({who}; {found.on_it} users are on it), more than bake.max_failures bears"
    versions_dir = host.settings.paths.versions_dir
    concerned = sorted(user for user in users if slots.effective(versions_dir, user) == version)
    if host.settings.bake.rollback and concerned:
        what = f"{', '.join(concerned)}: rolled back, see t3flow runs"
    elif concerned:
        what = f"to go back: t3flow enqueue rollback {' '.join(f'--user {user}' for user in concerned)}"
    else:
        what = "nobody concerned is on it: see t3flow verify and the dispatch's log"
    roll_back = concerned if host.settings.bake.rollback else []
    return {"is_broken": True, "reason": f"{told}; {what}; to go on: t3flow unfreeze", "roll_back": roll_back}


def _passed(watch: dict[str, Any], problem: str) -> Verdict:
    counted = sum(entry[3] for entry in watch["counted"])
    found = (
        f"not watched: {problem}" if problem else f"no more failures than are borne ({counted} in the last 10 minutes)"
    )
    return {"is_broken": False, "reason": f"{watch['version']}: {found}", "roll_back": []}


def _left(host: Host, version: str) -> Verdict | None:
    """That nobody is led to the version any more, as after a rollback, so that there is nothing to watch; None while somebody is, or may be again."""
    led_to = {slots.effective(host.settings.paths.versions_dir, entry.name) for entry in host.user_map().users}
    if led_to & {version, slots.HOLD}:
        return None
    return {"is_broken": False, "reason": f"nobody is on {version} any more", "roll_back": []}


def _taken_over() -> Verdict:
    return {"is_broken": False, "reason": "a newer watch has taken over", "roll_back": []}
