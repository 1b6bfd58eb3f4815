"""Bumps: good, stopped by the gate, rolled back, cancelled, frozen in between; and bumps in which a write fails."""

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from rig import BUSY, Attempt, Rig, read
from tracer import Point

from t3flow.engine.journal import Run
from t3flow.host import freeze, slots
from t3flow.host.records import deferral_records


@dataclass(frozen=True)
class Scenario:
    """The fault of a version (a rule of the stand-in), the busy user, and the expected outcome."""

    outcome: str
    rules: tuple[dict[str, Any], ...] = ()
    busy: bool = True
    freeze_after: str = ""
    also: tuple[str, ...] = ()
    """Other correct outcomes, depending on the moment of the kill."""


BUMPS = {
    "good": Scenario("updated"),
    "alone": Scenario("updated", busy=False),
    "gate": Scenario("gate_failed", ({"fault": "mint_fails", "when": {"not_scratch": False}},)),
    "undo": Scenario("rolled_back", ({"fault": "pairing_500", "when": {"not_scratch": True}},), busy=False),
    "cancel": Scenario("cancelled", also=("updated",)),
    "freeze": Scenario("frozen", busy=False, freeze_after="verify_user"),
}


def play_bump(rig: Rig, found: Attempt) -> Generator[tuple[str, dict[str, Any]], Run, None]:
    """Play one bump that may be killed, and the drain of the busy user."""
    scenario = BUMPS[found.scenario]
    if rig.whom.startswith("power:"):
        scenario = replace(scenario, busy=False)  # a power cut ends turns
    target = rig.publish(rig.level + 1, list(scenario.rules))
    turn = rig.box.control(BUSY, "turn/start", agent="claude")["turn"] if scenario.busy else None
    before = {user: rig.server(user) for user in rig.box.users}
    rig.box.environment["T3CRASH_FREEZE_AFTER"] = scenario.freeze_after
    ended = yield "bump", {"target": target}
    look(rig, found, scenario, ended, target, before)
    finish(rig, found, target, turn)


def look(rig: Rig, found: Attempt, scenario: Scenario, ended: Run, target: str, before: dict[str, int | None]) -> None:
    """Compare the result of the run with the expected one."""
    wrong = found.wrong
    undone = ended.outcome == "error" and "the consumer died" in str(ended.result.get("reason"))
    results = {user: entry["result"] for user, entry in ended.result.get("users", {}).items()}
    moved = [user for user in rig.box.users if results.get(user) == "restarted"]
    started_again = "started again meanwhile" in str(ended.result)  # restarted by the boot after a power cut
    also = (*scenario.also, "updated") if started_again else scenario.also
    if ended.outcome not in (scenario.outcome, *also) and not undone:
        wrong.append(f"outcome {ended.outcome}: {ended.result}")
    wanted = rig.idle if scenario.busy else rig.box.users
    if ended.outcome == "updated" and moved != wanted and not started_again:
        wrong.append(f"restarted: {moved}")
    if BUSY in moved and scenario.busy:
        wrong.append(f"{BUSY} was restarted at work")
    for user in rig.box.users:
        if started_again and results.get(user) == "deferred":
            continue  # the drain may already be done
        rig.user_is_on(found, user, *((target, rig.level + 1) if user in moved else (rig.version, rig.level)))
    if scenario.busy and rig.server(BUSY) != before[BUSY]:
        wrong.append(f"the server of {BUSY}, who was at work, is another process")
    accepted = target if ended.outcome == "updated" else rig.version
    for what, is_ in (
        ("default", slots.default_version(rig.settings.paths.versions_dir)),
        ("last-good", slots.read_last_good(rig.settings.paths.last_good_file)),
    ):
        if is_ != accepted:
            wrong.append(f"{what} is {is_}, not {accepted}")
    frozen = freeze.is_frozen(rig.settings)
    if frozen != (undone or ended.outcome in ("rolled_back", "frozen")) and not started_again:
        wrong.append(f"frozen: {frozen} after {ended.outcome}")
    deferred = [entry.user for entry in deferral_records.deferrals(rig.journal)]
    if not started_again and deferred != ([user for user in rig.box.users if user not in moved] if moved else []):
        wrong.append(f"deferred: {deferred}")
    rig.nothing_half_done(found, ended)


def finish(rig: Rig, found: Attempt, target: str, turn: str | None) -> None:
    """Wait until the deferral is done, and prepare the host for the next attempt."""
    waiting = [entry.user for entry in deferral_records.deferrals(rig.journal)]
    rig.unfreeze()
    if turn is not None:
        rig.box.control(BUSY, "turn/end", turn=turn)
    rig.wait(lambda: not deferral_records.deferrals(rig.journal), "every deferral is seen through")
    for user in rig.box.users if found.outcome == "updated" else waiting:
        rig.user_is_on(found, user, target, rig.level + 1)
    if waiting or found.outcome == "updated":
        rig.before = (rig.version, rig.level)
        rig.version, rig.level = target, rig.level + 1
    if (accepted := slots.default_version(rig.settings.paths.versions_dir)) != rig.version:
        found.wrong.append(f"default is {accepted}, not {rig.version}, in the end")
    rig.wait(lambda: not rig.journal.runs("status = 'running' and workflow != 'bake'"), "no run is left")


def attempt_fault(rig: Rig, name: str, point: Point, whom: str) -> Attempt:
    """Play a scenario in which a write fails. Whatever the outcome, program, assignment and database of each user match, and the next bump works."""
    found = Attempt(name)
    rig.staged = True
    target = rig.publish(rig.level + 1, list(BUMPS[name].rules))
    rig.box.environment["T3CRASH_FREEZE_AFTER"] = ""
    run = rig.begin("bump", {"target": target})
    rig.kills, rig.whom, rig.record, rig.births = [point], whom, False, []
    try:
        rig.consumer()
        consumer = rig.box.processes["consumer"]
        rig.box.until(
            lambda: (
                rig.over(run)
                or (whom.endswith("lasting") and b'"failed"' in read(rig.log))
                or consumer.poll() is not None
            ),  # it did not start: its manager starts another
            "it fails",
            150,
        )
        found.reached = b'"failed"' in read(rig.log)
        rig.kills = []
        if not rig.over(run):
            time.sleep(1)
        rig.stop_consumer()
        rig.box.start_consumer()
        rig.wait(lambda: rig.over(run), f"run {run} has ended")
        found.outcome = str(rig.journal.run(run).outcome)
        for user in rig.box.users:
            moved = rig.box.assigned(user) == target
            rig.user_is_on(found, user, *((target, rig.level + 1) if moved else (rig.version, rig.level)))
        rig.unfreeze()
        rig.wait(lambda: not deferral_records.deferrals(rig.journal), "every deferral is seen through")
        later = rig.publish(rig.level + 2)
        said = rig.box.document("enqueue", "bump", "--target", later, "--wait")
        if said["outcome"] != "updated":
            found.wrong.append(f"the next bump: {said}")
        rig.wait(lambda: not deferral_records.deferrals(rig.journal), "nobody is deferred any more")
        rig.before, rig.version, rig.level = None, later, rig.level + 2
        for user in rig.box.users:
            rig.user_is_on(found, user, later, rig.level)
        rig.at_rest(found)
    except Exception as error:
        found.wrong.append(f"{type(error).__name__}: {error}")
    return found
