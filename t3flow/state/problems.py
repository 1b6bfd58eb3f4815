"""What is wrong with the host: a line for each problem, which ends with the command to run."""

import shlex
from typing import Any

from t3flow.state.deferrals import left_behind_line
from t3flow.state.short import short_id
from t3flow.state.times import ago, epoch

NEEDS_A_PERSON = ("gate_inconclusive", "backup_failed", "registry_unreachable", "incomplete_release", "error")
"""Outcomes of a bump after which nothing is frozen or remembered, so that only this line tells."""


def problems(found: dict[str, Any]) -> list[str]:
    """Given the state of the host as `collect` returns it, return its problems, the most urgent first."""
    lines = [*found["launcher_problems"], *(f"{problem}; see t3flow doctor" for problem in found["user_map_problems"])]
    if found["frozen"]:
        frozen = found["frozen"]
        lines.append(
            f"Frozen {ago(epoch(frozen['since']))} by {short_id(frozen['by'])}: {frozen['reason']}; resume with: t3flow unfreeze"
        )
    if found["default_version"] is None:
        lines.append("No user has a version yet; see t3flow adopt --dry-run, then run t3flow adopt")
    if not found["consumer"]["alive"]:
        lines.append("No consumer is running, so nothing is updated; start it with: systemctl start t3flow")
    if found["consumer"]["waiting_for"]:
        lines.append(f"The consumer is waiting for {found['consumer']['waiting_for']}; see t3flow doctor")
    for user, each in found["users"].items():
        lines += of_user(user, each, found)
    if waits := found["run_waits"]:
        lines.append(f"{waits['run']} is waiting: {waits['waiting_for']}; see t3flow show {waits['run']}")
    last = found["last_bump"]
    if last and last["outcome"] in NEEDS_A_PERSON:
        lines.append(
            f"The last bump ended {ago(epoch(last['ended']))} as {last['outcome']}: {last['reason']}; see t3flow show {last['run']}"
        )
    return lines


def of_user(user: str, each: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return the problems of one user."""
    lines = []
    deferred, runs, led_to = each["deferred"], each["running_version"], each["assigned_version"]
    if deferred and deferred["old"]:
        lines.append(deferred["old"])
    elif line := left_behind_line(user, each, found):
        lines.append(line)
    if not each["managed"]:
        if each["active"] or deferred or not each["why_unmanaged"].startswith("is not in"):
            what, _, mend = each["why_unmanaged"].rpartition(": ")
            lines.append(f"{user} is not managed: {what}; {mend}")
        return lines
    if each["unknown"]:
        lines.append(f"{user} is left alone: {each['unknown']}; install a newer t3flow")
    if runs and led_to and runs != led_to and not deferred and not found["run"]:
        unit = shlex.quote(each["unit"])
        lines.append(
            f"The server of {user} runs {runs}, but {user} is assigned {led_to}: pairing may fail; "
            f"to schedule the restart: t3flow adopt, or, once {user} is idle: systemctl restart {unit}"
        )
    if each["pairing"] == "failing":
        seen = ago(epoch(each["pairing_seen"]))
        why = each["pairing_reason"].removeprefix("cannot pair: ")
        retry = "" if "; t3flow " in why else f"; try again with: t3flow verify {user}"
        lines.append(f"{user} could not pair when last tried ({seen}): {why}{retry}")
    elif not each["active"] and runs is None and deferred is None:
        lines.append(f"The server of {user} is not running; start it with: systemctl start {each['unit']}")
    return lines
