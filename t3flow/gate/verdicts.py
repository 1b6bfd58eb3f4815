"""The gate's judgment of a bump: a verdict for each database, and controls that tell a bad version from a bad gate. No I/O outside steps."""

import shlex

from t3flow import T3flowError
from t3flow.gate import trials
from t3flow.gate.trial_run import Verdict
from t3flow.gate.trials import Seed, Seeds
from t3flow.host.backups import compatibility
from t3flow.host.users import User
from t3flow.t3.versions import parse
from t3flow.tasks import Snapshot


class Refused(T3flowError):
    """The gate does not let a version pass. `outcome`: of the run; `users`: whose databases the version fails on, where it alone is at fault."""

    def __init__(self, outcome: str, reason: str, users: list[str] | None = None) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason
        self.users = users or []


def pass_gate(
    slot: str, version: str, default: str, users: list[User], snapshots: list[Snapshot]
) -> dict[str, tuple[str, str]]:
    """Try the version on every seed. Return the users who are withheld: user → ("skipped" or "deferred", reason). Raises Refused.

    1. It passes everywhere: good. 2. It fails where the version in use passes: the version is bad, and no further seed is tried. 3. Both fail: the
    database is at fault, and its user is skipped. 4. The version in use fails on an empty base dir too or on more than half of the seeds, or nothing
    passed: the gate or the host is at fault, and nothing is rejected. The same if the version fails on more than half and there was no control.
    5. A seed that was not tried is tried before its user is moved. 6. A version of an unknown kind is neither good nor bad: the next run and each
    user's drain try it again.
    """
    seeds = trials.choose_seeds(users, snapshots, default)
    every = [seed for batch in seeds["batches"] for seed in batch]
    if parse(version) < parse(default):
        refuse_older_schema(slot, version, default, seeds, snapshots)
    rounds = Rounds(seeds)
    withheld: dict[str, str] = {}
    at_fault: dict[str, str] = {}
    not_compared: dict[str, str] = {}
    while rounds:
        judged = rounds.run_next(slot, version)
        failed = [(seed, verdict) for seed, verdict in judged if verdict["verdict"] == "fail"]
        bad_databases, uncompared = blame(version, default, failed, rounds, seeds_known_bad=bool(at_fault))
        at_fault.update(bad_databases)
        not_compared.update(uncompared)
        for seed, verdict in judged:
            if verdict["verdict"] == "inconclusive":
                withheld[seed["user"]] = untried_reason(verdict)
    if 2 * len(at_fault) > len(every):
        raise Refused(
            "gate_inconclusive",
            f"the version in use fails on {len(at_fault)} of {len(every)} databases too: {first(at_fault)}",
        )
    withheld.update(not_compared)
    if not rounds.passed:
        raise Refused("gate_inconclusive", f"{version} passed on no database: {first({**at_fault, **withheld})}")
    if 2 * len({**at_fault, **not_compared}) > len(every):
        raise Refused("gate_inconclusive", f"{version} fails on most databases: {first(not_compared)}")
    if withheld:
        trials.note_untried(version, sorted(withheld))
    return {
        **{user: ("skipped", reason) for user, reason in at_fault.items()},
        **{user: ("deferred", reason) for user, reason in withheld.items()},
    }


class Rounds:
    """The batches of a gate that are still to be tried, and what counts so far. A replay builds the same from the journal.

    `gate.limit_minutes` counts once the version has passed on a database: a gate that began late, or met only databases that no version can serve,
    would otherwise hold all users back. What has failed is compared whatever the time, which takes one more trial in each lane. A run that an earlier
    t3flow began is replayed as it went, with the limit for everything.
    """

    def __init__(self, seeds: Seeds) -> None:
        self.seeds = seeds
        self.passed = 0
        self.tried = 0
        self.is_unknown = False
        self._left = list(seeds["batches"])
        self._is_former = "schemas" not in seeds

    @property
    def compares_until(self) -> float:
        """Until when a control may begin."""
        return self.seeds["until"] if self._is_former else trials.NO_END

    def __bool__(self) -> bool:
        """Return whether seeds are left."""
        return bool(self._left)

    def run_next(self, slot: str, version: str) -> list[tuple[Seed, Verdict]]:
        """Try the version on the next batch; return each seed with its verdict. Trials that did not begin after a failure are in the next batch."""
        batch, width, until = self._left.pop(0), self.seeds["width"], self.seeds["until"]
        if not self._is_former and (self.passed or self.is_unknown):
            verdicts = trials.run_trials(slot, version, batch, width, until, has_passed=True)
        else:
            verdicts = trials.run_trials(slot, version, batch, width, until)
        pairs = list(zip(batch, verdicts, strict=True))
        if later := [seed for seed, verdict in pairs if verdict.get("not_begun")]:
            self._left.insert(0, later)
        self.passed += sum(verdict["verdict"] == "pass" for verdict in verdicts)
        self.tried += sum(bool(verdict.get("checks")) for verdict in verdicts)
        self.is_unknown = self.is_unknown or any(verdict.get("unknown") for verdict in verdicts)
        return [(seed, verdict) for seed, verdict in pairs if not verdict.get("not_begun")]


def untried_reason(verdict: Verdict) -> str:
    """Return why a user on whose databases there was no verdict is withheld. A run that an earlier t3flow began knows no `unknown`."""
    try_now = f"; to try it now: t3flow enqueue drain {verdict['seed']}"
    return verdict.get("unknown") or f"not tried on this database yet: {verdict['failed']}{try_now}"


def blame(
    version: str, default: str, failed: list[tuple[Seed, Verdict]], rounds: Rounds, *, seeds_known_bad: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Given seeds on which the version failed, run the controls. Raises Refused if the version is at fault.

    Return the users whose database is at fault, and the users for whom there is no verdict, each with the reason.
    """
    at_fault, withheld, failing = {}, {}, {}
    seeds, until = rounds.seeds, rounds.compares_until
    controls = trials.run_controls([seed for seed, _ in failed], seeds["width"], until) if failed else []
    for (seed, verdict), control in zip(failed, controls, strict=True):
        if control["verdict"] == "pass":
            failing[seed["user"]] = verdict["failed"]
        elif control["verdict"] == "fail":
            at_fault[seed["user"]] = f"{seed['version']}, the version in use, fails as well: {control['failed']}"
            if not seeds_known_bad:
                seeds_known_bad = True
                check_gate_itself(default, control, until)
        else:
            cause = f"{seed['version']} could not be tried for comparison: {control['failed']}"
            withheld[seed["user"]] = f"{version} fails on this database ({verdict['failed']}), and {cause}"
    if failing:
        others = f" (and on {', '.join(list(failing)[1:])})" if len(failing) > 1 else ""
        user, evidence = next(iter(failing.items()))
        fix = (
            ""
            if user == trials.NO_USER
            else f"; to leave them out: t3flow enqueue bump {' '.join(f'--without {shlex.quote(each)}' for each in failing)}"
        )
        count = sum(len(batch) for batch in seeds["batches"])
        tried = f" (tried on {rounds.tried} of {count} databases)" if rounds.tried < count else ""
        raise Refused(
            "gate_failed", f"{version} fails on the databases of {user}: {evidence}{others}{tried}{fix}", list(failing)
        )
    return at_fault, withheld


def check_gate_itself(default: str, control: Verdict, until: float) -> None:
    """Once the version in use has failed, check that it passes on an empty base dir. Raises Refused if it does not, or there is no time."""
    if control["seed"] != trials.NO_USER:
        control = trials.run_controls([trials.empty_seed(default)], 1, until)[0]
    if control["verdict"] != "pass":
        problem = "fails on" if control["verdict"] == "fail" else "could not be tried on"
        reason = f"{default}, which is in use, {problem} an empty base dir too: {control['failed']}"
        raise Refused("gate_inconclusive", f"the gate or this host is at fault: {reason}")


def refuse_older_schema(slot: str, version: str, default: str, seeds: Seeds, snapshots: list[Snapshot]) -> None:
    """Raise Refused if an older version has another schema level: an operator may go back within a level by a bump, across one by a rollback."""
    tried = trials.run_trials(slot, version, [trials.empty_seed(default)], 1, Rounds(seeds).compares_until)[0]
    highest = max((snapshot["level"] for snapshot in snapshots), default=0)
    back = f"to go back: t3flow enqueue rollback --to {version}"
    if tried["verdict"] != "pass":
        reason = f"{version} did not pass on an empty base dir, so its schema is unknown: {tried['failed']}"
        raise Refused("gate_inconclusive", reason)
    if tried["level"] < highest:
        reason = f"{version} knows schema level {tried['level']}, but databases are at level {highest}; {back}"
        raise Refused("refused_downgrade", reason)
    for snapshot in snapshots:
        if not snapshot["problem"] and (
            unknown := compatibility.unknown_migration(tried["schema"], snapshot.get("schema") or {})
        ):
            reason = f"{version} does not fit the databases of {snapshot['user']}: {unknown}; {back}"
            raise Refused("refused_downgrade", reason)


def judge_each(
    slot: str, version: str, default: str, users: list[User], snapshots: list[Snapshot]
) -> dict[str, tuple[str, str]]:
    """Try a version on databases that are judged alone: it is accepted already, or their trial is late. Return the same as `pass_gate`.

    A failure concerns that user only. Raises Refused if nothing passes and the version fails on an empty base dir as well.
    """
    seeds = trials.choose_seeds(users, snapshots, default)
    withheld: dict[str, tuple[str, str]] = {}
    rounds = Rounds(seeds)
    while rounds:
        for _, verdict in rounds.run_next(slot, version):
            if verdict["verdict"] == "fail":
                withheld[verdict["seed"]] = ("skipped", f"{version} fails on this database: {verdict['failed']}")
            elif verdict["verdict"] == "inconclusive":
                withheld[verdict["seed"]] = ("deferred", untried_reason(verdict))
    failed = any(kind == "skipped" for kind, _ in withheld.values())
    if failed and not rounds.passed:
        empty = trials.run_trials(slot, version, [trials.empty_seed(version)], 1, rounds.compares_until)[0]
        if empty["verdict"] == "fail":
            reason = f"{version} fails on an empty base dir too: {empty['failed']}"
            raise Refused("gate_inconclusive", f"the gate or this host is at fault: {reason}")
    if untried := sorted({*withheld} - {trials.NO_USER}):
        trials.note_untried(version, untried)
    return withheld


def first(reasons: dict[str, str]) -> str:
    """Return one reason of several."""
    return next((f"{user}: {reason}" for user, reason in reasons.items()), "nothing was tried")
