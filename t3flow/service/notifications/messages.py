"""What a message says: of a run that ended, of a freeze, and of problems that need a person."""

import re
import socket
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from t3flow.engine.journal import Run
from t3flow.state.documents import SCHEMA, Message, Problem
from t3flow.state.problems import line
from t3flow.state.runs import result
from t3flow.state.short import short_id
from t3flow.state.times import rfc3339

MAX_TEXT = 3000
MAX_LISTED = 20
FAILURES = (
    "gate_failed",
    "gate_inconclusive",
    "backup_failed",
    "registry_unreachable",
    "incomplete_release",
    "fleet_wait",
    "error",
)
"""Outcomes that are told as failed. A dry run that failed has told the person who started it."""
HEADLINES = {
    "gate_failed": "{target} did not pass the gate",
    "gate_inconclusive": "the gate could not judge {target}",
    "backup_failed": "no backup, so nothing was updated",
    "registry_unreachable": "the registry did not answer",
    "incomplete_release": "{target} is not complete in the registry",
    "fleet_wait": "this host did not get its turn in the fleet",
    "rolled_back": "{target} was rolled back",
    "updated": "updated to {target}",
}
RESULTS = {
    "restarted": "Restarted",
    "deferred": "Deferred",
    "rolled_back": "Rolled back",
    "failed": "Failed",
    "skipped": "Skipped",
}
COMMAND = re.compile(r"(?:sudo )?(?:t3flow|systemctl) [^;,()]+")
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]+")
"""Characters that a terminal or a chat could obey, also from a user's file; line breaks stay."""


def occasions_of(run: Run) -> list[str]:
    """Return what a run's end is an occasion for, the most important first; [] for nothing that is worth a message."""
    if run.args.get("dry_run"):
        return []
    users = run.result.get("users") or {}
    moved = {entry.get("result") for entry in users.values()}
    found = []
    if run.outcome == "rolled_back" or "rolled_back" in moved:
        found.append("rolled_back")
    if run.outcome in FAILURES or "failed" in moved:
        found.append("failed")
    if run.outcome == "updated" or "restarted" in moved or (run.workflow == "adopt" and run.outcome == "done"):
        found.append("updated")
    if run.workflow == "revive" and run.outcome == "done":
        found.append("recovered")
    return found


def of_run(run: Run, occasions: Sequence[str], *, frozen: Problem | None, is_well_again: bool) -> Message:
    """Return the message about a run that ended. `frozen`: the freeze that it caused; `is_well_again`: it ends an earlier failure."""
    found = result(run)
    target = found["target"] or "the new version"
    headline = HEADLINES.get(run.outcome or "", "").format(target=target)
    if (run.workflow == "drain" and run.outcome == "updated") or not headline:
        headline = _first_sentence(found["reason"]) if run.outcome != "error" else f"{short_id(run.id)} failed"
    show = f"t3flow show {run.id}"
    lines = [f"{short_id(run.id)} ended as {run.outcome}: {found['reason']}", *_users(cast(Any, found["users"]))]
    lines += [str(notice) for notice in found["notices"][:MAX_LISTED]]
    if is_well_again:
        lines.append("Bumps work again.")
    problems = [frozen] if frozen else []
    lines += [line(problem) for problem in problems]
    commands = [show, *(command for problem in problems for command in _commands(problem["remedy"]))]
    return _message(run.id, run.updated, occasions, headline, [*lines, f"See {show}"], commands, problems, run)


def of_drains(runs: Sequence[Run]) -> Message:
    """Return one message about deferred users who were moved."""
    reasons = [str(run.result.get("reason", "")) for run in runs]
    lines = [*reasons[:MAX_LISTED], *([f"and {len(reasons) - MAX_LISTED} more"] if len(reasons) > MAX_LISTED else [])]
    headline = f"{len(runs)} deferred users were moved"
    return _message(
        runs[0].id, runs[-1].updated, ["updated"], headline, [*lines, "See t3flow runs"], ["t3flow runs"], []
    )


def of_freeze(key: str, at: float, frozen: Problem) -> Message:
    """Return the message that tracking is frozen."""
    commands = _commands(frozen["remedy"])
    return _message(key, at, ["frozen"], "tracking is frozen", [line(frozen)], commands, [frozen])


def of_unfreeze(key: str, at: float, reason: str) -> Message:
    """Return the message that tracking is no longer frozen."""
    lines = ["No longer frozen; bumps and deferred users go on.", f"It was: {reason}"]
    return _message(key, at, ["recovered"], "tracking is no longer frozen", lines, [], [])


def of_problems(key: str, at: float, problems: Sequence[Problem]) -> Message:
    """Return the message about new problems that need a person."""
    first = problems[0]["text"] if len(problems) == 1 else f"{len(problems)} new problems"
    lines = [line(problem) for problem in problems[:MAX_LISTED]]
    lines += [f"and {len(problems) - MAX_LISTED} more: t3flow status"] if len(problems) > MAX_LISTED else []
    commands = [command for problem in problems[:MAX_LISTED] for command in _commands(problem["remedy"])]
    return _message(key, at, ["failed"], first, lines, commands, problems)


def of_recovery(key: str, at: float, texts: Sequence[str], is_all: bool) -> Message:
    """Return the message that problems are over. `is_all`: none that was told is left."""
    headline = "well again" if is_all else f"{len(texts)} problem{'s are' if len(texts) > 1 else ' is'} over"
    lines = [f"Over: {text}" for text in texts[:MAX_LISTED]]
    lines += [f"and {len(texts) - MAX_LISTED} more"] if len(texts) > MAX_LISTED else []
    return _message(key, at, ["recovered"], headline, lines, [] if is_all else ["t3flow status"], [])


def of_test(key: str, at: float) -> Message:
    """Return the message of `t3flow notify test`."""
    text = "This is a test. Nothing happened, and there is nothing to do."
    return _message(key, at, ["updated"], "test message", [text], [], [])


def _message(
    key: str, at: float, occasions: Sequence[str], headline: str, lines: Sequence[str], commands: Sequence[str],
    problems: Sequence[Problem], run: Run | None = None,
) -> Message:  # fmt: skip
    """Return a message. Its text ends with host and time, so that one that arrives days later is not taken for news."""
    host = socket.gethostname()
    when = datetime.fromtimestamp(at).astimezone()
    text = clean("\n".join(lines))
    text = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
    return Message(
        schema=SCHEMA,
        key=key,
        at=rfc3339(at),
        host=host,
        occasion=occasions[0],
        occasions=list(occasions),
        title=clean(f"t3flow on {host}: {headline}").replace("\n", " ")[:200],
        text=f"{text}\n{host}, {when:%a %Y-%m-%d %H:%M} {when.tzname()}",
        commands=list(dict.fromkeys(commands)),
        run=result(run) if run is not None else None,
        problems=list(problems),
    )


def _users(users: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return how the users of a run fared: names for what is as it should be, a reason for each of the others."""
    lines = []
    for kind, word in RESULTS.items():
        found = {user: each for user, each in users.items() if each.get("result") == kind}
        if not found:
            continue
        names = ", ".join(list(found)[:MAX_LISTED]) + (
            f" and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
        )
        if kind in ("restarted", "deferred"):
            lines.append(f"{word}: {names}")
        else:
            lines += [f"{word}: {user}: {each.get('reason', '')}" for user, each in list(found.items())[:MAX_LISTED]]
    return lines


def clean(text: str) -> str:
    """Return a text without control characters."""
    return CONTROLS.sub(" ", text)


def _commands(remedy: str) -> list[str]:
    return [found.strip() for found in COMMAND.findall(remedy)]


def _first_sentence(reason: str) -> str:
    return reason.partition("; ")[0] or "a run ended"
