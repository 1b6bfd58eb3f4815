"""The parts of a bump, in their order: back up, gate, restart one at a time, conclude. Replayed as the workflows are: no I/O but in steps."""

from t3flow import deferring, tasks
from t3flow.at_fault import ENDS_THE_RUN
from t3flow.bake import begin_bake
from t3flow.engine.errors import Interrupted, StepFailed
from t3flow.engine.flow import CRASHED
from t3flow.engine.runs import Abort, Outcome
from t3flow.gating import Refused, pass_gate
from t3flow.outcomes import FAILED, OUTCOME_OF_SIGNAL, ended, give_up, inconclusive, left_alone, waiting
from t3flow.periods import may_still_restart
from t3flow.restart import Result, result_of, safe_restart
from t3flow.tasks import Person, Plan, Snapshot


def back_up_everybody(plan: Plan, users: list[Person], dry_run: bool) -> list[Snapshot]:
    """A snapshot of each user's database. Raises Abort when the disk is at fault or nobody who has one could be backed up."""
    try:
        snapshots = [tasks.back_up(user["user"], user["version"], plan["target"], dry_run) for user in users]
    except StepFailed as failure:
        if failure.kind == CRASHED:
            raise
        raise Abort(ended("backup_failed", failure.reason, plan)) from failure
    problems = [
        f"{found['user']}: {found['problem']}" for found in snapshots if not found["missing"] and found["problem"]
    ]
    if problems and len(problems) == sum(not found["missing"] for found in snapshots):
        raise Abort(ended("backup_failed", f"nobody could be backed up; {problems[0]}", plan))
    return snapshots


def through_gate(
    slot: str, plan: Plan, users: list[Person], snapshots: list[Snapshot], dry_run: bool
) -> dict[str, Result]:
    """Tries the candidate on every seed. Returns the results of those who are not to be restarted. Raises Abort when it does not pass."""
    try:
        held = pass_gate(slot, plan, users, snapshots)
    except Refused as refusal:
        if refusal.outcome.name == "gate_failed" and not dry_run:
            tasks.reject(plan["target"], refusal.reason, refusal.users)
        if refusal.outcome.name == "gate_inconclusive":
            raise Abort(inconclusive(refusal.reason, plan, {})) from refusal
        name = "dry_run_failed" if dry_run and refusal.outcome.name == "gate_failed" else refusal.outcome.name
        raise Abort(ended(name, refusal.reason, plan)) from refusal
    version = {user["user"]: user["version"] for user in users}
    waits_for = {"skipped": "", "deferred": "host_busy"}
    return {
        user: {**result_of(kind, version[user], reason), "waiting_for": waits_for[kind]}
        for user, (kind, reason) in held.items()
        if user in version
    }


def restart_idle_users(users: list[Person], version: str, results: dict[str, Result], due: float | None) -> str:
    """Restarts who is idle, one at a time, into `results`. Returns the signal that ended it early, or "".

    A failure ends it, and so does `schedule.latest`. Before the first restart a signal is raised as Interrupted, which undoes everything.
    """
    for number, user in enumerate(users):
        name = user["user"]
        if user["version"] == version and user.get("runs", "") in ("", version):
            results[name] = result_of("untouched", version, "is on it already")
            continue
        if not user["running"]:
            results[name] = waiting(user, "server_stopped")
            continue
        try:
            if due is not None and not may_still_restart(due):
                results.update({rest["user"]: waiting(rest, "window") for rest in users[number:]})
                return ""
            results[name] = safe_restart(name, user["version"], version, canary=True)
            if results[name]["waiting_for"] == "frozen":
                raise Interrupted("freeze")
        except Interrupted as interrupted:
            if all(done["result"] != "restarted" for done in results.values()):
                raise
            results.update({rest["user"]: waiting(rest, "frozen") for rest in users[number:]})
            return interrupted.signal
        if results[name]["result"] in FAILED:
            results.update({rest["user"]: result_of("untouched", rest["version"], "") for rest in users[number + 1 :]})
            return ""
    return ""


def conclude(plan: Plan, results: dict[str, Result], ended_by: str) -> Outcome:
    """Freezes after a failure that is the version's; otherwise defers who was busy, and moves default and last-good if somebody is verified on it.

    Whoever was verified keeps the version, whatever came of the others: an older deferral of theirs has nothing left to do.
    """
    version = plan["target"]
    restarted = [user for user, found in results.items() if found["result"] == "restarted"]
    for user in restarted:
        deferring.settle_deferral(user)
    failing = [user for user, found in results.items() if found["result"] in FAILED]
    if failing and results[failing[0]]["at_fault"] in ENDS_THE_RUN:
        reason = f"{failing[0]} was taken back: {results[failing[0]]['reason']}"
        return inconclusive(reason, plan, left_alone(results))
    begin_bake(version, restarted)
    if failing:
        reason = give_up(version, failing[0], results[failing[0]])
        return ended("rolled_back", reason, plan, left_alone(results))
    deferred = {user: found["waiting_for"] for user, found in results.items() if found["result"] == "deferred"}
    deferring.defer(version, deferred)
    if ended_by:
        return ended(OUTCOME_OF_SIGNAL[ended_by], f"stopped by {ended_by}: nobody further was restarted", plan, results)
    verified = restarted or [
        user for user, found in results.items() if found["version"] == version and found["result"] != "skipped"
    ]
    if verified or not tasks.any_server_runs():
        tasks.accept(version)
        tasks.prune()
    return ended("updated", f"{len(restarted)} restarted, {len(deferred)} deferred", plan, results)
