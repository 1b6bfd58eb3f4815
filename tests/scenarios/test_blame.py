"""A restart that fails: a version is rejected for what its own server did, and for nothing else. Each fault with who is at fault, and a control.

The manager of units is wrapped so that it refuses when a test says so, as systemd does for a unit that is masked or has hit its start limit.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
from rigged import Rig
from scenes import FIRST, NEXT, write

from t3flow.engine.flow import MAX_CRASHES
from t3flow.engine.history import undo_reference
from t3flow.engine.journal import Event, append_event
from t3flow.engine.runs import new_run
from t3flow.host import disk_space
from t3flow.host.backups import store
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.records import deferral_records, facts
from t3flow.sandbox.host import Sandbox

NOT_SCRATCH = {"not_scratch": True}


@pytest.fixture
def rig(make_box: Callable[..., Sandbox], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rig]:
    def make(behavior: dict[str, Any] | None = None, users: tuple[str, ...] = ("ada",)) -> Rig:
        box = make_box(list(users), consumer=False)
        monkeypatch.setenv("PATH", box.environment["PATH"])
        return Rig(box, behavior or {"schema_level": 32})

    return make


def noted(rig: Rig) -> list[Event]:
    """Return the notes that a user was not moved for no fault of the version, oldest first."""
    runs = sorted(rig.host.journal.runs("workflow = 'drain'"), key=lambda run: run.created)
    events = [event for run in runs for event in rig.host.journal.events(run.id)]
    return [event for event in events if (event.kind, event.step) == ("completed", "note_not_moved")]


def test_control_a_version_that_cannot_pair_is_rejected(rig: Callable[..., Rig]) -> None:
    """The control for all other tests: the version's own server ran and did not pair, and the previous one does."""
    made = rig({"schema_level": 32, "rules": [{"fault": "pairing_500", "when": NOT_SCRATCH}]})
    made.drain()
    assert made.verdict == (True, True)
    assert (made.box.assigned("ada"), made.box.level("ada")) == (FIRST, 30)
    assert made.box.pairs("ada")


def test_a_manager_that_refuses_the_new_server_blames_nobody(rig: Callable[..., Rig]) -> None:
    """None of the version's code ran. The user is back, deferred with the cause, and named in `status`."""
    made = rig()
    made.manager.refuses = {NEXT}
    made.drain()
    assert made.verdict == (False, False)
    assert (made.box.assigned("ada"), made.box.level("ada"), made.box.pairs("ada")) == (FIRST, 30, True)
    assert (made.deferral().waiting_for, "masked" in made.deferral().detail) == ("unreadable_state", True)
    assert "ada could not be moved to" in made.status()
    made.drain()
    waits = [event.data["result"] - event.at for event in noted(made)]
    assert waits[1] > 1.5 * waits[0], "each try takes her server away for a moment: later each time"
    made.manager.refuses = set()
    made.drain()
    assert made.box.assigned("ada") == NEXT
    assert "could not be moved" not in made.status()


def test_a_manager_that_refuses_both_owes_a_start(rig: Callable[..., Rig]) -> None:
    """The undo cannot start the previous server either: a run of its own retries that, and the version is not at fault."""
    made = rig()
    made.manager.refuses = {NEXT, FIRST}
    made.drain()
    assert made.verdict == (False, False)
    assert (made.box.assigned("ada"), made.box.level("ada")) == (FIRST, 30)
    assert made.deferral().waiting_for == "server_stopped"
    assert "ROLLBACK FAILED" in made.deferral().detail
    [revive] = made.host.journal.runs("workflow = 'revive'")
    made.manager.refuses = set()
    made.engine.advance(revive.id)
    assert made.host.journal.run(revive.id).status == "succeeded"
    assert made.box.pairs("ada")


def test_a_dispatch_that_dies_meanwhile_blames_nobody(rig: Callable[..., Rig]) -> None:
    """There is no witness, and the previous version does not pair either: tracking is frozen because a user is down, and nothing is rejected."""
    made = rig()

    def kill(version: str) -> None:
        if version == NEXT:
            made.box.kill("dispatch")

    made.manager.before_start = kill
    made.drain()
    assert made.verdict == (False, True)
    assert (made.box.assigned("ada"), made.box.level("ada")) == (FIRST, 30)


def test_a_port_file_that_is_damaged_meanwhile_blames_nobody(rig: Callable[..., Rig]) -> None:
    """The user's own configuration is broken. It is repaired while the undo runs."""
    made = rig()
    file = made.box.top / "etc/t3-serve/ada.env"
    right = file.read_text()

    def damage(version: str) -> None:
        file.write_text(right)

    made.manager.before_start = damage
    start = made.manager.start

    def start_and_damage(user: str) -> None:
        start(user)
        if made.box.assigned(user) == NEXT:
            file.write_text("# T3_PORT is gone\n")

    made.manager.start = start_and_damage  # type: ignore[method-assign]
    made.drain()
    assert made.verdict == (False, False)
    assert (made.box.assigned("ada"), made.box.pairs("ada")) == (FIRST, True)
    assert "T3_PORT" in made.deferral().detail


def test_a_person_who_stops_the_unit_meanwhile_blames_nobody(rig: Callable[..., Rig]) -> None:
    """The server ends as after a stop by an operator."""
    made = rig({"schema_level": 32, "rules": [{"fault": "slow_start", "seconds": 30, "when": NOT_SCRATCH}]})
    start = made.manager.start

    def start_and_stop(user: str) -> None:
        start(user)
        if made.box.assigned(user) == NEXT:
            time.sleep(0.5)
            made.box.supervise("stop", user)

    made.manager.start = start_and_stop  # type: ignore[method-assign]
    made.drain()
    assert made.verdict == (False, False)
    assert (made.box.assigned("ada"), made.box.pairs("ada")) == (FIRST, True)
    assert "was stopped while it was verified" in made.deferral().detail


def test_a_full_disk_blames_nobody(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot write does not pair. Every disk counts as full here; the version is the one of the control."""
    monkeypatch.setattr(disk_space, "MIN_BYTES", 2**60)
    made = rig({"schema_level": 32, "rules": [{"fault": "pairing_500", "when": NOT_SCRATCH}]})
    made.drain()
    assert made.verdict == (False, False)
    assert (made.box.assigned("ada"), made.box.pairs("ada")) == (FIRST, True)
    assert "is full" in made.deferral().detail


def test_a_server_of_an_unknown_kind_blames_nobody(rig: Callable[..., Rig]) -> None:
    """After the restart it reports its version in an unknown way: the user is back, and the run is inconclusive."""
    when = {**NOT_SCRATCH, "path": "/.well-known/t3/environment"}
    made = rig({"schema_level": 32, "rules": [{"fault": "answers", "status": 404, "when": when}]})
    made.drain()
    assert made.verdict == (False, False)
    assert (made.box.assigned("ada"), made.box.level("ada"), made.box.pairs("ada")) == (FIRST, 30, True)
    assert made.deferral().waiting_for == "unreadable_state"


def test_a_second_snapshot_that_fails_is_not_tried_at_each_check(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server was stopped for it and is back: each attempt comes later, and `status` says so."""
    made = rig()
    take = store.take

    def take_or_fail(host: Any, user: str, **more: Any) -> Any:
        if made.manager.state(user).main_pid is None:
            raise OwnerProblem("the copy is gone")
        taken = take(host, user, **more)
        write(made.box.database(user), f"create table written_{time.monotonic_ns()} (x)")
        return taken

    monkeypatch.setattr(store, "take", take_or_fail)
    made.drain()
    made.drain()
    waits = [event.data["result"] - event.at for event in noted(made)]
    assert len(waits) == 2
    assert waits[1] > 1.5 * waits[0]
    assert (made.box.assigned("ada"), made.box.pairs("ada"), made.verdict) == (FIRST, True, (False, False))
    assert "ada could not be moved to" in made.status()


def test_the_other_users_go_on(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """One user's unit is masked during a bump: the other users are moved and the version is accepted."""
    made = rig(users=("ada", "grace"))
    monkeypatch.setenv("npm_config_registry", made.box.environment["npm_config_registry"])
    made.manager.refuses, made.manager.only_of = {NEXT}, {"ada"}
    time.sleep(1.1)
    run = new_run(made.host.journal, "bump", {"target": NEXT}) or ""
    made.engine.advance(run)
    ended = made.host.journal.run(run)
    told = {user: found["result"] for user, found in ended.result["users"].items()}
    assert (ended.outcome, told) == ("updated", {"ada": "deferred", "grace": "restarted"}), ended.result
    assert made.verdict == (False, False)
    assert (made.box.assigned("ada"), made.box.pairs("ada")) == (FIRST, True)
    assert "ada could not be moved to" in made.status()


def bumped(rig: Rig) -> tuple[str, dict[str, str]]:
    """Return the outcome of a bump to NEXT, and the result of each user."""
    time.sleep(1.1)
    run = new_run(rig.host.journal, "bump", {"target": NEXT}) or ""
    rig.engine.advance(run)
    ended = rig.host.journal.run(run)
    return str(ended.outcome), {user: found["result"] for user, found in ended.result["users"].items()}


def test_a_fault_of_unknown_cause_ends_a_bump_at_the_second_user(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No third user is stopped for an unknown fault: tracking is frozen, and nothing is rejected."""
    made = rig(users=("ada", "grace", "ken", "linus"))
    monkeypatch.setenv("npm_config_registry", made.box.environment["npm_config_registry"])
    made.manager.refuses = {NEXT}
    before = {user: made.box.supervise("status", user)["main_pid"] for user in made.box.users}
    outcome, told = bumped(made)
    assert (outcome, made.verdict) == ("rolled_back", (False, True))
    assert told == {"ada": "rolled_back", "grace": "rolled_back", "ken": "untouched", "linus": "untouched"}
    after = {user: made.box.supervise("status", user)["main_pid"] for user in made.box.users}
    assert [user for user in before if before[user] != after[user]] == ["ada", "grace"]
    assert all(made.box.pairs(user) for user in made.box.users)
    assert made.host.journal.runs("workflow = 'drain'") == [], "and none is stopped by a drain"


def test_a_manager_that_starts_nothing_any_more_ends_a_bump_at_the_first_user(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first user is down, and the next one would be too."""
    made = rig(users=("ada", "grace"))
    monkeypatch.setenv("npm_config_registry", made.box.environment["npm_config_registry"])
    made.manager.refuses = {NEXT, FIRST}
    outcome, told = bumped(made)
    assert (outcome, told) == ("rolled_back", {"ada": "failed", "grace": "untouched"})
    assert made.verdict == (False, True)
    assert made.box.pairs("grace")
    [revive] = made.host.journal.runs("workflow = 'revive'")
    made.manager.refuses = set()
    made.engine.advance(revive.id)
    assert made.box.pairs("ada")


def test_who_was_moved_before_an_inconclusive_end_is_watched(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version answers in an unknown way for grace only: ada keeps it, and her pairings are watched."""
    when = {**NOT_SCRATCH, "path": "/.well-known/t3/environment", "database_has_project_title": "odd"}
    made = rig({"schema_level": 32, "rules": [{"fault": "answers", "status": 404, "when": when}]}, ("ada", "grace"))
    monkeypatch.setenv("npm_config_registry", made.box.environment["npm_config_registry"])
    write(made.box.database("grace"), "update projection_projects set title = 'odd'")
    outcome, told = bumped(made)
    assert (outcome, told) == ("gate_inconclusive", {"ada": "restarted", "grace": "rolled_back"})
    assert made.verdict == (False, False)
    [watch] = made.host.journal.runs("workflow = 'bake'")
    assert (watch.args, list(facts.read(made.host.journal, "bake")["users"])) == ({"version": NEXT}, ["ada"])


def test_a_drain_of_all_ends_at_the_second_user_too(rig: Callable[..., Rig]) -> None:
    made = rig(users=("ada", "grace", "linus"))
    made.manager.refuses = {NEXT}
    for user in made.box.users:
        deferral_records.put_deferral(made.host.journal, user, "none", NEXT, "quiet_period", time.time())
    time.sleep(1.1)
    server = made.box.supervise("status", "linus")["main_pid"]
    ended = made.now()
    assert (ended.outcome, sorted(ended.result["users"]), made.verdict) == (
        "rolled_back",
        ["ada", "grace"],
        (False, True),
    )
    assert made.box.supervise("status", "linus")["main_pid"] == server


def test_drains_do_not_stop_one_user_after_another_for_nothing(rig: Callable[..., Rig]) -> None:
    """Each drain is a run of its own: after one user was stopped in vain, the others wait a while, or until a user was moved."""
    made = rig(users=("ada", "grace"))
    made.manager.refuses = {NEXT}
    made.drain("ada")
    server = made.box.supervise("status", "grace")["main_pid"]
    made.drain("grace")
    assert made.box.supervise("status", "grace")["main_pid"] == server
    assert (made.deferral("grace").waiting_for, "ada could not be moved" in made.deferral("grace").detail) == (
        "host_busy",
        True,
    )
    made.manager.refuses = set()
    assert made.now("ada").outcome == "updated"
    made.drain("grace")
    assert made.box.assigned("grace") == NEXT


@pytest.mark.parametrize("step", ["start_server", "verify_user", "assign_version"])
def test_a_consumer_that_is_killed_again_and_again_blames_no_version(rig: Callable[..., Rig], step: str) -> None:
    """The next run would kill it too, so tracking is frozen; the version is not rejected."""
    made = rig()
    journal = made.host.journal
    record = journal.transaction

    def die_before(name: str) -> None:
        """Write the journal that MAX_CRASHES consumers leave when they die in the step."""
        from t3flow.engine.flow import Flow

        perform = Flow._perform

        def dying(self: Flow, found: Any, args: Any, kwargs: Any, done: str, failed: str, note: Any) -> Any:
            if found.name == name and done == "completed":
                for _ in range(MAX_CRASHES):
                    with record() as connection:
                        data = {"args": list(args), "kwargs": kwargs, **undo_reference(found)}
                        event = append_event(connection, self.run.id, "started", name, 1, data)
                    self.events.append(event)
            return perform(self, found, args, kwargs, done, failed, note)

        Flow._perform = dying  # type: ignore[method-assign]
        try:
            made.drain()
        finally:
            Flow._perform = perform  # type: ignore[method-assign]

    die_before(step)
    assert made.verdict == (False, True)
    assert (made.box.assigned("ada"), made.box.pairs("ada")) == (FIRST, True)
