"""What is wrong with the host, for people and machines: each problem with the command to run."""

import shlex
from typing import NamedTuple

from t3flow.state.deferrals import left_behind_line
from t3flow.state.documents import Problem, Status, User
from t3flow.state.fleet_documents import Fleet
from t3flow.state.short import short_id
from t3flow.state.times import ago, epoch
from t3flow.state.verification import overdue_text

NEEDS_A_PERSON = (
    *("gate_inconclusive", "backup_failed", "registry_unreachable", "incomplete_release", "fleet_wait", "error"),
)
"""Outcomes of a bump after which nothing is frozen or remembered, so that only this line tells."""
KINDS = {
    "journal": "the journal cannot be read",
    "dispatch": "the dispatch pairs no user",
    "unpaired": "a user cannot pair",
    "launcher": "the launcher or the mount of the slots is not intact",
    "consumer_down": "no consumer is running",
    "frozen": "tracking is frozen",
    "consumer_waits": "the consumer cannot work without something it waits for",
    "no_version": "the host was not adopted yet",
    "user_map": "the user map cannot be read as a whole",
    "server_down": "a user's server is not running",
    "other_version": "a user's server runs another version than the assigned one",
    "unknown_t3": "t3flow does not know a user's kind of t3",
    "unmanaged": "t3flow cannot manage a user",
    "left_behind": "a user stays on another version than the default",
    "deferral_old": "a deferral has waited for days, or cannot make progress",
    "verify_overdue": "the hourly verify does not reach a user",
    "fleet_stuck": "the fleet does not go on without a person",
    "fleet_unreachable": "the fleet does not answer",
    "fleet_records": "records of the fleet are forged or replayed",
    "fleet_host_silent": "a host of the fleet is silent",
    "newer_run": "a run of a newer t3flow was left as it is",
    "run_waits": "a run waits for the registry, or for the turn of this host in the fleet",
    "last_bump": "the last bump ended without a verdict",
    "queue_risk": "the queue works, but refuses new connections or may lose messages",
    "metrics": "the consumer cannot publish metrics",
    "notify_failed": "a channel does not take messages",
}
"""Each kind of problem and its meaning, the most urgent first."""


SUBJECT_ENDS = {
    "fleet_host_silent": " of the fleet",
    "fleet_records": " in the fleet",
    "newer_run": " was begun",
    "notify_failed": " fail, first",
}
"""Kind of problem of which a host may have several, of no user → what follows the part of the text that names the thing."""


class _Line(NamedTuple):
    key: str
    text: str
    remedy: str
    user: str | None = None


def line(problem: Problem) -> str:
    """Return a problem in one line, which ends with the command to run."""
    return f"{problem['text']}; {problem['remedy']}"


def identity(problem: Problem) -> tuple[str, str]:
    """Return what is the same of a problem as long as it lasts, whatever its text says of time and cause: its kind, and whose or what's it is."""
    kind = problem["key"]
    return kind, problem["user"] or (problem["text"].partition(SUBJECT_ENDS[kind])[0] if kind in SUBJECT_ENDS else "")


def problems(found: Status) -> list[Problem]:
    """Given the state of the host as `collect` returns it, return its problems, the most urgent first."""
    lines = [*of_host(found)]
    for user, each in found["users"].items():
        lines += of_user(user, each, found)
    lines += of_runs(found)
    lines += of_fleet(found["fleet"])
    if any(each.key == "dispatch" for each in lines):
        lines = [each for each in lines if each.key != "unpaired"]
    order = list(KINDS)
    return [
        Problem(key=each.key, user=each.user, text=each.text, remedy=each.remedy)
        for each in sorted(lines, key=lambda each: order.index(each.key))
    ]


def journal_problem(fault: str) -> list[Problem]:
    """Return that the journal cannot be used, so that the rest of the state is what can be seen without it; nothing without a fault."""
    text = f"Nothing is known of runs, deferrals, holds and pins: {fault}"
    return [Problem(key="journal", user=None, text=text, remedy="see t3flow doctor")] if fault else []


def of_host(found: Status) -> list[_Line]:
    """Return the problems that concern all users."""
    lines = [_split("launcher", each) for each in found["launcher_problems"]]
    lines += [_Line("user_map", problem, "see t3flow doctor") for problem in found["user_map_problems"]]
    if frozen := found["frozen"]:
        text = f"Frozen {ago(epoch(frozen['since']))} by {short_id(frozen['by'])}: {frozen['reason']}"
        lines.append(_Line("frozen", text, "resume with: t3flow unfreeze"))
    if found["default_version"] is None:
        remedy = "see t3flow adopt --dry-run, then run t3flow adopt"
        lines.append(_Line("no_version", "No user has a version yet", remedy))
    if not found["consumer"]["alive"]:
        text = "No consumer is running, so nothing is updated"
        lines.append(_Line("consumer_down", text, "start it with: systemctl start t3flow"))
    lines += of_dispatch(found)
    if (verify := found["verify"])["overdue"] and found["consumer"]["alive"] and not found["dispatch_fault"]:
        text = overdue_text(verify["overdue"], verify["every_minutes"], verify["waiting_for"])
        remedy = f"see t3flow show {found['run']}" if found["run"] else "verify now: t3flow verify"
        lines.append(_Line("verify_overdue", text, remedy))
    lines += of_queue(found)
    if found["consumer"]["alive"]:
        remedy = "fix it, or set another place; it is tried each minute: t3flow config show metrics"
        lines += [_Line("metrics", problem, remedy) for problem in found["metrics_problems"]]
    for channel in found["channels"]:
        if channel["failing_since"]:
            given_up = f"; {channel['dead']} messages were given up" if channel["dead"] else ""
            since = ago(epoch(channel["failing_since"]))
            text = f"Messages to {channel['shown']} fail, first {since}: {channel['cause']}{given_up}"
            lines.append(_Line("notify_failed", text, "try again with: t3flow notify test"))
    return lines


def of_queue(found: Status) -> list[_Line]:
    """Return what is wrong with the queue, as the consumer found when it passed a message through it."""
    consumer = found["consumer"]
    fault, waits = consumer["queue"], consumer["waiting_for"]
    if not consumer["alive"]:
        return []
    if fault and not fault["is_blocking"]:
        return [_Line("queue_risk", f"The queue works, but {fault['cause']}", fault["remedy"])]
    if not waits:
        return []
    if not fault:
        return [_Line("consumer_waits", f"The consumer is waiting for {waits}", "see t3flow doctor")]
    text = f"The consumer is waiting for {waits} ({ago(epoch(fault['since']))}): {fault['cause']}"
    return [_Line("consumer_waits", text, fault["remedy"])]


def of_dispatch(found: Status) -> list[_Line]:
    """Return the problem that no user can pair, as the hourly verify or each user's last pairing shows; one user alone shows nothing."""
    tried = {user: each for user, each in found["users"].items() if each["active"] and each["managed"]}
    failing = [each for each in tried.values() if each["pairing"] == "failing"]
    if fault := found["dispatch_fault"]:
        since, problem = fault["since"], fault["problem"]
    elif len(failing) == len(tried) > 1:
        since = max(each["pairing_since"] or "" for each in failing)
        problem = f"{', '.join(list(tried)[:2])} and all others failed, the last with: {failing[-1]['pairing_reason']}"
    else:
        return []
    text = f"No user can pair ({ago(epoch(since))}): {problem}"
    return [_Line("dispatch", text, "see t3flow doctor, then check with: t3flow verify")]


def of_runs(found: Status) -> list[_Line]:
    """Return the problems of runs."""
    lines = []
    for run in found["newer_runs"]:
        text = f"{run} was begun by a newer t3flow, and this one does not know its steps, so it was left as it is"
        lines.append(_Line("newer_run", text, f"install that version again, or undo the run: t3flow cancel {run}"))
    if waits := found["run_waits"]:
        text = f"{waits['run']} is waiting: {waits['waiting_for']}"
        lines.append(_Line("run_waits", text, f"see t3flow show {waits['run']}"))
    last = found["last_bump"]
    if last and last["outcome"] in NEEDS_A_PERSON:
        text = f"The last bump ended {ago(epoch(last['ended']))} as {last['outcome']}: {last['reason']}"
        lines.append(_Line("last_bump", text, f"see t3flow show {last['run']}"))
    return lines


def of_fleet_alone(fleet: Fleet) -> list[Problem]:
    """Return the problems of a fleet, the most urgent first."""
    return [Problem(key=each.key, user=None, text=each.text, remedy=each.remedy) for each in of_fleet(fleet)]


def of_fleet(fleet: Fleet | None) -> list[_Line]:
    """Return the problems of the fleet that this host belongs to, the most urgent first."""
    if fleet is None:
        return []
    lines = [_split("fleet_stuck", each) for each in fleet["stuck"]]
    if fleet["problem"] and fleet["unreachable_since"]:
        since = ago(epoch(fleet["unreachable_since"]))
        problem = fleet["problem"].removesuffix("; see t3flow doctor")
        lines.append(
            _Line("fleet_unreachable", f"The fleet does not answer, first {since}: {problem}", "see t3flow doctor")
        )
    for each in fleet["dropped"]:
        if each["is_current"]:
            text = f"What is in the place of {each['place']} in the fleet is dropped, first {ago(epoch(each['last']))}: {each['reason']}"
            lines.append(_Line("fleet_records", text, "see docs/fleet.md, then check with: t3flow fleet status"))
    for host in fleet["hosts"]:
        if host["silent"]:
            seen = f"was seen {ago(epoch(host['seen']))}" if host["seen"] else "has published no record"
            text = f"The host {host['host']} of the fleet is silent: it {seen}"
            remedy = "start t3flow there, or remove its key from fleet.peers, then check with: t3flow fleet status"
            lines.append(_Line("fleet_host_silent", text, remedy))
    return lines


def of_user(user: str, each: User, found: Status) -> list[_Line]:
    """Return the problems of one user."""
    lines = []
    deferred, runs, led_to = each["deferred"], each["running_version"], each["assigned_version"]
    if deferred and deferred["old"]:
        lines.append(_split("deferral_old", deferred["old"], user))
    elif text := left_behind_line(user, each, found):
        lines.append(_split("left_behind", text, user))
    if not each["managed"]:
        if each["active"] or deferred or not each["why_unmanaged"].startswith("is not in"):
            reason, _, remedy = each["why_unmanaged"].rpartition(": ")
            lines.append(_Line("unmanaged", f"{user} is not managed: {reason}", remedy, user))
        return lines
    if each["unknown"]:
        lines.append(_Line("unknown_t3", f"{user} is left alone: {each['unknown']}", "install a newer t3flow", user))
    if runs and led_to and runs != led_to and not deferred and not found["run"]:
        text = f"The server of {user} runs {runs}, but {user} is assigned {led_to}: pairing may fail"
        restart = f"systemctl restart {shlex.quote(each['unit'])}"
        remedy = f"to schedule the restart: t3flow adopt, or, once {user} is idle: {restart}"
        lines.append(_Line("other_version", text, remedy, user))
    if each["pairing"] == "failing":
        seen = ago(epoch(each["pairing_seen"]))
        reason = each["pairing_reason"].removeprefix("cannot pair: ")
        text = f"{user} could not pair when last tried ({seen}): {reason}"
        remedy = f"try again with: t3flow verify {shlex.quote(user)}"
        lines.append(_split("unpaired", text, user) if "; t3flow " in reason else _Line("unpaired", text, remedy, user))
    elif not each["active"] and runs is None and deferred is None:
        text = f"The server of {user} is not running"
        lines.append(_Line("server_down", text, f"start it with: systemctl start {shlex.quote(each['unit'])}", user))
    return lines


def _split(key: str, text: str, user: str | None = None) -> _Line:
    """Return a problem from a line that ends with its remedy after a semicolon."""
    text, _, remedy = text.rpartition("; ")
    return _Line(key, text or remedy, remedy if text else "see t3flow doctor", user)
