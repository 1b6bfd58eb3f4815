"""One bump after its version was chosen: select users, back up, gate, restart idle users one at a time, conclude.

Replayed as the workflows are: no time, chance or I/O outside steps.
"""

import shlex

from t3flow import tasks
from t3flow.deferrals import deferral
from t3flow.deferrals.idleness import may_still_restart
from t3flow.deferrals.left_behind import HELD
from t3flow.engine.errors import Interrupted, StepFailed
from t3flow.engine.flow import CRASHED, current_flow
from t3flow.engine.runs import Abort, Outcome
from t3flow.gate import trials
from t3flow.gate.verdicts import Refused, judge_each, pass_gate
from t3flow.host.records.holds import HELD_BY
from t3flow.host.users import Result, User, is_ahead, is_behind, result_of
from t3flow.restart import safe_restart
from t3flow.rollout.bake import begin_bake
from t3flow.rollout.blame import ENDS_THE_RUN, FAILED, concerns_user_alone, escalate_shared_fault, give_up
from t3flow.rollout.outcomes import CAUSE_OF_SIGNAL, OUTCOME_OF_SIGNAL, UNMANAGED, ended, unmanaged
from t3flow.rollout.pairing_checks import check_dispatch
from t3flow.rollout.snapshots import back_up, back_up_users
from t3flow.rollout.soak import soak, take_back
from t3flow.tasks import Plan, Refusal, Snapshot

CURRENT = "is already on this version"
LEFT_OUT = "left out as requested"


class Bump:
    """What the parts of one bump share: the version, the options, and how each user fared. A replay builds the same from the journal.

    `is_named`: an operator named this version exactly. `is_catch_up`: the version is the accepted default already, and the bump moves only users whom
    an earlier bump left behind; each of them is judged alone.
    """

    def __init__(self, plan: Plan, without: list[str], *, is_named: bool, dry_run: bool) -> None:
        self.version = plan["target"]
        self.default = plan["default"]
        self.without = without
        self.is_named = is_named
        self.dry_run = dry_run
        self.soak_minutes = plan.get("soak_minutes", 0.0)
        self.is_together = plan.get("together", False)
        self.is_catch_up = self.version == self.default
        self.awaits_turn = plan.get("in_fleet", False) and not dry_run and not self.is_catch_up
        self.notices: list[str] = []
        self.users: dict[str, User] = {}
        self.selected: list[str] = []
        self.snapshots: dict[str, Snapshot] = {}
        self.results: dict[str, Result] = {}

    def ended(self, name: str, reason: str, results: dict[str, Result] | None = None) -> Outcome:
        """Return an outcome of this bump."""
        return ended(name, reason, results, default=self.default, version=self.version, notices=self.notices)

    def inconclusive(self, reason: str, results: dict[str, Result] | None = None) -> Outcome:
        """Return the outcome of a failure that is not the version's: nothing is rejected or frozen, an alert is logged, the next run retries."""
        with current_flow().shielded():
            tasks.alert(f"GATE INCONCLUSIVE: {reason}")
        return self.ended("gate_inconclusive", reason, results)

    def refuse(self, refusal: Refusal) -> None:
        """Raise Abort if the version is not to be taken."""
        if refusal["outcome"] == "gate_inconclusive":
            raise Abort(self.inconclusive(refusal["reason"]))
        if refusal["outcome"]:
            raise Abort(self.ended(refusal["outcome"], refusal["reason"]))

    # Which users ------------------------------------------------------------------------------------------------------

    def select_users(self, found: list[User]) -> list[str]:
        """Return the users to move, and note the results of those who stay.

        Users stay who are left out, held, on a newer version (unless an operator named this one exactly) and, in a catch-up, who run the version.
        """
        self.users = {user["user"]: user for user in found}
        selected = []
        for user, present in self.users.items():
            previous = present["version"]
            if present.get("why"):
                continue
            if is_ahead(present, self.version) and (self.is_catch_up or not self.is_named):
                back = f"to move back: t3flow enqueue rollback --to {self.version} --user {shlex.quote(user)}"
                self.results[user] = result_of("untouched", previous, f"is on {previous}, which is newer; {back}")
            elif not is_behind(present, self.version) and (self.is_catch_up or user in self.without):
                self.results[user] = result_of("untouched", previous, CURRENT)
            elif user in self.without:
                self.results[user] = {**result_of("skipped", previous, LEFT_OUT), "waiting_for": HELD}
            elif reason := present.get("held", ""):
                self.results[user] = {**result_of("skipped", previous, reason), "waiting_for": HELD}
            else:
                selected.append(user)
        self.selected = selected
        return selected

    def take_up_again(self, found: list[User]) -> None:
        """Note what changed while this bump waited for the turn of its host: users who are not to be moved any more stay as they are.

        A user who is on another version by now is deferred, and the version is tried on their databases again.
        """
        present = {user["user"]: user for user in found}
        changed = []
        for user in self.selected:
            if user in self.results:
                continue
            former, now = self.users[user], present.get(user)
            if now is None:
                self.results[user] = result_of("untouched", former["version"], "is not in the user map any more")
                continue
            self.users[user] = now
            if now.get("why"):
                self.results.update(unmanaged([now]))
            elif reason := now.get("held", ""):
                self.results[user] = {**result_of("skipped", now["version"], reason), "waiting_for": HELD}
            elif is_ahead(now, self.version):
                self.results[user] = result_of("untouched", now["version"], f"is on {now['version']}, which is newer")
            elif now["version"] not in (former["version"], self.version):
                changed.append(user)
        if changed:
            trials.note_untried(self.version, changed)
            self.defer(changed, "host_busy", "is on another version since the gate: it is tried again for this user")

    def untried_users(self, users: list[str]) -> list[str]:
        """Return the users on whose databases the version is to be tried: in a catch-up, not again where it has passed already."""
        if not self.is_catch_up:
            return users
        tried = tasks.passed_users(self.version)
        return [user for user in users if user not in tried]

    # Back up and gate -------------------------------------------------------------------------------------------------

    def back_up(self, users: list[str]) -> list[Snapshot]:
        """Take a snapshot of each user's databases. Raises Abort if the disk is at fault, or no user who has databases could be backed up."""
        try:
            if self.is_together:
                previous = {user: self.users[user]["version"] for user in users}
                snapshots = back_up_users(previous, self.version, self.dry_run) if users else []
            else:
                snapshots = [back_up(user, self.users[user]["version"], self.version, self.dry_run) for user in users]
        except StepFailed as failure:
            if failure.kind == CRASHED:
                raise
            raise Abort(self.ended("backup_failed", failure.reason)) from failure
        self.snapshots = {snapshot["user"]: snapshot for snapshot in snapshots} if self.is_together else {}
        present = [snapshot for snapshot in snapshots if not snapshot["missing"]]
        problems = [f"{snapshot['user']}: {snapshot['problem']}" for snapshot in present if snapshot["problem"]]
        if not self.is_catch_up and problems and len(problems) == len(present):
            raise Abort(self.ended("backup_failed", f"no user could be backed up; {problems[0]}"))
        return snapshots

    def pass_gate(self, slot: str, users: list[str], snapshots: list[Snapshot]) -> None:
        """Try the version on every seed, and note the results of users who are not admitted. Raises Abort if the version does not pass."""
        admits = judge_each if self.is_catch_up else pass_gate
        withheld: dict[str, tuple[str, str]] = {}
        try:
            if users or not self.is_catch_up:
                seeds = [self.users[user] for user in users]
                withheld = admits(slot, self.version, self.default, seeds, snapshots)
        except Refused as refusal:
            if refusal.outcome == "gate_inconclusive":
                raise Abort(self.inconclusive(refusal.reason)) from refusal
            if refusal.outcome == "gate_failed" and not self.dry_run:
                tasks.reject(self.version, refusal.reason, refusal.users)
            name = "dry_run_failed" if refusal.outcome == "gate_failed" and self.dry_run else refusal.outcome
            reason = refusal.reason
            if set(refusal.users) >= set(users):  # leaving all of them out would leave no user to move
                reason = reason.partition("; to leave them out: ")[0]
            raise Abort(self.ended(name, reason)) from refusal
        for user in users:
            if user in withheld:
                kind, reason = withheld[user]
                waiting_for = "host_busy" if kind == "deferred" else ""
                self.results[user] = {
                    **result_of(kind, self.users[user]["version"], reason),
                    "waiting_for": waiting_for,
                }
        self.results.update(unmanaged(list(self.users.values())))
        if self.dry_run:
            return
        for user, snapshot in zip(users, snapshots, strict=True):
            if snapshot["problem"] and not snapshot["missing"]:
                reason = f"no backup: {snapshot['problem']}"
                self.results[user] = result_of("skipped", self.users[user]["version"], reason)

    # Restart ----------------------------------------------------------------------------------------------------------

    def pairing_is_broken(self, snapshots: list[Snapshot]) -> bool:
        """Return whether no user pairs through the dispatch, although an operator named this version exactly. Raises Abort if none named it."""
        broken = [snapshot["user"] for snapshot in snapshots if snapshot["problem"]]
        before = check_dispatch(self.version, broken, self.without)
        if before["stops"]:
            raise Abort(self.inconclusive(f"No user was restarted: {before['stops']}", self.results))
        if not before["no_pairing"]:
            return False
        if not self.is_named:
            insist = f"to restart users anyway: t3flow enqueue bump --target {self.version}"
            reason = f"No user was restarted: {before['no_pairing']}; {insist}"
            raise Abort(self.inconclusive(reason, self.results))
        self.notices.append(f"no user pairs; the first user is restarted anyway, as requested: {before['no_pairing']}")
        return True

    def restart_idle_users(self, users: list[str], due: float | None, *, pairing_is_broken: bool) -> str:
        """Restart the idle ones of these users, one at a time. Return the signal that ended it early, or "".

        After the first restart, its user's pairings are watched for `canary.soak_minutes`. A failure of the version ends it, and so do
        `schedule.latest` and a fault that the next user would meet as well. Before the first restart a signal is raised as Interrupted, which
        undoes everything. `pairing_is_broken`: no user paired before, so that the first user who does not pair on the version either ends it.
        """
        for number, user in enumerate(users):
            present, others = self.users[user], users[number + 1 :]
            if present["version"] == self.version and present.get("runs", "") in ("", self.version):
                self.results[user] = result_of("untouched", self.version, CURRENT)
                continue
            if not present["running"]:
                self.defer([user], "server_stopped")
                continue
            try:
                if due is not None and not may_still_restart(due):
                    self.defer([user, *others], "window")
                    return ""
                taken = self.snapshots.get(user)
                found = self.results[user] = safe_restart(
                    user, present["version"], self.version, canary=True, taken=taken
                )
                if found["waiting_for"] == "frozen":
                    raise Interrupted("freeze")
            except Interrupted as interrupted:
                if all(result["result"] != "restarted" for result in self.results.values()):
                    raise
                self.defer([user, *others], "frozen")
                return interrupted.signal
            if is_disk_fault(found):
                self.defer(others, "host_busy", found["reason"])
                return ""
            escalate_shared_fault(self.results)
            is_unproven = pairing_is_broken and is_held(found)
            is_failure = found["result"] in FAILED and not concerns_user_alone(self.version, user, found)
            if is_unproven or is_failure:
                for other in others:
                    self.results[other] = result_of("untouched", self.users[other]["version"], "")
                return ""
            pairing_is_broken = pairing_is_broken and found["result"] != "restarted"
            if self.soak_minutes and others and found["result"] == "restarted":
                try:
                    goes_on = self.soak(user, others, due)
                except Interrupted as interrupted:
                    self.defer(others, "frozen")
                    return interrupted.signal
                if not goes_on:
                    return ""
        return ""

    def soak(self, user: str, others: list[str], due: float | None) -> bool:
        """Watch the pairings of the first user who was restarted; return whether the next one may be. A bump soaks once.

        If the version is at fault, the user is taken back and the others stay as they are; if the dispatch is, the others are deferred.
        """
        minutes, self.soak_minutes = self.soak_minutes, 0.0
        found = soak(user, self.version, minutes, due)
        if found["problem"]:
            self.notices.append(f"the soak saw no pairings: {found['problem']}")
        if found["is_broken"]:
            self.results[user] = take_back(user, self.version, self.users[user]["version"], found["reason"])
            for other in others:
                self.results[other] = result_of("untouched", self.users[other]["version"], "")
        elif found["dispatch"]:
            self.defer(others, "host_busy", found["dispatch"])
        return not found["is_broken"] and not found["dispatch"]

    def defer(self, users: list[str], waiting_for: str, detail: str = "") -> None:
        """Note users as deferred who were not asked whether they are idle."""
        for user in users:
            deferred = result_of("deferred", self.users[user]["version"], detail or waiting_for)
            self.results[user] = {**deferred, "waiting_for": waiting_for}

    # Conclude ---------------------------------------------------------------------------------------------------------

    def conclude(self, ended_by: str, *, pairing_is_broken: bool) -> Outcome:
        """Freeze after a failure of the version; else defer users who were busy or skipped, and accept the version if a user was verified on it.

        A user who was verified keeps the version, whatever the others met: an older deferral of that user has nothing left to do.
        """
        results = self.results
        restarted = [user for user, result in results.items() if result["result"] == "restarted"]
        failing = [user for user, result in results.items() if result["result"] in FAILED]
        for user in restarted:
            deferral.settle_deferral(user)
        unproven = []
        if pairing_is_broken and not restarted:
            unproven = [user for user, result in results.items() if is_held(result)]
        if unproven or (failing and results[failing[0]]["at_fault"] in ENDS_THE_RUN):
            user = (unproven or failing)[0]
            if restarted:
                begin_bake(self.version, restarted)
            return self.inconclusive(f"{user} was rolled back: {results[user]['reason']}", not_deferred(results))
        begin_bake(self.version, restarted)
        if failing:
            reason = give_up(self.version, failing[0], results[failing[0]])
            return self.ended("rolled_back", reason, not_deferred(results))
        deferral.defer(self.version, causes_of(self.version, results), self.is_catch_up)
        if ended_by:
            reason = f"{CAUSE_OF_SIGNAL[ended_by]}: no further user was restarted"
            return self.ended(OUTCOME_OF_SIGNAL[ended_by], reason, results)
        verified = any(
            result["version"] == self.version and result["result"] != "skipped" for result in results.values()
        )
        if not self.is_catch_up and (verified or not tasks.any_server_runs()):
            tasks.accept(self.version)
            tasks.prune()
        if full := [result for result in results.values() if is_disk_fault(result)]:
            return self.ended("backup_failed", f"{len(restarted)} restarted, then {full[0]['reason']}", results)
        return self.ended("updated", summary(results), results)


def is_disk_fault(result: Result) -> bool:
    """Return whether a user was skipped because the disk for backups is full or broken, which the next user would meet as well."""
    return result["result"] == "skipped" and result["waiting_for"] == "host_busy"


def is_held(result: Result) -> bool:
    """Return whether a restart left a user for an operator to decide about. A user whom an operator left out or holds does not count."""
    return result["waiting_for"] == HELD and result["reason"] != LEFT_OUT and not result["reason"].startswith(HELD_BY)


def causes_of(version: str, results: dict[str, Result]) -> dict[str, deferral.Cause]:
    """Return why each user is deferred to a version: users who wait, and users who were skipped for any reason, unless t3flow cannot manage them."""
    causes: dict[str, deferral.Cause] = {}
    for user, result in results.items():
        waiting_for, detail = result["waiting_for"], result["reason"]
        if result["result"] == "skipped" and waiting_for != UNMANAGED:
            if detail == LEFT_OUT:
                detail = f"left out of {version} as requested: t3flow enqueue drain {shlex.quote(user)}"
            causes[user] = {"waiting_for": waiting_for or "unreadable_state", "detail": detail, "is_behind": True}
        elif result["result"] == "deferred":
            detail = "" if detail == waiting_for else detail
            causes[user] = {"waiting_for": waiting_for, "detail": detail, "is_behind": False}
    return causes


def not_deferred(results: dict[str, Result]) -> dict[str, Result]:
    """Return the results of a bump that defers nobody: users who were busy stay as they are."""
    return {
        user: {**result, "result": "untouched"} if result["result"] == "deferred" else result
        for user, result in results.items()
    }


def summary(results: dict[str, Result]) -> str:
    """Return how many users were restarted, deferred and left behind, the latter by name."""
    kinds = [result["result"] for result in results.values()]
    skipped = [
        user for user, result in results.items() if result["result"] == "skipped" and result["waiting_for"] != UNMANAGED
    ]
    restarted, deferred = kinds.count("restarted"), kinds.count("deferred")
    parts = [f"{restarted} restarted" if restarted else "no user was restarted" + (" yet" if deferred else "")]
    parts += [f"{deferred} deferred until idle"] if deferred else []
    held = [user for user in skipped if results[user]["reason"].startswith(HELD_BY)]
    skipped = [user for user in skipped if user not in held]
    parts += [f"{len(held)} held: {', '.join(held)}"] if held else []
    parts += [f"{len(skipped)} left behind: {', '.join(skipped)} (t3flow status)"] if skipped else []
    return ", ".join(parts)
