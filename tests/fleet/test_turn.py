"""Turns of hosts on one real Redis: who may start a version, who holds the slot, and when it is given back."""

import threading

import pytest
from conftest import RedisServer
from records_of import record
from redis import Redis
from turns import NEW, OLD, MakeHost, accept, asked, begin, end, holders, make_fleet_of, own_run, publish

from t3flow.fleet import known, looking, own, turn
from t3flow.fleet.errors import FleetError, FleetUnreachable
from t3flow.fleet.members import Fleet
from t3flow.fleet.own import TURN
from t3flow.fleet.redis_store import RedisStore
from t3flow.fleet.turn import ask
from t3flow.host.host import Host
from t3flow.host.pruning import ACCEPTED
from t3flow.host.records import actions, facts, rejections
from t3flow.host.records.actions import Actor
from t3flow.host.records.facts import BAKE, BAKE_CUT_SHORT
from t3flow.service import fleet_operations
from t3flow.service.operations import Desk


def test_one_slot_is_held_by_one_host_which_may_take_it_again(make_host: MakeHost) -> None:
    (a, fleet), (b, _) = make_host("a"), make_host("b")
    first, second = begin(a), begin(b)
    assert asked(a, first) == ""
    assert asked(b, second) == "the slot is held by a: t3flow fleet status"
    assert asked(a, first) == ""
    assert holders(a, fleet) == ["a"]


def test_two_slots_are_for_two_hosts(make_host: MakeHost) -> None:
    hosts = [make_host(name, slots=2) for name in "abc"]
    answers = [asked(host, begin(host)) for host, _ in hosts]
    assert answers == ["", "", "all slots are held by a, b: t3flow fleet status"]
    assert asked(hosts[0][0], begin(hosts[0][0])) == "", "a takes no second one"
    assert holders(*hosts[0]) == ["a", "b"]


def test_a_host_that_loses_one_slot_takes_the_next(make_host: MakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host takes the first slot between the look and the claim: no message would tell this host that the second one is free."""
    (a, fleet), (b, _) = make_host("a", slots=2), make_host("b", slots=2)
    publish(a, fleet)
    store, run = fleet.store, begin(b)
    assert store is not None
    take = store.take

    def late(number: int, claim: bytes) -> bool:
        assert number or asked(b, run) == ""
        return take(number, claim)

    monkeypatch.setattr(store, "take", late)
    assert ask(a, NEW, begin(a), is_bump=True).is_granted
    assert holders(a, fleet) == ["b", "a"]


def test_of_many_hosts_at_once_one_wins(make_host: MakeHost) -> None:
    """The same moment, 20 times: never two, never none."""
    hosts = [make_host(name) for name in "abc"]
    for _ in range(20):
        barrier, won = threading.Barrier(3), []

        def race(host: Host, run: str, barrier: threading.Barrier = barrier, won: list[str] = won) -> None:
            barrier.wait(10)
            if not asked(host, run):
                won.append(run)

        runs = [(host, begin(host)) for host, _ in hosts]
        threads = [threading.Thread(target=race, args=each) for each in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(won) == 1
        for host, run in runs:
            end(host, run, "cancelled")
        for host, fleet in hosts:
            publish(host, fleet)
        assert holders(*hosts[0]) == [""]


def test_a_later_wave_waits_for_acceptance_and_bake(make_host: MakeHost) -> None:
    (a, a_fleet), (b, _) = make_host("a"), make_host("b", wave=1)
    run = begin(b)
    assert asked(b, run).startswith("the host a has published no record: start t3flow there")
    publish(a, a_fleet)
    accept(a, NEW)
    publish(a, a_fleet)
    assert asked(b, run).startswith("the host c has published no record")
    (b.settings.fleet.peers / "c.pub").unlink()
    facts.write(a.journal, ACCEPTED, [OLD])
    (a.settings.paths.versions_dir / "current").unlink()
    publish(a, a_fleet)
    assert asked(b, run) == f"the host a of wave 0 has not accepted {NEW}"
    accept(a, NEW)
    facts.write(a.journal, BAKE, {"run": "bake-1", "version": NEW, "verdict": None})
    publish(a, a_fleet)
    assert asked(b, run) == f"the host a of wave 0 is watching pairings on {NEW}"
    facts.write(a.journal, BAKE, None)
    facts.write(a.journal, BAKE_CUT_SHORT, NEW)
    publish(a, a_fleet)
    assert asked(b, run) == f"the host a of wave 0 is watching pairings on {NEW}", "a cancelled bake is no good end"
    facts.write(a.journal, BAKE_CUT_SHORT, None)
    publish(a, a_fleet)
    assert asked(b, run) == ""


def test_a_silent_host_of_an_earlier_wave_holds_a_later_one_back(make_host: MakeHost) -> None:
    """Its old record says that it verified the version: too old counts as no word. A host of the same wave may be silent."""
    (a, a_fleet), (b, b_fleet) = make_host("a"), make_host("b", wave=1)
    (b.settings.fleet.peers / "c.pub").unlink()
    assert a_fleet.store is not None
    now = a_fleet.store.now()

    def tell(age_hours: float, wave: int) -> None:
        assert a_fleet.store is not None
        seq = facts.change(a.journal, "n", lambda n: (n or 0) + 1)
        told = record("a", seq=seq, at=now - age_hours * 3600, wave=wave, verified=(NEW,))
        a_fleet.store.publish("a", a_fleet.keys().sign("record", told.body()))

    tell(27, 0)
    assert asked(b, begin(b)).startswith("the host a of wave 0 is silent")
    tell(27, 1)
    assert asked(b, begin(b)) == ""
    end(b, own_run(b), "cancelled")
    publish(b, b_fleet)
    tell(25, 0)
    assert asked(b, begin(b)) == ""


def test_what_one_host_rejected_no_other_starts(make_host: MakeHost) -> None:
    """Unless an operator has it tried again. The rejecting host's name is in the reason."""
    (a, a_fleet), (b, _) = make_host("a"), make_host("b")
    rejections.reject(a.journal, NEW, "grace cannot pair", [])
    publish(a, a_fleet)
    run = begin(b)
    assert asked(b, run) == "rejected by the host a: grace cannot pair"
    assert rejections.rejected(b.journal) == {NEW: "rejected by the host a: grace cannot pair"}
    assert ask(b, NEW, run, is_bump=True, again=True).is_granted
    publish(b, make_fleet_of(b))
    assert list(known.read(looked(b, make_fleet_of(b)).journal).records["b"].rejected) == [], (
        "b does not pass it on as its own"
    )


@pytest.mark.parametrize(
    ("result", "after", "kept"),
    [
        ("deferred", "", False),
        ("untouched", "", False),
        ("rolled_back", "rejected", True),
        ("rolled_back", "", True),
        ("failed", "", True),
        ("restarted", "", True),
        ("restarted", "baking", True),
        ("restarted", "verified", False),
        ("restarted", "rejected", True),
    ],
)
def test_when_the_slot_is_given_back(make_host: MakeHost, result: str, after: str, kept: bool) -> None:
    """At the end of a run that restarted no user, and when the bake ended well; never after a failure."""
    host, fleet = make_host("a")
    run = begin(host)
    assert asked(host, run) == ""
    publish(host, fleet)
    assert holders(host, fleet) == ["a"], "while the run is under way"
    if after in ("baking", "verified"):
        accept(host, NEW)
    if after == "baking":
        facts.write(host.journal, BAKE, {"run": "bake-1", "version": NEW, "verdict": None})
    if after == "rejected":
        rejections.reject(host.journal, NEW, "it failed", [])
    end(host, run, ada=result)
    publish(host, fleet)
    assert (holders(host, fleet), facts.read(host.journal, TURN) is not None) == (["a"] if kept else [""], kept)


def test_a_failure_stays_owed_until_a_later_version_does_well(make_host: MakeHost) -> None:
    """A run for another version that restarts no user does not free what an earlier failure holds."""
    host, fleet = make_host("a")
    run = begin(host)
    asked(host, run)
    rejections.reject(host.journal, NEW, "it failed", [])
    end(host, run, "rolled_back", ada="rolled_back")
    later = begin(host)
    assert asked(host, later, "3.0.0") == ""
    end(host, later, "cancelled")
    publish(host, fleet)
    assert holders(host, fleet) == ["a"]
    last = begin(host)
    assert asked(host, last, "4.0.0") == ""
    accept(host, "4.0.0")
    end(host, last, ada="restarted")
    publish(host, fleet)
    assert holders(host, fleet) == [""]


def test_a_slot_that_an_operator_freed_is_owed_no_more(make_host: MakeHost) -> None:
    host, fleet = make_host("a")
    run = begin(host)
    asked(host, run)
    rejections.reject(host.journal, NEW, "it failed", [])
    end(host, run, "rolled_back", ada="rolled_back")
    publish(host, fleet)
    found = looking.look(host.journal, fleet)
    assert fleet.store is not None
    assert found.slots[0].content is not None
    assert fleet.store.free(0, found.slots[0].content)
    assert not fleet.store.free(0, found.slots[0].content), "a repeat is a no-op"
    publish(host, fleet)
    assert facts.read(host.journal, TURN) is None


def test_the_first_slot_is_recorded_with_the_operator_who_freed_it(make_host: MakeHost) -> None:
    """Its number is 0, which is no missing argument."""
    host, fleet = make_host("a")
    assert asked(host, begin(host)) == ""
    desk = Desk(host.settings, host.journal, Actor("cli", "root"))
    assert fleet_operations.release(desk, None, 0) == "Freed slot 0; the next host may take its turn"
    assert holders(host, fleet) == [""]
    assert [each.arguments for each in actions.recent(host.journal, 5)] == [{"slot": 0}]


def test_the_slot_of_a_host_without_a_key_is_freed_by_its_name(make_host: MakeHost) -> None:
    """The runbook says to remove the key of a host that is gone, and to free its slot."""
    (a, _), (b, fleet) = make_host("a"), make_host("b")
    assert asked(a, begin(a)) == ""
    (b.settings.fleet.peers / "a.pub").unlink()
    assert "unreadable claim (fleet.peers has no key of a)" in asked(b, begin(b))
    desk = Desk(b.settings, b.journal, Actor("cli", "root"))
    assert fleet_operations.release(desk, "c", None) == "c holds no slot"
    desk = Desk(b.settings, b.journal, Actor("cli", "root"))
    assert fleet_operations.release(desk, "a", None) == "Freed slot 0 of a; the next host may take its turn"
    assert looking.look(b.journal, fleet).slots[0].is_free


def test_a_claim_that_does_not_verify_is_not_taken_over(make_host: MakeHost, redis_server: RedisServer) -> None:
    host, _ = make_host("a")
    Redis.from_url(redis_server.url).set("t3flow:default:slot:0", b"rubbish")
    assert asked(host, begin(host)).startswith("the slot is held by an unreadable claim (it is not a signed record)")


def test_groups_do_not_see_each_other(make_host: MakeHost) -> None:
    (a, a_fleet), (b, _) = make_host("a"), make_host("b", group="other", wave=1)
    rejections.reject(a.journal, NEW, "bad", [])
    publish(a, a_fleet)
    assert asked(a, begin(a), "3.0.0") == ""
    for peer in ("a", "c"):
        (b.settings.fleet.peers / f"{peer}.pub").unlink()
    assert asked(b, begin(b)) == ""


def test_without_redis_no_host_has_its_turn(make_host: MakeHost, redis_server: RedisServer) -> None:
    """One line without a password; what is known of rejections stands."""
    host, fleet = make_host("a", url=f"redis://a:geheim@127.0.0.1:{free()}/0")
    reason = asked(host, begin(host))
    assert reason.startswith("the fleet's Redis does not answer: ")
    assert "geheim" not in reason
    assert known.read(host.journal).problem == reason
    with pytest.raises(FleetUnreachable):
        looking.look(host.journal, fleet)


def free() -> int:
    """Return a port on which nothing listens."""
    from t3flow.sandbox.host import free_port

    return free_port()


def test_alone_only_after_so_many_hours_without_an_answer(make_host: MakeHost, log: list[str]) -> None:
    """The hours are those in which the consumer found it silent. A known rejection still counts."""
    host, _ = make_host("a", url=f"redis://127.0.0.1:{free()}/0", alone_after_hours=2, wave=1)
    run = begin(host)
    assert asked(host, run)
    known.note_unreachable(host.journal, "no answer", 2 * 3600 - 60)
    assert asked(host, run)
    known.note_unreachable(host.journal, "no answer", 60)
    assert asked(host, run) == ""
    assert facts.read(host.journal, TURN)["is_alone"]
    assert any("without the fleet" in line for line in log)
    rejections.note_of_host(host.journal, "b", {NEW: "bad"})
    assert asked(host, run) == "rejected by the host b: bad"


def test_a_refusal_of_redis_never_lets_a_host_go_alone(make_host: MakeHost, redis_server: RedisServer) -> None:
    """A wrong password or a missing key is no silence of the fleet."""
    url = redis_server.url.replace("unix://", "unix://a:wrong@")
    host, _ = make_host("a", url=url, alone_after_hours=1)
    known.note_unreachable(host.journal, "no answer", 1e6)
    reason = asked(host, begin(host))
    assert reason.startswith("the fleet's Redis refuses this host: ")
    other, _ = make_host("b", alone_after_hours=1)
    known.note_unreachable(other.journal, "no answer", 1e6)
    other.settings.fleet.key_file.unlink()
    assert asked(other, begin(other)).endswith("create it with: t3flow fleet key")
    assert known.read(host.journal).unreachable_for == 0.0, (
        "an answer ends the silence that would let the host go alone"
    )


def test_a_host_may_join_without_a_restart(make_host: MakeHost) -> None:
    """Its key is enough; before that its record is ignored."""
    (a, a_fleet), (b, _), (c, c_fleet) = make_host("a"), make_host("b", wave=1), make_host("c")
    key = b.settings.fleet.peers / "c.pub"
    aside = key.rename(key.with_suffix(".aside"))
    accept(a, NEW)
    publish(a, a_fleet)
    publish(c, c_fleet)
    assert asked(b, run := begin(b)) == ""
    aside.rename(key)
    assert asked(b, run) == f"the host c of wave 0 has not accepted {NEW}"


def test_verified_needs_a_finished_bake_and_no_run_in_between(make_host: MakeHost) -> None:
    """A run accepts and begins its bake in two steps: no other host may see the moment between them."""
    host, _ = make_host("a")
    accept(host, NEW)
    assert own.verified(host) == [OLD, NEW]
    turn._note_turn(host, NEW, run := begin(host), is_bump=True)
    with host.journal.transaction() as connection:
        connection.execute("insert into locks values ('host', ?, 0)", (run,))
    assert own.verified(host) == [OLD]
    rejections.reject(host.journal, OLD, "bad", [])
    assert (own.verified(host), own.accepted(host)) == ([], [NEW])


def test_numbers_of_records_rise_after_a_lost_journal(make_host: MakeHost) -> None:
    """A host that was installed anew is not taken for a replay."""
    a, fleet = make_host("a")
    publish(a, fleet)
    seq = known.read(looked(a, fleet).journal).records["a"].seq
    facts.write(a.journal, "fleet_seq", None)
    facts.write(a.journal, known.FLEET, None)
    publish(a, fleet)
    assert known.read(looked(a, fleet).journal).records["a"].seq > seq


def looked(host: Host, fleet: Fleet) -> Host:
    """Look at the fleet."""
    looking.look(host.journal, fleet)
    return host


def test_the_account_may_not_write_as_another_host(redis_server: RedisServer) -> None:
    """Without rules in Redis it may, and the doctor says so; with rules it may not."""
    admin = Redis.from_url(redis_server.url)
    store = RedisStore(redis_server.url, "default", 1)
    assert store.may_write_another("a")
    rules = "on >pw resetchannels &t3flow:default:changes ~t3flow:default:host:a ~t3flow:default:slot:* +@all"
    admin.execute_command("ACL", "SETUSER", "a", *rules.split())
    limited = RedisStore(redis_server.url.replace("unix://", "unix://a:pw@"), "default", 1)
    assert not limited.may_write_another("a")
    with pytest.raises(FleetError, match="refuses"):
        limited.publish("b", b"x")
    limited.publish("a", b"x")
    assert set(limited.hosts_with_a_record()) - {"a:probe"} == {"a"}


def test_a_host_that_the_others_cannot_see_takes_no_slot(make_host: MakeHost, redis_server: RedisServer) -> None:
    """Not before its first record, and not while its newest one is not there."""
    host, fleet = make_host("a")
    run = begin(host)
    assert "the record of this host" in ask(host, NEW, run, is_bump=True).reason
    publish(host, fleet)
    facts.change(host.journal, own.SEQ, lambda seq: seq + 1)  # as if the next record could not be written
    assert "the record of this host" in ask(host, NEW, run, is_bump=True).reason
    publish(host, fleet)
    assert ask(host, NEW, run, is_bump=True).is_granted


def test_what_redis_forgot_is_put_back(
    make_host: MakeHost, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each host that knows a claim puts it back before it publishes again; until then it counts as held."""
    monkeypatch.setattr("t3flow.fleet.keeper.GRACE_SECONDS", 0.01)
    (a, a_fleet), (b, b_fleet) = make_host("a"), make_host("b")
    assert asked(a, begin(a)) == ""
    publish(b, b_fleet)
    looking.look(b.journal, b_fleet)
    Redis.from_url(redis_server.url).flushall()
    assert [slot.claim and slot.claim.host for slot in looking.look(b.journal, b_fleet).slots] == ["a"]
    publish(b, b_fleet)
    assert "held by a" in ask(b, NEW, begin(b), is_bump=True).reason
    publish(a, a_fleet)
    assert ask(a, NEW, begin(a), is_bump=True).is_granted, "the holder has it again"
