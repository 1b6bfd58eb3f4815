"""The gate's judgement, a part of the bump: three verdicts a database, and a control that tells a bad build from a bad gate. No I/O but in steps."""

from t3flow.engine.runs import Abort, Outcome
from t3flow.gate import trials
from t3flow.gate.trial_run import Verdict
from t3flow.gate.trials import Seed, Seeds
from t3flow.host.backups import compatibility
from t3flow.host.users import Person
from t3flow.t3.versions import parse
from t3flow.tasks import Plan, Snapshot


class Refused(Abort):
    """The gate does not let a version through. `users`: whose databases it fails on, where it alone is to blame."""

    def __init__(self, outcome: str, reason: str, users: list[str] | None = None) -> None:
        super().__init__(Outcome(outcome, reason, "failed"))
        self.reason = reason
        self.users = users or []


def pass_gate(slot: str, plan: Plan, users: list[Person], snapshots: list[Snapshot]) -> dict[str, tuple[str, str]]:
    """Tries the candidate on every seed. Returns who is not to be restarted: user → ("skipped" or "deferred", reason). Raises Refused.

    1. It passes everywhere: good. 2. It fails on a database on which the version in use passes: the build is bad. 3. Both fail: the trouble is
    that database's, its user is skipped. 4. The version in use fails on an empty base dir too, or on more than half of the seeds, or nothing
    passed: the gate or the host is at fault, nobody is blamed. So it is where the candidate fails on more than half, and there was no
    comparing. 5. What was not tried is tried before its user is moved. 6. A candidate of a kind that is not known is neither good nor bad: it is
    tried again in the next run, and before its users are moved.
    """
    seeds = trials.choose_seeds(users, snapshots, plan["default"])
    version, every = plan["target"], [seed for batch in seeds["batches"] for seed in batch]
    if parse(version) < parse(plan["default"]):
        refuse_older_schema(slot, plan, seeds["until"], snapshots)
    passed = 0
    held: dict[str, str] = {}
    at_fault: dict[str, str] = {}
    not_compared: dict[str, str] = {}
    for batch in seeds["batches"]:
        verdicts = trials.try_on(slot, version, batch, seeds["width"], seeds["until"])
        failed = [
            (seed, verdict) for seed, verdict in zip(batch, verdicts, strict=True) if verdict["verdict"] == "fail"
        ]
        theirs, not_told = blame(plan, failed, seeds, seeds_known_bad=bool(at_fault))
        at_fault.update(theirs)
        not_compared.update(not_told)
        passed += sum(verdict["verdict"] == "pass" for verdict in verdicts)
        held.update({each["seed"]: why_held(each) for each in verdicts if each["verdict"] == "inconclusive"})
    if 2 * len(at_fault) > len(every):
        raise Refused(
            "gate_inconclusive",
            f"the version in use fails on {len(at_fault)} of {len(every)} databases too: {first(at_fault)}",
        )
    held.update(not_compared)
    if not passed:
        raise Refused("gate_inconclusive", f"{version} passed no trial: {first({**at_fault, **held})}")
    if 2 * len({**at_fault, **not_compared}) > len(every):
        raise Refused("gate_inconclusive", f"{version} fails on most databases: {first(not_compared)}")
    if held:
        trials.note_untried(version, sorted(held))
    return {
        **{user: ("skipped", reason) for user, reason in at_fault.items()},
        **{user: ("deferred", reason) for user, reason in held.items()},
    }


def why_held(verdict: Verdict) -> str:
    """Return why a user on whose databases there was no verdict is held back. A run that an earlier t3flow began knows no `unknown`."""
    return verdict.get("unknown") or f"not tried on this database yet: {verdict['failed']}"


def blame(
    plan: Plan, failed: list[tuple[Seed, Verdict]], seeds: Seeds, *, seeds_known_bad: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Given seeds on which the candidate failed, tries the version in use on each, within the gate's time. Raises Refused.

    Returns the users whose database is at fault, and those for whom nothing could be told, each with the reason.
    """
    version, default = plan["target"], plan["default"]
    at_fault, held, guilty = {}, {}, {}
    controls = trials.try_controls([seed for seed, _ in failed], seeds["width"], seeds["until"]) if failed else []
    for (seed, verdict), control in zip(failed, controls, strict=True):
        if control["verdict"] == "pass":
            guilty[seed["user"]] = verdict["failed"]
        elif control["verdict"] == "fail":
            at_fault[seed["user"]] = f"{seed['version']} fails as well: {control['failed']}"
            if not seeds_known_bad:
                seeds_known_bad = True
                check_gate_itself(default, control, seeds["until"])
        else:
            why = f"{seed['version']} could not be tried on it to compare: {control['failed']}"
            held[seed["user"]] = f"{version} fails on this database ({verdict['failed']}), and {why}"
    if guilty:
        others = f" (so it does on {', '.join(list(guilty)[1:])})" if len(guilty) > 1 else ""
        user, evidence = next(iter(guilty.items()))
        mend = (
            ""
            if user == trials.NOBODY
            else f"; to go on without: t3flow enqueue bump {' '.join(f'--without {each}' for each in guilty)}"
        )
        raise Refused(
            "gate_failed", f"{version} fails on the database of {user}: {evidence}{others}{mend}", list(guilty)
        )
    return at_fault, held


def check_gate_itself(default: str, control: Verdict, until: float) -> None:
    """Once the version in use has failed: does it on an empty base dir too? Raises Refused, also where that cannot be told in time."""
    if control["seed"] != trials.NOBODY:
        control = trials.try_controls([trials.empty_seed(default)], 1, until)[0]
    if control["verdict"] != "pass":
        what = "fails on" if control["verdict"] == "fail" else "could not be tried on"
        reason = f"{default}, which is in use, {what} an empty base dir too: {control['failed']}"
        raise Refused("gate_inconclusive", f"the gate or this host is at fault: {reason}")


def refuse_older_schema(slot: str, plan: Plan, until: float, snapshots: list[Snapshot]) -> None:
    """A person may go back within a schema level, by a bump; across one only by a rollback. Raises Refused."""
    tried = trials.try_on(slot, plan["target"], [trials.empty_seed(plan["default"])], 1, until)[0]
    highest = max((snapshot["level"] for snapshot in snapshots), default=0)
    back = f"to go back: t3flow enqueue rollback --to {plan['target']}"
    if tried["verdict"] != "pass":
        reason = (
            f"{plan['target']} did not pass on an empty base dir, so that its schema is not known: {tried['failed']}"
        )
        raise Refused("gate_inconclusive", reason)
    if tried["level"] < highest:
        reason = f"{plan['target']} knows schema level {tried['level']}, databases are at {highest}; {back}"
        raise Refused("refused_downgrade", reason)
    for snapshot in snapshots:
        if not snapshot["problem"] and (
            unknown := compatibility.unknown_migration(tried["schema"], snapshot.get("schema") or {})
        ):
            reason = f"{plan['target']} does not fit the databases of {snapshot['user']}: {unknown}; {back}"
            raise Refused("refused_downgrade", reason)


def judge_each(slot: str, plan: Plan, users: list[Person], snapshots: list[Snapshot]) -> dict[str, tuple[str, str]]:
    """Tries a version on the databases of users for whom alone it is judged: it is accepted, or their trial is late. Returns as `pass_gate`.

    What fails there is that user's trouble. Raises Refused where nothing passes, and the version fails on an empty base dir as well.
    """
    version = plan["target"]
    seeds = trials.choose_seeds(users, snapshots, plan["default"])
    held: dict[str, tuple[str, str]] = {}
    passed = False
    for batch in seeds["batches"]:
        for verdict in trials.try_on(slot, version, batch, seeds["width"], seeds["until"]):
            passed = passed or verdict["verdict"] == "pass"
            if verdict["verdict"] == "fail":
                held[verdict["seed"]] = ("skipped", f"{version} fails on their databases: {verdict['failed']}")
            elif verdict["verdict"] == "inconclusive":
                held[verdict["seed"]] = ("deferred", why_held(verdict))
    failed = any(kind == "skipped" for kind, _ in held.values())
    if failed and not passed:
        empty = trials.try_on(slot, version, [trials.empty_seed(version)], 1, seeds["until"])[0]
        if empty["verdict"] == "fail":
            reason = f"{version} fails on an empty base dir too: {empty['failed']}"
            raise Refused("gate_inconclusive", f"the gate or this host is at fault: {reason}")
    if untried := sorted({*held} - {trials.NOBODY}):
        trials.note_untried(version, untried)
    return held


def first(reasons: dict[str, str]) -> str:
    """One reason of several."""
    return next((f"{user}: {reason}" for user, reason in reasons.items()), "nothing was tried")
