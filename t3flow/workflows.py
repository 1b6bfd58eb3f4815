"""The workflows, each from top to bottom as the procedure goes. They are replayed: no time, chance or I/O but inside steps."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from t3flow import tasks
from t3flow.adoption import adopt as adoption
from t3flow.adoption import undo as adoption_undo
from t3flow.deferrals import deferral
from t3flow.deferrals.idleness import await_idle, held_back, would_move
from t3flow.engine.errors import Interrupted, StepFailed
from t3flow.engine.flow import YIELD, current_flow
from t3flow.engine.runs import Abort, Outcome
from t3flow.engine.step import LEGACY_UNDOS
from t3flow.host.users import Result, result_of
from t3flow.restart import long_away, safe_restart
from t3flow.rollout import restore as restoring
from t3flow.rollout.admission import reason_not_to_move
from t3flow.rollout.bake import begin_bake, begin_rollback, end_bake, watch_pairings
from t3flow.rollout.blame import ENDS_THE_RUN, FAILED, give_up, spreads
from t3flow.rollout.bump import (
    back_up_everybody,
    conclude,
    may_restart_without_pairing,
    restart_idle_users,
    through_gate,
    whom_to_move,
    whom_to_try,
)
from t3flow.rollout.former_steps import FORMER
from t3flow.rollout.outcomes import OUTCOME_OF_SIGNAL, ended, exclusive, failed, inconclusive, unmanaged, why_held
from t3flow.rollout.pairing_checks import pairings_before
from t3flow.rollout.registry_wait import patiently
from t3flow.rollout.revive import await_server
from t3flow.rollout.rollback import (
    cannot_roll_back_to,
    freeze_reason,
    how_it_went,
    is_older,
    reject_left,
    roll_back,
    where_all_are,
)


def bump(
    target: str | None = None,
    again: bool = False,
    without: list[str] | None = None,
    dry_run: bool = False,
    due: float | None = None,
) -> Outcome:
    """Moves everybody to a newer version, or nobody. `due`: when the schedule asked for it; None for a person's run."""
    try:
        return patiently(lambda: follow(target, again, without or [], dry_run, due), dry_run, due)
    except Interrupted as interrupted:
        return ended(OUTCOME_OF_SIGNAL[interrupted.signal], f"stopped by {interrupted.signal}; nothing was changed")
    except StepFailed as failure:
        return failed(failure)


def follow(target: str | None, again: bool, without: list[str], dry_run: bool, due: float | None) -> Outcome:
    """The bump itself, with the host to itself: stage, back up, gate, restart, accept."""
    plan = tasks.resolve(target)
    refusal = tasks.guard(plan, again, without)
    if refusal["outcome"] == "gate_inconclusive":
        raise Abort(inconclusive(refusal["reason"], plan, {}))
    if refusal["outcome"]:
        raise Abort(ended(refusal["outcome"], refusal["reason"], plan))
    version = plan["target"]
    if not dry_run:
        tasks.link_everyone(plan["default"])
        tasks.prune(version)

    tasks.open_scratch()
    staged = tasks.stage(version, dry_run)
    slot, plan = staged["slot"], {**plan, "notices": staged["notices"]}
    found = tasks.people([])
    managed = [person for person in found if not person.get("why")]
    users, left = whom_to_move(plan, managed, without, target is not None)
    if not dry_run:
        pairings_before([user["user"] for user in users if user["running"]])
    untried = whom_to_try(plan, users)
    snapshots = back_up_everybody(plan, untried, dry_run)
    results = {**left, **through_gate(slot, plan, untried, snapshots, dry_run), **unmanaged(found)}
    if dry_run:
        raise Abort(ended("dry_run_passed", f"{version} passes the gate", plan, results))

    for user, snapshot in zip(untried, snapshots, strict=True):
        if snapshot["problem"] and not snapshot["missing"]:
            results[user["user"]] = result_of("skipped", user["version"], f"no backup: {snapshot['problem']}")
    candidates = tasks.canary_order([user for user in users if user["user"] not in results], snapshots)
    none_pairs = may_restart_without_pairing(plan, snapshots, without, results, target is not None)
    ended_by = restart_idle_users(candidates, version, results, due, none_pairs)
    with current_flow().shielded():
        tasks.clean_scratch()
        return conclude(plan, results, ended_by, none_pairs)


def drain(user: str) -> Outcome:
    """Sees one deferred user through: sleeps until they can be idle, then moves them. Ends when there is nothing left to do."""
    flow = current_flow()
    ask_again = float(flow.carried.get("ask_again", 0.0))
    try:
        while True:
            flow.continue_as_new_if_long(ask_again=ask_again)
            ready = await_idle(user, ask_again)
            if ready["nothing_to_do"]:
                deferral.settle_deferral(user)
                return ended("up_to_date", ready["nothing_to_do"])
            try:
                with exclusive():
                    found = move_deferred(user, ready["version"], ready["target"], in_window=True)
            except Interrupted as interrupted:
                if interrupted.signal != YIELD:
                    raise
                ask_again = deferral.note_yielded(user)
                continue
            if found["result"] == "restarted":
                return ended("updated", f"{user} is on {ready['target']}", None, {user: found})
            ask_again = found["ask_again"]
    except Interrupted as interrupted:
        deferral.settle_deferral(user)
        return ended(OUTCOME_OF_SIGNAL[interrupted.signal], f"the deferral of {user} was dropped")
    except StepFailed as failure:
        return failed(failure)


def drain_now(users: list[str], ignore_processes: list[str], dry_run: bool = False) -> Outcome:
    """Tries pending deferrals now, whatever the window; still only idle users. Users who are named may be away for as long as a snapshot takes."""
    if not dry_run and (reason := why_held()):
        return ended("frozen", reason)
    results: dict[str, Result] = {}
    try:
        with exclusive():
            for pending in deferral.pending_deferrals(users):
                user = pending["user"]
                if dry_run:
                    results[user] = would_move(user, user in ignore_processes)
                else:
                    results[user] = move_deferred(
                        user,
                        pending["version"],
                        pending["target"],
                        in_window=False,
                        ignore_processes=user in ignore_processes,
                        insists=user in users,
                    )
                if spreads(results):
                    reason = give_up(pending["target"], user, results[user])
                    return ended("rolled_back", reason, None, results)
                if results[user]["result"] in FAILED:
                    name = "gate_inconclusive" if results[user]["at_fault"] in ENDS_THE_RUN else "rolled_back"
                    return ended(name, results[user]["reason"], None, results)
    except Interrupted as interrupted:
        return ended(OUTCOME_OF_SIGNAL[interrupted.signal], "nobody further was restarted", None, results)
    except StepFailed as failure:
        return failed(failure, results)
    moved = sum(found["result"] == "restarted" for found in results.values())
    if dry_run:
        return ended("dry_run_passed", f"{len(results)} looked at", None, results)
    done = f"{moved} of {len(results)} pending deferrals migrated" if results else "no deferral is pending"
    done += "".join(f"; {line}" for line in long_away(results))
    return ended("updated" if moved else "up_to_date", done, None, results)


def move_deferred(
    user: str, former: str, target: str, *, in_window: bool, ignore_processes: bool = False, insists: bool = False
) -> Result:
    """The safe restart of a deferred user. The first one of a version that waits to be accepted is its canary: with it default and last-good move.

    `insists`: a person named this user, who is then moved though no user pairs.
    """
    held = held_back(user, former, target, in_window) or reason_not_to_move(user, former, target, insists=insists)
    asked: Any = {"ignore_processes": ignore_processes, "insists": insists}
    found = held or safe_restart(user, former, target, canary=False, **asked)
    with current_flow().shielded():
        if found["result"] == "restarted":
            if deferral.awaits_acceptance(target):
                tasks.accept(target)
            deferral.settle_deferral(user)
            begin_bake(target, [user])
        elif found["result"] in FAILED and found["at_fault"] not in ENDS_THE_RUN:
            give_up(target, user, found)
        else:
            why = found["waiting_for"] or "unreadable_state"
            found["ask_again"] = deferral.note_wait(user, why, found["reason"], found["ask_again"])
    return found


def bake(version: str) -> Outcome:
    """Watches real pairings for a while after a version was given to somebody. Too many that fail freeze tracking, and may roll users back.

    A freeze does not end it, a person may. What it cannot see it says; that is no failure of the bump.
    """
    try:
        found = watch_pairings(version)
        with current_flow().shielded():
            if found["is_broken"]:
                tasks.freeze_tracking(found["reason"])
                tasks.reject(version, found["reason"], [])
                if found["roll_back"]:
                    begin_rollback(found["roll_back"])
    except Interrupted as interrupted:
        return end_of_bake(OUTCOME_OF_SIGNAL[interrupted.signal], f"the watch over {version} was ended")
    except StepFailed as failure:
        return end_of_bake("error", failure.reason)
    name = "done" if not found["is_broken"] else "rolled_back" if found["roll_back"] else "frozen"
    return replace(end_of_bake(name, found["reason"]), status="failed" if found["is_broken"] else "succeeded")


def end_of_bake(name: str, reason: str) -> Outcome:
    """The outcome of a watch, which is taken down."""
    with current_flow().shielded():
        end_bake()
    return ended(name, reason)


def rollback(users: list[str], to: str | None = None) -> Outcome:
    """Takes these users, or all, back to a version, or each to theirs before the last accepted bump. Frozen first: no bump may return meanwhile.

    One user's trouble leaves that user as they are; the others go on.
    """
    results: dict[str, Result] = {}
    left: dict[str, str] = {}
    try:
        if to is not None and (why := cannot_roll_back_to(to)):
            return ended("error", why)
        tasks.freeze_tracking(freeze_reason(users, to))
        with exclusive():
            for person in tasks.people([]):
                if person.get("why") and (not users or person["user"] in users):
                    results.update(unmanaged([person]))
                elif not users or person["user"] in users:
                    found = results[person["user"]] = roll_back(person, to)
                    if found["result"] == "rolled_back" and is_older(found["version"], person["version"]):
                        left[person["version"]] = f"left by a rollback of {person['user']}"
            with current_flow().shielded():
                reject_left(left)
                if left and (version := where_all_are()):
                    tasks.return_to(version)
    except Interrupted as interrupted:
        return ended(
            OUTCOME_OF_SIGNAL[interrupted.signal],
            "nobody further was rolled back; tracking is frozen: t3flow unfreeze",
            None,
            results,
        )
    except StepFailed as failure:
        return failed(failure, results)
    name, reason = how_it_went(results)
    return ended(name, reason, None, results)


def restore(user: str, backup: str) -> Outcome:
    """Puts one backup of one user in place, with a version that knows it. Frozen first, as a rollback; whoever it fails for stays as they are."""
    results: dict[str, Result] = {}
    try:
        wanted = restoring.look_up(user, backup)
        tasks.freeze_tracking(restoring.freeze_reason(user, backup))
        with exclusive():
            tasks.open_scratch()
            version = restoring.version_for(wanted)
            tasks.clean_scratch()
            if not version:
                knows = f"no version that is installed knows its migrations (schema level {wanted['level']})"
                mend = (
                    f"t3flow enqueue bump --target {wanted['wrote']} makes a slot" if wanted["wrote"] else "install one"
                )
                raise Abort(
                    ended("error", f"{backup} was not restored: {knows}: {mend}; tracking is frozen: t3flow unfreeze")
                )
            person = next((person for person in tasks.people([]) if person["user"] == user), None)
            if person is None or (why := person.get("why")):
                why = why if person is not None else f"{user} is not in the user map"
                raise Abort(ended("error", f"{backup} was not restored: {why}; tracking is frozen: t3flow unfreeze"))
            results[user] = restoring.restore_one(person, wanted, backup, version)
    except Interrupted as interrupted:
        return ended(OUTCOME_OF_SIGNAL[interrupted.signal], "nothing was restored; tracking is frozen: t3flow unfreeze")
    except StepFailed as failure:
        return failed(failure, results)
    name, reason = how_it_went(results, "restored")
    return ended(name, reason, None, results)


def adopt(dry_run: bool = False, undo: bool = False) -> Outcome:
    """Takes the host over from the shell tracker, or gives it back. Whatever fails, or is cancelled, is undone; a freeze holds neither."""
    try:
        with exclusive():
            if undo:
                return replace(ended("done", adoption_undo.give_back(dry_run)), status="succeeded")
            decision, results = adoption.take_over(dry_run)
            name, reason = adoption.summary(decision, dry_run)
            data = {**ended(name, reason, None, results).data, "notices": decision["notices"]}
            outcome = replace(ended(name, reason), data={**data, "target": decision["default"]})
            if dry_run:
                raise Abort(outcome)  # which undoes what it looked at
            return outcome
    except Interrupted as interrupted:
        return ended(OUTCOME_OF_SIGNAL[interrupted.signal], "nothing was changed")
    except StepFailed as failure:
        return ended("error", failure.reason)


def revive(user: str) -> Outcome:
    """Sees to it that a server which was stopped here, and whose port somebody took meanwhile, runs again."""
    try:
        return ended("done", await_server(user))
    except Interrupted as interrupted:
        return ended(OUTCOME_OF_SIGNAL[interrupted.signal], f"nobody tries any more to start the server of {user}")
    except StepFailed as failure:
        return ended("error", failure.reason)


WORKFLOWS: dict[str, Callable[..., Outcome]] = {
    "bump": bump,
    "drain": drain,
    "drain_now": drain_now,
    "bake": bake,
    "rollback": rollback,
    "restore": restore,
    "adopt": adopt,
    "revive": revive,
}
LEGACY_UNDOS.update(FORMER)
HELD_BY_FREEZE = {"bump", "drain_now"}
"""Workflows that a freeze interrupts; a drain asks before each restart."""
YIELDING = {"adopt"}
"""Workflows that no freeze holds, and that are cancelled, as dry runs are, when a rollback waits for the host."""
