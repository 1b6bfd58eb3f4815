"""A restart that fails: a version is rejected for what its own server did, and for nothing else. Each fault with who is at fault, and a control.

The manager of units is wrapped so that it refuses when a test says so, as systemd does for a unit that is masked or has hit its start limit.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
from rigged import Rig
from scenes import FIRST, NEXT

from t3flow.engine.flow import MAX_CRASHES
from t3flow.engine.journal import Event, append_event
from t3flow.engine.runs import new_run
from t3flow.host import room
from t3flow.sandbox.host import Sandbox

NOT_SCRATCH = {"not_scratch": True}


@pytest.fixture
def rig(make_box: Callable[..., Sandbox], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rig]:
    def make(behaviour: dict[str, Any] | None = None, users: tuple[str, ...] = ("ada",)) -> Rig:
        box = make_box(list(users), consumer=False)
        monkeypatch.setenv("PATH", box.environment["PATH"])
        return Rig(box, behaviour or {"schema_level": 32})

    return make


def noted(rig: Rig) -> list[Event]:
    """The notes that a user was not moved for no fault of the version, oldest first."""
    runs = sorted(rig.host.journal.runs("workflow = 'drain'"), key=lambda run: run.created)
    events = [event for run in runs for event in rig.host.journal.events(run.id)]
    return [event for event in events if (event.kind, event.step) == ("completed", "note_not_moved")]


def test_control_a_version_that_cannot_pair_is_rejected(rig: Callable[..., Rig]) -> None:
    """The control for all that follows: the version's own server ran and did not pair, and the former one does."""
    made = rig({"schema_level": 32, "rules": [{"fault": "pairing_500", "when": NOT_SCRATCH}]})
    made.drain()
    assert made.verdict == (True, True)
    assert (made.box.assigned("ada"), made.box.level("ada")) == (FIRST, 30)
    assert made.box.pairs("ada")


def test_a_manager_that_refuses_the_new_server_blames_nobody(rig: Callable[..., Rig]) -> None:
    """Nothing of the version ran. The user is back, deferred with the cause, and named in `status`."""
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
    """The undo cannot start the former server either: that is retried by a run of its own, and the version is not to blame."""
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
    """There is no other user to ask, and the former version does not pair either: tracking is frozen as a user is left, and nothing rejected."""
    made = rig()

    def kill(version: str) -> None:
        if version == NEXT:
            made.box.kill("dispatch")

    made.manager.before_start = kill
    made.drain()
    assert made.verdict == (False, True)
    assert (made.box.assigned("ada"), made.box.level("ada")) == (FIRST, 30)


def test_a_port_file_that_is_damaged_meanwhile_blames_nobody(rig: Callable[..., Rig]) -> None:
    """What leads to the server is the user's configuration. It is mended while the undo runs."""
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
    """The server ends as one that was asked to stop does."""
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
    """A server that cannot write does not pair. Any disk counts as full here; the version is that of the control."""
    monkeypatch.setattr(room, "LEAST_BYTES", 2**60)
    made = rig({"schema_level": 32, "rules": [{"fault": "pairing_500", "when": NOT_SCRATCH}]})
    made.drain()
    assert made.verdict == (False, False)
    assert (made.box.assigned("ada"), made.box.pairs("ada")) == (FIRST, True)
    assert "is full" in made.deferral().detail


def test_a_server_of_an_unknown_kind_blames_nobody(rig: Callable[..., Rig]) -> None:
    """In place it says its version in a way that is not known: the user is back, and the run ends without a verdict."""
    when = {**NOT_SCRATCH, "path": "/.well-known/t3/environment"}
    made = rig({"schema_level": 32, "rules": [{"fault": "answers", "status": 404, "when": when}]})
    made.drain()
    assert made.verdict == (False, False)
    assert (made.box.assigned("ada"), made.box.level("ada"), made.box.pairs("ada")) == (FIRST, 30, True)
    assert made.deferral().waiting_for == "unreadable_state"


def test_the_other_users_go_on(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a bump one user's unit is masked: the others are moved and the version is accepted."""
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


@pytest.mark.parametrize("step", ["start_server", "verify_user", "assign_version"])
def test_a_consumer_that_is_killed_again_and_again_blames_no_version(rig: Callable[..., Rig], step: str) -> None:
    """It would be killed in the next run too, so tracking is frozen; the version is not remembered as bad."""
    made = rig()
    journal = made.host.journal
    record = journal.transaction

    def die_before(name: str) -> None:
        """As MAX_CRASHES consumers that died in the step have left the journal."""
        from t3flow.engine.flow import Flow

        perform = Flow._perform

        def dying(self: Flow, found: Any, args: Any, kwargs: Any, done: str, failed: str, note: Any) -> Any:
            if found.name == name and done == "completed":
                for _ in range(MAX_CRASHES):
                    with record() as connection:
                        event = append_event(
                            connection, self.run.id, "started", name, 1, {"args": list(args), "kwargs": kwargs}
                        )
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
