"""When messages are derived: once for each fact, not again every night, and again when it is over."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from t3flow.engine.runs import Outcome, end_run, new_run
from t3flow.host import freeze
from t3flow.host.host import Host
from t3flow.host.pairing import last_pairings
from t3flow.host.records import outbox, tables
from t3flow.service.notifications import derive, pings, told
from t3flow.service.notifications.derive import Deriver
from t3flow.settings.schema import Notify
from t3flow.state import observed
from t3flow.state.documents import Problem

HOOK = "webhook"


class World:
    """A host without servers, and what is derived for its channel."""

    def __init__(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = host
        self.now = 1000.0
        self.problems: list[Problem] = []
        tables.migrate_facts(host.journal)
        outbox.keep_channels(host.journal, {HOOK: "shown", pings.CHANNEL: "shown"})
        self.restart()
        monkeypatch.setattr(Deriver, "_problems", lambda deriver: list(self.problems))

    def restart(self) -> None:
        self.derive = Deriver(self.host, [HOOK], has_ping=True, clock=lambda: self.now)

    def run(self, outcome: str, workflow: str = "bump", *, freezes: bool = False, **args: Any) -> str:
        """Begin and end a run."""
        run = new_run(self.host.journal, workflow, args)
        assert run is not None
        if freezes:
            freeze.freeze(self.host.settings, self.host.journal, "it is bad", by=run)
        status = {"updated": "succeeded", "up_to_date": "succeeded", "refused_rejected": "succeeded"}.get(
            outcome, "failed"
        )
        end_run(self.host.journal, self.host.journal.run(run), Outcome(outcome, f"it is {outcome}", status))
        return run

    def told(self, later: float = 0.0) -> list[list[str]]:
        """Return the occasions of what is derived now, and send it."""
        self.now += later
        self.derive()
        found = []
        while letter := outbox.due(self.host.journal, HOOK, time.time()):
            found.append(letter.document["occasions"])
            self.last = letter.document
            outbox.note_sent(self.host.journal, HOOK, "shown", letter)
        return found

    def ping(self) -> dict[str, Any]:
        """Return the ping that waits."""
        letter = outbox.due(self.host.journal, pings.CHANNEL, time.time())
        assert letter is not None
        outbox.drop(self.host.journal, letter)
        return letter.document


@pytest.fixture
def world(bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> World:
    return World(bare(), monkeypatch)


def problem(key: str, user: str | None = "ada") -> Problem:
    return Problem(key=key, user=user, text=f"{user}: {key}", remedy=f"try again with: t3flow verify {user}")


def test_a_cause_that_repeats_each_night_is_told_once(world: World) -> None:
    assert world.told() == []
    world.run("gate_inconclusive")
    assert world.told() == [["failed"]]
    for outcome in ("gate_inconclusive", "frozen", "cancelled", "gate_inconclusive"):
        world.run(outcome)
        world.restart()
        assert world.told() == [], outcome
    world.run("registry_unreachable")
    assert world.told() == [["failed"]], "another cause"
    world.run("up_to_date")
    assert world.told() == [["recovered"]]
    world.run("up_to_date")
    assert world.told() == []
    world.run("error")
    world.run("gate_failed")
    world.run("updated")
    assert world.told() == [["failed"], ["failed"], ["updated", "recovered"]], "one message for a run"
    assert "Bumps work again." in world.last["text"]


def test_what_a_person_starts_is_told_each_time(world: World) -> None:
    world.run("error", "rollback", users=[])
    world.run("error", "rollback", users=[])
    assert world.told() == [["failed"], ["failed"]]


def test_the_failure_of_one_user_is_not_that_of_another(world: World) -> None:
    for user, expected in (("ada", [["failed"]]), ("ada", []), ("grace", [["failed"]])):
        world.run("error", "drain", user=user)
        assert world.told() == expected
    world.run("up_to_date", "drain", user="ada")
    assert world.told() == [["recovered"]]


def test_users_who_are_moved_within_minutes_share_a_message(world: World) -> None:
    """Also over a restart of the consumer; what fails meanwhile is told at once."""
    first = world.run("updated", "drain", user="ada")
    assert world.told() == []
    world.run("updated", "drain", user="grace")
    world.run("error", "drain", user="linus")
    assert world.told() == [["failed"]]
    world.restart()
    assert world.told() == []
    with world.host.journal.transaction() as connection:
        connection.execute("update news set at = at - ?", (derive.GATHER_SECONDS,))
    world.restart()
    assert world.told() == [["updated"]]
    assert world.last["title"].endswith("2 deferred users were moved")
    assert (world.last["key"], world.last["run"]) == (first, None)
    world.restart()
    assert world.told() == []
    run = world.run("updated", "drain", user="ada")
    with world.host.journal.transaction() as connection:
        connection.execute("update news set at = at + 1e6")
    assert world.told() == [["updated"]], "a clock that was set back delays nothing"
    assert world.last["run"]["run"] == run


def test_a_freeze_by_a_run_belongs_to_the_message_of_the_run(world: World) -> None:
    run = new_run(world.host.journal, "bump", {})
    assert run is not None
    freeze.freeze(world.host.settings, world.host.journal, "it is bad", by=run)
    assert world.told(later=60) == [], "the run is about to tell it"
    end_run(world.host.journal, world.host.journal.run(run), Outcome("rolled_back", "it is bad", "failed"))
    assert world.told() == [["rolled_back", "frozen"]]
    assert world.told(later=60) == []
    freeze.unfreeze(world.host.settings, world.host.journal)
    assert world.told() == [["recovered"]]
    assert world.told(later=60) == []


def test_a_freeze_by_a_run_that_tells_nothing_has_a_message(world: World) -> None:
    world.run("frozen", "bake", freezes=True)
    assert world.told() == [["frozen"]]
    assert world.told(later=60) == []


def test_a_freeze_by_hand_is_told_once_its_record_had_time_to_follow(world: World) -> None:
    world.host.settings.paths.freeze_file.touch()
    assert world.told() == []
    assert world.told(later=1.1) == [["frozen"]]
    world.restart()
    assert world.told(later=60) == []
    world.host.settings.paths.freeze_file.unlink()
    assert world.told() == [["recovered"]]


def test_problems_are_told_together_and_once(world: World) -> None:
    world.problems = [problem("unpaired"), problem("unpaired", "grace"), problem("unknown_t3"), problem("server_down")]
    world.problems.pop()  # which `_problems` leaves out
    assert world.told(later=10) == [["failed"]]
    assert world.last["commands"] == ["t3flow verify ada", "t3flow verify grace"]
    assert [each["key"] for each in world.last["problems"]] == ["unpaired", "unpaired", "unknown_t3"]
    world.restart()
    assert world.told(later=86400) == []
    world.problems = world.problems[1:]
    assert world.told(later=10) == [["recovered"]]
    assert not world.last["title"].endswith("well again")
    world.problems = []
    assert world.told(later=10) == [["recovered"]]
    assert world.last["title"].endswith("well again")


def test_each_thing_of_the_host_with_the_same_problem_is_told(world: World) -> None:
    """The second host of a fleet that falls silent is, and the first that is back is no word on the other. Their texts change with time."""

    def silent(host: str, days: int) -> Problem:
        text = f"The host {host} of the fleet is silent: it was seen {days} days ago"
        return Problem(key="fleet_host_silent", user=None, text=text, remedy="check with: t3flow fleet status")

    settle = told.SETTLE_SECONDS["fleet_host_silent"]
    world.problems = [silent("devvm1", 2)]
    assert [world.told(later=10), world.told(later=settle)] == [[], [["failed"]]]
    world.problems = [silent("devvm1", 3), silent("devvm2", 2)]
    assert [world.told(later=10), world.told(later=settle)] == [[], [["failed"]]]
    assert "devvm2" in world.last["text"]
    assert "devvm1" not in world.last["text"]
    world.problems = [silent("devvm2", 3)]
    assert [world.told(later=10), world.told(later=settle)] == [[], [["recovered"]]]
    assert "devvm1" in world.last["text"]


def test_a_problem_that_passes_at_once_is_not_told(world: World) -> None:
    """Nor is its end, if it comes back at once."""
    settle = told.SETTLE_SECONDS["unmanaged"]
    world.problems = [problem("unmanaged")]
    assert world.told(later=10) == []
    world.problems = []
    assert world.told(later=10) == []
    world.problems = [problem("unmanaged")]
    assert world.told(later=settle) == [], "it is a new one"
    assert world.told(later=settle) == [["failed"]]
    world.problems = []
    assert world.told(later=10) == []
    world.problems = [problem("unmanaged")]
    assert world.told(later=settle) == []
    world.problems = []
    assert world.told(later=10) == []
    assert world.told(later=settle) == [["recovered"]]


def test_a_dispatch_that_is_down_makes_no_user_well(world: World) -> None:
    """Its problem stands for those of the users, which are not over."""
    world.problems = [problem("unpaired")]
    assert world.told(later=10) == [["failed"]]
    world.problems = [problem("dispatch", None)]
    assert world.told(later=10) == [["failed"]]
    world.problems = []
    assert world.told(later=10) == [["recovered"]]


def test_problems_wait_while_a_run_changes_the_host(world: World) -> None:
    with world.host.journal.transaction() as connection:
        connection.execute("insert into locks values ('host', 'bump-x', 0)")
    world.problems = [problem("unpaired")]
    assert world.told(later=10) == []
    with world.host.journal.transaction() as connection:
        connection.execute("delete from locks")
    assert world.told(later=10) == [["failed"]]


def test_a_run_of_a_newer_t3flow_that_keeps_the_host_is_told(world: World) -> None:
    """It was left alone with the lease, so that no other run changes the host until an operator acts, which takes a message."""
    run = new_run(world.host.journal, "bump", {}) or ""
    with world.host.journal.transaction() as connection:
        connection.execute("insert into locks values ('host', ?, 0)", (run,))
    world.problems = [problem("newer_run", None)]
    assert world.told(later=10) == [], "the run is at work"
    with world.host.journal.transaction() as connection:
        connection.execute("update runs set held = 'newer' where id = ?", (run,))
    assert world.told(later=10) == [["failed"]]


def test_a_failed_and_a_successful_verify_are_told(bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real read model: what it finds is what is told."""
    look = Deriver._problems
    world = World(bare(), monkeypatch)
    monkeypatch.setattr(Deriver, "_problems", look)
    journal = world.host.journal
    observed.record(world.host)
    last_pairings.note_pairing(journal, "ada", "the dispatch returned 502")
    found = world.told(later=10)
    assert found == [["failed"]]
    assert "ada could not pair" in world.last["text"]
    last_pairings.note_pairing(journal, "ada", "")
    assert world.told(later=10) == [["recovered"]]


def test_only_the_wanted_occasions_are_told(bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    host = bare()
    host = derive.Host(
        host.settings._replace(notify=Notify(on=["frozen"])), host.journal, host.children, host.services, host.hint
    )
    world = World(host, monkeypatch)
    world.run("updated")
    world.run("rolled_back", freezes=True)
    assert world.told() == [["frozen"]], "the message of the run says it"
    freeze.unfreeze(host.settings, host.journal)
    assert world.told() == []


def test_news_of_days_ago_is_not_told(world: World) -> None:
    world.run("error", due=1.0)
    with world.host.journal.transaction() as connection:
        connection.execute("update news set at = at - ?", (4 * 86400,))
    assert world.told() == []
    assert outbox.waiting(world.host.journal) == {}


def test_a_run_that_was_deleted_is_no_news(world: World) -> None:
    run = world.run("error")
    with world.host.journal.transaction() as connection:
        connection.execute("delete from events where run = ?", (run,))
        connection.execute("delete from runs where id = ?", (run,))
    assert world.told() == []
    assert outbox.news(world.host.journal) == []


def test_the_pings_of_scheduled_bumps_alone(world: World) -> None:
    """Only the newest state waits to be sent."""
    world.run("updated")
    world.told()
    assert outbox.waiting(world.host.journal) == {}
    run = new_run(world.host.journal, "bump", {"due": 1.0})
    assert run is not None
    world.told()
    begun = world.ping()
    assert begun["action"] == "start"
    end_run(world.host.journal, world.host.journal.run(run), Outcome("up_to_date", "nothing new"))
    world.run("error", due=1.0)
    world.told()
    ended = world.ping()
    assert ended["action"] == "fail"
    assert ended["rid"] != begun["rid"]
    assert ended["body"].splitlines()[-1].endswith("ended as error: it is error")
    assert outbox.waiting(world.host.journal) == {}


def test_a_heartbeat_never_hides_trouble(world: World) -> None:
    """Fail after a failed bump, during a freeze by a run, and when a look was missed; not during a freeze that a person made."""
    settings, journal = world.host.settings, world.host.journal

    def beat() -> str:
        return pings.heartbeat(settings, journal)["action"]

    assert beat() == "success"
    world.run("error")
    assert beat() == "fail"
    world.run("error", dry_run=True)
    world.run("refused_rejected")
    assert beat() == "success"
    world.run("rolled_back", freezes=True)
    assert beat() == "fail"
    world.run("frozen")
    assert beat() == "fail", "still frozen by the run"
    freeze.unfreeze(settings, journal)
    world.run("up_to_date")
    assert beat() == "success"
    freeze.freeze(settings, journal, "demo day", by="root")
    assert beat() == "success"
    freeze.unfreeze(settings, journal)
    daily = settings._replace(schedule=settings.schedule._replace(bump="0 4 * * *", jitter_s=3600.0))
    assert pings.what_is_wrong(daily, journal, time.time() + 3600) == ""
    problem = pings.what_is_wrong(daily, journal, time.time() + 30 * 3600)
    assert problem.startswith("No look at the tag since ")
    assert problem.endswith("t3flow enqueue bump")
    new_run(journal, "bump", {"due": 1.0})
    assert pings.what_is_wrong(daily, journal, time.time() + 30 * 3600) == "", "it looks"
