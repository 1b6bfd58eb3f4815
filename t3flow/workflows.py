"""The workflows, each from top to bottom as the procedure goes. They are replayed: no time, chance or I/O outside steps."""

from collections.abc import Callable
from dataclasses import replace

from t3flow import tasks
from t3flow.adoption import adopt as adoption
from t3flow.adoption import undo as adoption_undo
from t3flow.deferrals import deferral
from t3flow.deferrals.idleness import await_idle, preview_drain, recheck_deferral
from t3flow.engine.errors import Interrupted, StepFailed
from t3flow.engine.flow import YIELD, current_flow
from t3flow.engine.runs import Abort, Outcome
from t3flow.engine.step import LEGACY_UNDOS
from t3flow.fleet.waiting import await_turn, recheck_version
from t3flow.host.users import Result, result_of
from t3flow.restart import long_outages, safe_restart
from t3flow.rollout import restore as restoring
from t3flow.rollout import rollback as rolling_back
from t3flow.rollout.admission import reason_not_admitted
from t3flow.rollout.bake import begin_bake, begin_rollback, end_bake, watch_pairings
from t3flow.rollout.blame import ENDS_THE_RUN, FAILED, escalate_shared_fault, give_up
from t3flow.rollout.bump import Bump
from t3flow.rollout.former_steps import FORMER
from t3flow.rollout.outcomes import STILL_FROZEN, ended, exclusive, failed, interrupted, reason_to_refuse, unmanaged
from t3flow.rollout.pairing_checks import check_pairings
from t3flow.rollout.registry_wait import RegistryWait
from t3flow.rollout.revive import await_server
from t3flow.tasks import Snapshot


def bump(
    target: str | None = None,
    again: bool = False,
    without: list[str] | None = None,
    dry_run: bool = False,
    due: float | None = None,
) -> Outcome:
    """Move all users to a newer version, or none; retry while the registry is unreachable. `due`: when the schedule started it, else None."""
    registry_wait = RegistryWait(due)
    try:
        while True:
            if not dry_run and (reason := reason_to_refuse()):
                return ended("frozen", reason)
            try:
                with exclusive():
                    bump, snapshots = prepare(target, again, without or [], dry_run)
                    if not bump.awaits_turn:
                        return restart_users(bump, snapshots, due)
                return restart_in_turn(bump, snapshots, due, again)
            except StepFailed as failure:
                if dry_run:
                    raise
                registry_wait.sleep_after(failure)
    except Interrupted as signal:
        return interrupted(signal, "nothing was changed")
    except StepFailed as failure:
        return failed(failure)


def prepare(target: str | None, again: bool, without: list[str], dry_run: bool) -> tuple[Bump, list[Snapshot]]:
    """Stage a version, back up, and gate, alone on the host. Return the bump and the snapshots. Raises Abort if the version goes no further."""
    plan = tasks.resolve(target)
    bump = Bump(plan, without, is_named=target is not None, dry_run=dry_run)
    bump.refuse(tasks.guard(plan, again, without))
    if not dry_run:
        tasks.assign_explicitly(bump.default)
        tasks.prune(bump.version)

    tasks.open_scratch()
    staged = tasks.stage(bump.version, dry_run)
    bump.notices = staged["notices"]

    users = bump.select_users(tasks.survey_users([]))
    if not dry_run:
        check_pairings([user for user in users if bump.users[user]["running"]])
    untried = bump.untried_users(users)
    snapshots = bump.back_up(untried)
    bump.pass_gate(staged["slot"], untried, snapshots)
    if dry_run:
        raise Abort(bump.ended("dry_run_passed", f"{bump.version} passes the gate", bump.results))
    if bump.awaits_turn:
        tasks.clean_scratch()
    return bump, snapshots


def restart_in_turn(bump: Bump, snapshots: list[Snapshot], due: float | None, again: bool) -> Outcome:
    """Wait for the turn of this host in its fleet, without the host's lease; then restart the users as they are by then.

    What `prepare` staged is removed again if no user is restarted.
    """
    try:
        bump.refuse(await_turn(bump.version, due, again))
        with exclusive():
            bump.refuse(recheck_version(bump.version, bump.default, again))
            bump.take_up_again(tasks.survey_users([]))
            return restart_users(bump, snapshots, due)
    except (Abort, Interrupted, StepFailed):
        with current_flow().shielded():
            tasks.unstage(bump.version, False)
        raise


def restart_users(bump: Bump, snapshots: list[Snapshot], due: float | None) -> Outcome:
    """Restart the idle users one at a time, and conclude. Raises Abort or Interrupted before the first restart."""
    admitted = [bump.users[user] for user in bump.selected if user not in bump.results]
    in_order = [user["user"] for user in tasks.canary_order(admitted, snapshots)]
    pairing_is_broken = bump.pairing_is_broken(snapshots)
    ended_by = bump.restart_idle_users(in_order, due, pairing_is_broken=pairing_is_broken)
    with current_flow().shielded():
        tasks.clean_scratch()
        return bump.conclude(ended_by, pairing_is_broken=pairing_is_broken)


def drain(user: str) -> Outcome:
    """Carry out one deferral: sleep until the user is idle, then move them. It ends when there is nothing left to do."""
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
                    result = move_deferred(user, ready["version"], ready["target"], in_window=True)
            except Interrupted as signal:
                if signal.signal != YIELD:
                    raise
                ask_again = deferral.note_yielded(user)
                continue
            if result["result"] == "restarted":
                return ended("updated", f"{user} is on {ready['target']}", {user: result})
            ask_again = result["ask_again"]
    except Interrupted as signal:
        deferral.settle_deferral(user)
        return interrupted(signal, f"the deferral of {user} was dropped")
    except StepFailed as failure:
        return failed(failure)


def drain_now(users: list[str], ignore_processes: list[str], dry_run: bool = False) -> Outcome:
    """Try pending deferrals now, in or out of the window; only idle users are moved. Named users accept an outage as long as a snapshot takes."""
    if not dry_run and (reason := reason_to_refuse()):
        return ended("frozen", reason)
    results: dict[str, Result] = {}
    try:
        with exclusive():
            for pending in deferral.pending_deferrals(users):
                user = pending["user"]
                if dry_run:
                    results[user] = preview_drain(user, user in ignore_processes)
                else:
                    results[user] = move_deferred(
                        user,
                        pending["version"],
                        pending["target"],
                        in_window=False,
                        ignore_processes=user in ignore_processes,
                        insists=user in users,
                    )
                if escalate_shared_fault(results):
                    reason = give_up(pending["target"], user, results[user])
                    return ended("rolled_back", reason, results)
                if results[user]["result"] in FAILED:
                    name = "gate_inconclusive" if results[user]["at_fault"] in ENDS_THE_RUN else "rolled_back"
                    return ended(name, results[user]["reason"], results)
    except Interrupted as signal:
        return interrupted(signal, "no further user was restarted", results)
    except StepFailed as failure:
        return failed(failure, results)
    if dry_run:
        return ended("dry_run_passed", f"checked {len(results)} pending deferrals", results)
    moved = sum(result["result"] == "restarted" for result in results.values())
    reason = f"moved {moved} of {len(results)} deferred users" if results else "no deferral is pending"
    reason = "; ".join([reason, *long_outages(results)])
    return ended("updated" if moved else "up_to_date", reason, results)


def move_deferred(
    user: str, previous: str, version: str, *, in_window: bool, ignore_processes: bool = False, insists: bool = False
) -> Result:
    """Restart a deferred user safely. If the version still waits to be accepted, its first user is the canary: then default and last-good move.

    `insists`: an operator named this user, who is moved even if no user pairs.
    """
    result = recheck_deferral(user, previous, version, in_window)
    result = result or reason_not_admitted(user, previous, version, insists=insists)
    result = result or safe_restart(
        user, previous, version, canary=False, ignore_processes=ignore_processes, insists=insists
    )
    with current_flow().shielded():
        if result["result"] == "restarted":
            if deferral.awaits_acceptance(version):
                tasks.accept(version)
            deferral.settle_deferral(user)
            begin_bake(version, [user])
        elif result["result"] in FAILED and result["at_fault"] not in ENDS_THE_RUN:
            give_up(version, user, result)
        else:
            waiting_for = result["waiting_for"] or "unreadable_state"
            result["ask_again"] = deferral.note_wait(user, waiting_for, result["reason"], result["ask_again"])
    return result


def bake(version: str) -> Outcome:
    """Watch real pairings for a while after a version was assigned. Too many failures freeze tracking and may roll users back.

    A freeze does not end it; a cancel does. If it cannot read the dispatch's log, its reason says so: that is no failure of the bump.
    """
    try:
        verdict = watch_pairings(version)
        with current_flow().shielded():
            if verdict["is_broken"]:
                tasks.freeze_tracking(verdict["reason"])
                tasks.reject(version, verdict["reason"], [])
                if verdict["roll_back"]:
                    begin_rollback(verdict["roll_back"])
        name = "done" if not verdict["is_broken"] else "rolled_back" if verdict["roll_back"] else "frozen"
        status = "failed" if verdict["is_broken"] else "succeeded"
        outcome = replace(ended(name, verdict["reason"]), status=status)
    except Interrupted as signal:
        outcome = interrupted(signal, f"pairings on {version} are no longer watched")
    except StepFailed as failure:
        outcome = ended("error", failure.reason)
    with current_flow().shielded():
        end_bake()
    return outcome


def rollback(users: list[str], to: str | None = None) -> Outcome:
    """Roll back these users, or all, to `to` or else to the version before the last accepted bump. Freezes first, so that no bump undoes it.

    A user who cannot be rolled back stays on their version; the others go on. A user whom an operator holds is rolled back only if named.
    """
    results: dict[str, Result] = {}
    abandoned: dict[str, str] = {}
    try:
        if to is not None and (reason := rolling_back.cannot_roll_back_to(to)):
            return ended("error", reason)
        tasks.freeze_tracking(rolling_back.freeze_reason(users, to))
        with exclusive():
            for present in tasks.survey_users([]):
                user, previous = present["user"], present["version"]
                if users and user not in users:
                    continue
                if present.get("why"):
                    results.update(unmanaged([present]))
                    continue
                if not users and (held := present.get("held")):
                    results[user] = result_of("skipped", previous, held)
                    continue
                result = rolling_back.roll_back(user, previous, to, was_running=present["running"])
                results[user] = result
                if result["result"] == "rolled_back" and rolling_back.is_older(result["version"], previous):
                    abandoned[previous] = f"{user} was rolled back from it"
            with current_flow().shielded():
                rolling_back.reject_abandoned(abandoned)
                if abandoned and (version := rolling_back.common_version()):
                    tasks.restore_default(version)
    except Interrupted as signal:
        return interrupted(signal, f"no further user was rolled back; {STILL_FROZEN}", results)
    except StepFailed as failure:
        return failed(failure, results)
    name, reason = rolling_back.summary(results)
    return ended(name, reason, results)


def restore(user: str, backup: str) -> Outcome:
    """Restore one backup of one user together with a version that knows it. Freezes first, as a rollback does.

    A failure leaves the user as they are.
    """
    results: dict[str, Result] = {}
    try:
        wanted = restoring.resolve_backup(user, backup)
        tasks.freeze_tracking(restoring.freeze_reason(user, backup))
        with exclusive():
            tasks.open_scratch()
            version = restoring.version_for(wanted)
            tasks.clean_scratch()
            if not version:
                raise Abort(ended("error", restoring.no_version_reason(backup, wanted)))
            present = next((present for present in tasks.survey_users([]) if present["user"] == user), None)
            reason = present.get("why", "") if present is not None else f"{user} is not in the user map"
            if present is None or reason:
                raise Abort(ended("error", f"{backup} was not restored: {reason}; {STILL_FROZEN}"))
            results[user] = restoring.restore_user(
                user, present["version"], wanted, backup, version, was_running=present["running"]
            )
    except Interrupted as signal:
        return interrupted(signal, f"nothing was restored; {STILL_FROZEN}")
    except StepFailed as failure:
        return failed(failure, results)
    name, reason = rolling_back.summary(results, "restored")
    return ended(name, reason, results)


def adopt(dry_run: bool = False, undo: bool = False) -> Outcome:
    """Take over the host from the shell tracker, or give it back. A failure or a cancel is undone; a freeze stops neither."""
    try:
        with exclusive():
            if undo:
                return replace(ended("done", adoption_undo.give_back(dry_run)), status="succeeded")
            decision, results = adoption.take_over(dry_run)
            name, reason = adoption.summary(decision, dry_run)
            data = {**ended(name, reason, results).data, "notices": decision["notices"]}
            outcome = replace(ended(name, reason), data={**data, "target": decision["default"]})
            if dry_run:
                raise Abort(outcome)  # which removes the slots in scratch
            return outcome
    except Interrupted as signal:
        return interrupted(signal, "nothing was changed")
    except StepFailed as failure:
        return ended("error", failure.reason)


def revive(user: str) -> Outcome:
    """Start a server that t3flow stopped and could not start again, such as one whose port another program took meanwhile."""
    try:
        return ended("done", await_server(user))
    except Interrupted as signal:
        return interrupted(signal, f"the server of {user} is no longer started; start it with systemctl")
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
STOPPED_BY_FREEZE = {"bump", "drain_now"}
"""Workflows that a freeze interrupts. A drain checks for a freeze before each restart."""
YIELDING = {"adopt"}
"""Workflows that a freeze does not stop and that are cancelled, as dry runs are, when a rollback waits for the host."""
