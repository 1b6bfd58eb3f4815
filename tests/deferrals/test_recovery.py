"""A drain that ends in an error is replaced with backoff; its cause is in the deferral, and logged once there are many."""

import time
from collections.abc import Callable

import pytest

from t3flow.deferrals import blockers, deferral, long_waits, recovery
from t3flow.deferrals.recovery import revive_drains
from t3flow.engine.engine import Engine
from t3flow.engine.queue import open_queue
from t3flow.engine.runs import Outcome, end_run
from t3flow.host.host import Host, set_current_host
from t3flow.host.records import deferral_records
from t3flow.state import deferrals

NEXT = "0.0.25-nightly.20260609.501"
NEWER = "0.0.25-nightly.20260610.502"
CAUSE = "internal error in step await_idle: KeyError: 'x'"


def drain(user: str) -> Outcome:
    """Fail as a drain does if one of its steps raises an error."""
    return Outcome("error", CAUSE, "failed")


class Minutes:
    """A host with a deferral of ada, whose minutes pass when the test says so."""

    def __init__(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host, self.real, self.later = host, time.time, 0.0
        monkeypatch.setattr(time, "time", lambda: self.real() + self.later)
        set_current_host(host)
        queue = open_queue(f"sqlite://{host.settings.paths.state_dir}/queue.db", b"k" * 32)
        self.engine = Engine(host.journal, queue, {"drain": drain})
        deferral.put_off(NEXT, {"ada": "active_turn"})

    def tick(self) -> None:
        """Do what each minute does for drains, and what workers then do with the hints that are due."""
        revive_drains(self.engine, self.host)
        for run in self.host.journal.runs("status = 'running' and wake_at <= ?", time.time()):
            self.engine.advance(run.id)
        self.later += 60

    @property
    def tries(self) -> int:
        return len(self.host.journal.runs("workflow = 'drain' and status != 'running'"))

    def deferral(self) -> deferral_records.Deferral:
        found = deferral_records.deferral(self.host.journal, "ada")
        assert found is not None
        return found


@pytest.fixture
def minutes(bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> Minutes:
    return Minutes(bare(), monkeypatch)


def test_a_drain_that_fails_is_tried_later_and_later(minutes: Minutes, log: list[str]) -> None:
    """15 times in ten hours instead of 600; the deferral stays, with the cause and the time of the next attempt; log and `status` show it."""
    minutes.tick()
    minutes.tick()
    found = minutes.deferral()
    assert (found.waiting_for, CAUSE in found.detail) == ("unreadable_state", True), found
    assert found.next_check is not None
    assert 0 < found.next_check - (time.time() - 60) <= recovery.FIRST_SECONDS
    assert blockers.MARK not in "".join(log), "once is not logged"
    for _ in range(598):
        minutes.tick()
    assert 10 <= minutes.tries <= 20, minutes.tries
    said = [line for line in log if blockers.MARK in line]
    assert len(said) == 1, "once a day"
    assert CAUSE in said[0]
    [shown] = deferrals.deferrals(minutes.host.journal)
    assert shown["old"].endswith("; t3flow enqueue drain ada")
    assert CAUSE in shown["old"]
    assert minutes.host.journal.run(minutes.deferral().run).status == "running", "there is always one delayed task"
    gap = minutes.host.journal.run(minutes.deferral().run).wake_at
    assert gap is not None
    assert gap - time.time() <= recovery.LONGEST_SECONDS


def test_a_drain_that_ended_otherwise_is_made_at_once(minutes: Minutes) -> None:
    """A lost run, or one that succeeded while the deferral was renewed, is no failure."""
    first = minutes.host.journal.run(minutes.deferral().run)
    end_run(minutes.host.journal, first, Outcome("up_to_date", "", "succeeded"))
    revive_drains(minutes.engine, minutes.host)
    second = minutes.deferral()
    assert second.run != first.id
    assert (second.waiting_for, blockers.lines(minutes.host.journal)) == ("active_turn", {})
    wake_at = minutes.host.journal.run(second.run).wake_at
    assert wake_at is not None
    assert wake_at <= time.time()
    revive_drains(minutes.engine, minutes.host)
    assert minutes.deferral().run == second.run


def test_what_was_renewed_or_dropped_meanwhile_stays_so(
    bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first of many gets a drain, a bump gives the second a newer version, and an operator drops the third."""
    minutes = Minutes(bare(("ada", "bob", "cyd")), monkeypatch)
    journal = minutes.host.journal
    deferral.put_off(NEXT, {"bob": "active_turn", "cyd": "active_turn"})
    for entry in deferral_records.deferrals(journal):
        end_run(journal, journal.run(entry.run), Outcome("error", CAUSE, "failed"))

    hinted: list[str] = []

    def meanwhile(run_id: str, at: float | None = None) -> None:
        if not hinted:
            deferral_records.drop_deferral(journal, "cyd")
            deferral.put_off(NEWER, {"bob": "active_turn"})
        hinted.append(run_id)

    monkeypatch.setattr(minutes.engine, "hint", meanwhile)
    revive_drains(minutes.engine, minutes.host)
    assert {entry.user: entry.version for entry in deferral_records.deferrals(journal)} == {"ada": NEXT, "bob": NEWER}
    assert {
        entry.status
        for entry in journal.runs()
        if entry.id in {each.run for each in deferral_records.deferrals(journal)}
    } == {"running"}


def test_what_was_said_is_forgotten_once_the_user_is_moved(minutes: Minutes) -> None:
    for _ in range(20):
        minutes.tick()
    assert list(blockers.lines(minutes.host.journal)) == ["ada"]
    long_waits.forget(minutes.host.journal, "ada")
    assert blockers.lines(minutes.host.journal) == {}
