"""The parts of a bump, in their order: back up, gate, restart one at a time, conclude. Replayed as the workflows are: no I/O but in steps."""

from t3flow import tasks
from t3flow.deferrals import deferral
from t3flow.deferrals.idleness import may_still_restart
from t3flow.deferrals.left_behind import HELD
from t3flow.engine.errors import Interrupted, StepFailed
from t3flow.engine.flow import CRASHED
from t3flow.engine.runs import Abort, Outcome
from t3flow.gate.verdicts import Refused, judge_each, pass_gate
from t3flow.host.users import Person, Result, is_ahead, is_behind, result_of
from t3flow.restart import safe_restart
from t3flow.rollout.bake import begin_bake
from t3flow.rollout.blame import ENDS_THE_RUN, FAILED, give_up, is_theirs, spreads
from t3flow.rollout.outcomes import (
    LEFT_OUT,
    OUTCOME_OF_SIGNAL,
    UNMANAGED,
    causes_of,
    ended,
    inconclusive,
    left_alone,
    waiting,
)
from t3flow.rollout.pairing_checks import dispatch_before
from t3flow.tasks import Plan, Snapshot

ON_IT = "is on it already"


def catches_up(plan: Plan) -> bool:
    """Whether a bump is to the version that is accepted already: for those alone who were left behind, each of whom is judged for themselves."""
    return plan["target"] == plan["default"]


def whom_to_move(
    plan: Plan, managed: list[Person], without: list[str], is_asked: bool
) -> tuple[list[Person], dict[str, Result]]:
    """Who of the managed users is to be moved, and the results of those who are not.

    Left out are those of `without`, those who are on a newer version, unless a person asked for this one exactly, and, where the version is the
    default already, all who run it.
    """
    version, users = plan["target"], []
    results: dict[str, Result] = {}
    for person in managed:
        user, has = person["user"], person["version"]
        if is_ahead(person, version) and (catches_up(plan) or not is_asked):
            back = f"to take them back: t3flow enqueue rollback --to {version} --user {user}"
            results[user] = result_of("untouched", has, f"is on {has}, which is newer; {back}")
        elif catches_up(plan) and not is_behind(person, version):
            results[user] = result_of("untouched", has, ON_IT)
        elif user in without:
            left_out: Result = {**result_of("skipped", has, LEFT_OUT), "waiting_for": HELD}
            results[user] = left_out if is_behind(person, version) else result_of("untouched", has, ON_IT)
        else:
            users.append(person)
    return users, results


def whom_to_try(plan: Plan, users: list[Person]) -> list[Person]:
    """On whose databases the target is tried: of those who were left behind by an accepted version, not again where it has passed already."""
    if not catches_up(plan):
        return users
    tried = tasks.tried_on(plan["target"])
    return [user for user in users if user["user"] not in tried]


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
    if not catches_up(plan) and problems and len(problems) == sum(not found["missing"] for found in snapshots):
        raise Abort(ended("backup_failed", f"nobody could be backed up; {problems[0]}", plan))
    return snapshots


def through_gate(
    slot: str, plan: Plan, users: list[Person], snapshots: list[Snapshot], dry_run: bool
) -> dict[str, Result]:
    """Tries the candidate on every seed. Returns the results of those who are not to be restarted. Raises Abort when it does not pass."""
    if catches_up(plan) and not users:
        return {}
    try:
        judge = judge_each if catches_up(plan) else pass_gate
        held = judge(slot, plan, users, snapshots)
    except Refused as refusal:
        if refusal.outcome.name == "gate_failed" and not dry_run:
            tasks.reject(plan["target"], refusal.reason, refusal.users)
        if refusal.outcome.name == "gate_inconclusive":
            raise Abort(inconclusive(refusal.reason, plan, {})) from refusal
        name = "dry_run_failed" if dry_run and refusal.outcome.name == "gate_failed" else refusal.outcome.name
        reason = refusal.reason
        if set(refusal.users) >= {
            user["user"] for user in users
        }:  # going on without them would be going on without users
            reason = reason.partition("; to go on without: ")[0]
        raise Abort(ended(name, reason, plan)) from refusal
    version = {user["user"]: user["version"] for user in users}
    waits_for = {"skipped": "", "deferred": "host_busy"}
    return {
        user: {**result_of(kind, version[user], reason), "waiting_for": waits_for[kind]}
        for user, (kind, reason) in held.items()
        if user in version
    }


def may_restart_without_pairing(
    plan: Plan, snapshots: list[Snapshot], without: list[str], results: dict[str, Result], is_asked: bool
) -> bool:
    """Whether the dispatch pairs no user at all, and a person asked for this version exactly: a notice then. Raises Abort where none did."""
    broken = [found["user"] for found in snapshots if found["problem"]]
    before = dispatch_before(plan["target"], broken, without)
    if before["stops"]:
        raise Abort(inconclusive(f"nobody was restarted: {before['stops']}", plan, results))
    if not before["no_pairing"]:
        return False
    if not is_asked:
        insist = f"to go on all the same: t3flow enqueue bump --target {plan['target']}"
        raise Abort(inconclusive(f"nobody was restarted: {before['no_pairing']}; {insist}", plan, results))
    plan["notices"].append(f"no user pairs, as asked the first is restarted all the same: {before['no_pairing']}")
    return True


def restart_idle_users(
    users: list[Person], version: str, results: dict[str, Result], due: float | None, none_pairs: bool
) -> str:
    """Restarts who is idle, one at a time, into `results`. Returns the signal that ended it early, or "".

    A failure of the version ends it, and so do one that the next user would meet as well (`spreads`) and `schedule.latest`. Before the first
    restart a signal is raised as Interrupted, which undoes everything. `none_pairs`: no user paired before, so that the first who does not
    pair on the version either ends it.
    """
    for number, user in enumerate(users):
        name = user["user"]
        if user["version"] == version and user.get("runs", "") in ("", version):
            results[name] = result_of("untouched", version, ON_IT)
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
        found = results[name]
        if is_disks_fault(found):
            results.update({rest["user"]: waiting(rest, "host_busy", found["reason"]) for rest in users[number + 1 :]})
            return ""
        spreads(results)
        is_unproven = none_pairs and found["waiting_for"] == HELD
        if is_unproven or (found["result"] in FAILED and not is_theirs(version, name, found)):
            results.update({rest["user"]: result_of("untouched", rest["version"], "") for rest in users[number + 1 :]})
            return ""
        none_pairs = none_pairs and found["result"] != "restarted"
    return ""


def is_disks_fault(found: Result) -> bool:
    """Whether a user was skipped as the disk for backups is full or broken: so it is for whoever comes next."""
    return found["result"] == "skipped" and found["waiting_for"] == "host_busy"


def conclude(plan: Plan, results: dict[str, Result], ended_by: str, none_pairs: bool) -> Outcome:
    """Freezes after a failure that is the version's; otherwise defers who was busy or skipped, and moves default and last-good if somebody is
    verified on it.

    Whoever was verified keeps the version, whatever came of the others: an older deferral of theirs has nothing left to do.
    """
    version = plan["target"]
    restarted = [user for user, found in results.items() if found["result"] == "restarted"]
    for user in restarted:
        deferral.settle_deferral(user)
    failing = [user for user, found in results.items() if found["result"] in FAILED]
    unproven = [user for user, found in results.items() if none_pairs and found["waiting_for"] == HELD]
    unproven = [] if restarted else [user for user in unproven if results[user]["reason"] != LEFT_OUT]
    if unproven or (failing and results[failing[0]]["at_fault"] in ENDS_THE_RUN):
        user = (unproven or failing)[0]
        if restarted:
            begin_bake(version, restarted)
        return inconclusive(f"{user} was taken back: {results[user]['reason']}", plan, left_alone(results))
    begin_bake(version, restarted)
    if failing:
        reason = give_up(version, failing[0], results[failing[0]])
        return ended("rolled_back", reason, plan, left_alone(results))
    deferral.defer(version, causes_of(version, results), catches_up(plan))
    if ended_by:
        return ended(OUTCOME_OF_SIGNAL[ended_by], f"stopped by {ended_by}: nobody further was restarted", plan, results)
    verified = restarted or [
        user for user, found in results.items() if found["version"] == version and found["result"] != "skipped"
    ]
    if not catches_up(plan) and (verified or not tasks.any_server_runs()):
        tasks.accept(version)
        tasks.prune()
    if full := [found for found in results.values() if is_disks_fault(found)]:
        return ended("backup_failed", f"{len(restarted)} restarted, then {full[0]['reason']}", plan, results)
    return ended("updated", how_many(results), plan, results)


def how_many(results: dict[str, Result]) -> str:
    """Return how many users were restarted, deferred and left behind, the latter by name: an operator or a later bump moves them."""
    kinds = [found["result"] for found in results.values()]
    skipped = [
        user for user, found in results.items() if found["result"] == "skipped" and found["waiting_for"] != UNMANAGED
    ]
    restarted, deferred = kinds.count("restarted"), kinds.count("deferred")
    told = [
        f"{restarted} restarted" if restarted else "no user was restarted yet" if deferred else "no user was restarted"
    ]
    told += [f"{deferred} deferred until idle"] if deferred else []
    told += [f"{len(skipped)} left behind: {', '.join(skipped)} (t3flow status)"] if skipped else []
    return ", ".join(told)
