"""Pending deferrals: who waits for what, for how long, and what moves them."""

import shlex
import time

from t3flow.deferrals import blockers, left_behind, long_waits
from t3flow.deferrals.causes import waits_for
from t3flow.engine.journal import Journal
from t3flow.host.records import deferral_records
from t3flow.host.records.holds import HELD_BY
from t3flow.state.documents import Deferral, LeftBehind, Status, User
from t3flow.state.times import duration, rfc3339


def deferrals(journal: Journal) -> list[Deferral]:
    """Return the pending deferrals under the keys of the interface. `old`: the problem that one is, with its remedy; "" for none."""
    found: list[Deferral] = []
    old_waits, stuck = long_waits.old(journal), blockers.lines(journal)
    running = {run.id: run for run in journal.runs("status = 'running' and id in (select run from deferrals)")}
    for entry in deferral_records.deferrals(journal):
        run, cause = running.get(entry.run), entry.waiting_for
        if run is not None:
            cause = run.revoked or ("host_busy" if run.wake_at is None else cause)
        old = _old_wait(entry, old_waits[entry.user]) if entry.user in old_waits else ""
        found.append(
            Deferral(
                user=entry.user,
                target=entry.version,
                since=rfc3339(entry.since),
                checks=entry.checks,
                next_check=rfc3339(entry.next_check),
                waiting_for=cause,
                detail=entry.detail,
                run=entry.run,
                old=stuck.get(entry.user) or old,
            )
        )
    return found


def in_words(deferral: Deferral) -> str:
    """Return what a deferred user waits for, in words. The detail is of the last check: it says nothing of what holds the run itself."""
    cause, detail = deferral["waiting_for"], deferral["detail"]
    if cause == "frozen" and "rejected" not in detail:
        detail = ""
    return waits_for(cause, "" if cause == "revoked" else detail)


def _old_wait(entry: deferral_records.Deferral, cause: long_waits.Cause) -> str:
    """Return that a deferral has waited long for one cause, with the command to run."""
    user, waited = shlex.quote(entry.user), duration(time.time() - cause["since"])
    what = f"{entry.user} has waited {waited} ({cause['checks']} checks) for {entry.version}: "
    what += waits_for(cause["waiting_for"], entry.detail)
    if cause["waiting_for"] == "unreadable_state":
        return f"{what}; see t3flow doctor"
    if cause["waiting_for"] == "server_stopped":
        return f"{what}; start it, or run t3flow deferrals revoke {user}"
    if cause["waiting_for"] == "running_process":
        return f"{what}; to end the process with the server: t3flow enqueue drain {user} --ignore-processes {user}"
    return f"{what}; ask {entry.user} to let their agents end, then run: t3flow enqueue drain {user}"


def left_behind_line(user: str, each: User, found: Status) -> str:
    """Return that a user was left on another version than the default, why, and what moves them; "" for one who was not, or is about to be moved."""
    drain = f"t3flow enqueue drain {shlex.quote(user)}"
    led_to, default, deferred = each["assigned_version"], found["default_version"], each["deferred"]
    if each["held"] or (deferred and deferred["waiting_for"] == "revoked"):
        return ""  # an operator took them out
    if deferred and deferred["detail"].startswith(HELD_BY):
        return ""  # they are free again, and about to be moved
    if (cause := each["left_behind"]) and deferred:
        why = cause["detail"].removesuffix(f": {drain}")
        if deferred["waiting_for"] == "unreadable_state" and deferred["detail"] and deferred["checks"]:
            why = deferred["detail"]  # what the last attempt to move them met
        why = why if cause["target"] in why else f"left behind by {cause['target']}: {why}"
        return f"{user} stays on {led_to}: {why}; to try again: {drain}"
    if deferred or found["run"] or found["frozen"] or not each["managed"] or not led_to or not default:
        return ""
    from t3flow.t3.versions import is_older

    if not is_older(led_to, default):
        return ""
    if default in found["rejected"]:
        return f"{user} stays on {led_to}: the default {default} was rejected; to try it again: t3flow enqueue bump --again"
    return f"{user} stays on {led_to}, the default is {default}, and no move is pending; to move {user}: t3flow enqueue bump"


def cause_left_behind(cause: left_behind.Cause | None) -> LeftBehind | None:
    """Return why a bump left a user behind, as the document has it."""
    if cause is None:
        return None
    return LeftBehind(
        target=cause.target, waiting_for=cause.waiting_for, detail=cause.detail, since=rfc3339(cause.since)
    )
