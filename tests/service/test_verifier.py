"""The hourly verify on a real host: servers, dispatch, journal. The clockwork is called by hand, so that no test waits for an hour."""

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from t3flow.engine.runs import new_run
from t3flow.host.host import Host, open_host
from t3flow.host.pairing import last_pairings, opened_sessions, revocation, verify_records
from t3flow.sandbox.host import Sandbox
from t3flow.service import verifier
from t3flow.service.verifier import Verifier

USERS = ["ada", "grace", "linus"]


class Clockwork:
    """A verifier without its pauses: a retry is due at once, and `rounds` advances until nothing is left to do now."""

    def __init__(self, box: Sandbox) -> None:
        self.box = box
        self.restart()

    def restart(self) -> None:
        """Take over from a consumer that was killed."""
        self.host = open_host(self.box.settings, self.box.journal)
        self.verifier = Verifier(self.host, threading.Event())

    def rounds(self, most: int = 12) -> None:
        for _ in range(most):
            if self.verifier.advance() == verifier.POLL_SECONDS:
                return
            if verify_records.dispatch_fault(self.host.journal) is not None:
                return

    def forget(self) -> None:
        """Make every user due, as an hour later."""
        with self.host.journal.transaction() as connection:
            connection.execute("update pairing_checks set at = at - 3700")

    @property
    def reasons(self) -> dict[str, str]:
        return {user: last["reason"] for user, last in last_pairings.pairings(self.host.journal).items()}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "SETTLED_SECONDS", 0.0)
    monkeypatch.setattr(verifier, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(verifier, "SKIP_SECONDS", 0.0)


@pytest.fixture
def box(make_box: Callable[..., Sandbox], impatient: None) -> Sandbox:
    return make_box(USERS, consumer=False)


@pytest.fixture
def work(box: Sandbox) -> Clockwork:
    return Clockwork(box)


def break_map(box: Sandbox, user: str) -> None:
    """Give a user's server a database without its sessions: the dispatch's exchange answers 500."""
    with closing(sqlite3.connect(box.database(user), timeout=10)) as connection, connection:
        connection.execute("drop table auth_pairing_links")


def live_sessions(box: Sandbox, user: str) -> list[str]:
    with closing(sqlite3.connect(box.database(user))) as connection:
        rows = connection.execute("select session_id from auth_sessions where revoked_at is null").fetchall()
    return [row[0] for row in rows]


def test_all_are_verified_and_none_again_before_an_hour(work: Clockwork, box: Sandbox) -> None:
    work.rounds()
    assert work.reasons == dict.fromkeys(USERS, "")
    seen = last_pairings.last_seen(work.host.journal)
    work.rounds()
    assert last_pairings.last_seen(work.host.journal) == seen
    work.forget()
    work.rounds()
    assert all(last_pairings.last_seen(work.host.journal)[user] > seen[user] for user in USERS)


def test_a_user_who_cannot_pair_is_named_after_a_retry(work: Clockwork, box: Sandbox, log: list[str]) -> None:
    work.rounds()
    break_map(box, "grace")
    work.forget()
    work.rounds()
    assert "grace" in work.reasons
    assert "502" in work.reasons["grace"]
    assert (work.reasons["ada"], work.reasons["linus"]) == ("", "")
    assert verify_records.dispatch_fault(work.host.journal) is None
    assert [line for line in log if "USER UNPAIRED: grace cannot pair" in line]


def test_one_failure_is_no_outage(work: Clockwork, box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dispatch fails once for Ada. Her retry succeeds, so she is never called unpaired."""
    work.rounds()
    work.forget()
    calls = []
    real = verifier.probe.probe

    def fail_once(host: Host, user: str) -> None:
        calls.append(user)
        if user == "ada" and calls.count("ada") == 1:
            raise verifier.probe.NotPaired("the dispatch answers 502 instead of 302")
        real(host, user)

    monkeypatch.setattr(verifier.probe, "probe", fail_once)
    work.rounds()
    assert calls.count("ada") == 2
    assert work.reasons == dict.fromkeys(USERS, "")


def test_the_dispatch_is_named_if_no_user_pairs(work: Clockwork, box: Sandbox, log: list[str]) -> None:
    work.rounds()
    box.end("dispatch")
    work.forget()
    work.rounds()
    fault = verify_records.dispatch_fault(work.host.journal)
    assert fault is not None
    assert "none of the users tried can pair" in fault["problem"]
    assert work.reasons == dict.fromkeys(USERS, ""), "no user is named for a fault of the dispatch"
    assert [line for line in log if "NO PAIRING" in line]
    work.restart()  # a kill loses no fault
    box.start_dispatch()
    work.rounds()
    work.rounds()
    assert verify_records.dispatch_fault(work.host.journal) is None
    assert work.reasons == dict.fromkeys(USERS, "")


def test_the_end_of_a_fault_is_noted(work: Clockwork, box: Sandbox) -> None:
    last_pairings.note_pairing(work.host.journal, "ada", "the dispatch answers 502 instead of 302")
    work.forget()
    work.rounds()
    assert work.reasons["ada"] == ""


def test_nothing_is_verified_while_a_run_has_the_host(work: Clockwork, box: Sandbox) -> None:
    run = new_run(work.host.journal, "bump", {})
    with work.host.journal.transaction() as connection:
        connection.execute("insert into locks values ('host', ?, ?)", (run, time.time()))
    work.rounds()
    assert work.reasons == {}
    state = verify_records.state(work.host.journal)
    assert state["waiting"] == f"{run} has the host"
    with work.host.journal.transaction() as connection:
        connection.execute("delete from locks")
    work.rounds()
    assert work.reasons == dict.fromkeys(USERS, "")
    assert verify_records.state(work.host.journal)["waiting"] == ""


def test_a_server_that_was_restarted_meanwhile_is_not_judged(
    work: Clockwork, box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.rounds()
    work.forget()

    def restarted(host: Host, user: str) -> None:
        box.supervise("stop", user)
        box.supervise("start", user)
        raise verifier.probe.NotPaired("the dispatch answers 502")

    with monkeypatch.context() as patch:
        patch.setattr(verifier.probe, "probe", restarted)
        work.verifier.advance()
        work.verifier.advance()
    assert work.reasons == dict.fromkeys(USERS, "")


def test_a_stopped_server_is_no_failure(work: Clockwork, box: Sandbox) -> None:
    box.supervise("stop", "linus")
    work.rounds()
    assert work.reasons == {"ada": "", "grace": ""}


def test_off(make_box: Callable[..., Sandbox], impatient: None) -> None:
    box = make_box(["ada"], consumer=False, extra="[verify]\nevery_minutes = 0\n")
    work = Clockwork(box)
    work.rounds()
    assert work.reasons == {}


def test_no_session_stays_where_t3_can_revoke_it(make_box: Callable[..., Sandbox], impatient: None) -> None:
    """Generation C revokes; a session that a kill left is revoked by the next consumer."""
    level52 = Path(__file__).parent.parent / "data" / "state-level52.sqlite"
    box = make_box(["ada"], consumer=False, behavior={"generation": "C"}, databases={"ada": level52})
    before = set(live_sessions(box, "ada")) - set(opened_sessions.opened(box.journal).get("ada", []))
    assert set(live_sessions(box, "ada")) != before, "the pairing at the start left a session"
    work = Clockwork(box)
    work.rounds()
    work.rounds()
    assert set(live_sessions(box, "ada")) == before
    assert opened_sessions.opened(work.host.journal) == {}


def test_a_build_that_cannot_revoke_is_not_asked_again(work: Clockwork, box: Sandbox) -> None:
    """Builds before 0.0.42 are not known to revoke: their help names no such command, and nothing is started by the question."""
    processes = [box.supervise("status", user)["pids"] for user in USERS]
    work.rounds()
    assert opened_sessions.opened(work.host.journal) == {}
    assert [box.supervise("status", user)["pids"] for user in USERS] == processes
    assert live_sessions(box, "ada")


def test_status_names_the_unpaired_user_first(work: Clockwork, box: Sandbox) -> None:
    work.rounds()
    break_map(box, "grace")
    work.forget()
    work.rounds()
    shown = box.t3flow("status").stdout.splitlines()
    assert shown[0].startswith("grace could not pair when last tried"), shown
    assert box.document("status")["verify"]["last"] is not None


def test_status_names_the_dispatch_and_no_user_if_none_pairs(work: Clockwork, box: Sandbox) -> None:
    work.rounds()
    box.end("dispatch")
    work.forget()
    work.rounds()
    problems = box.document("status")["problems"]
    assert problems[0]["key"] == "dispatch"
    assert "unpaired" not in {each["key"] for each in problems}
    box.t3flow("verify")  # which records each failure
    problems = box.document("status")["problems"]
    assert (problems[0]["key"], "unpaired" in {each["key"] for each in problems}) == ("dispatch", False)
    box.start_dispatch()


def test_an_overdue_verify_shows(make_box: Callable[..., Sandbox], impatient: None) -> None:
    """A run has had the host for three hours: status and doctor say whom the verify has not reached, and why."""
    box = make_box(["ada", "grace"])
    work = Clockwork(box)
    work.rounds()
    run = new_run(work.host.journal, "bump", {})
    with work.host.journal.transaction() as connection:
        connection.execute("insert into locks values ('other', ?, ?)", (run, time.time()))
        connection.execute("update pairing_checks set at = at - 10800")
        connection.execute("update pairings set since = since - 10800")
        connection.execute(
            "update facts set value = json_set(value, '$.since', ?) where key = 'consumer'", (time.time() - 10800,)
        )
    work.rounds(1)
    [problem] = [each for each in box.document("status")["problems"] if each["key"] == "verify_overdue"]
    assert f"{run} has the host" in problem["text"]
    found = box.t3flow("doctor").stdout
    assert "was not for over two periods" in found
    with work.host.journal.transaction() as connection:
        connection.execute("delete from locks where name = 'other'")


def test_a_frozen_host_is_verified_too(work: Clockwork, box: Sandbox) -> None:
    box.t3flow("freeze", "--reason", "demo day")
    work.rounds()
    assert work.reasons == dict.fromkeys(USERS, "")


def test_a_user_whose_server_was_taken_over_says_nothing_about_the_dispatch(
    work: Clockwork, box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure that is the user's own is named after a retry, without asking anyone else."""
    work.rounds()
    work.forget()
    real, asked = verifier.probe.probe, []

    def taken(host: Host, user: str) -> None:
        asked.append(user)
        if user == "ada":
            raise verifier.probe.PortTaken("port 1 of ada is taken by nc (pid 7)")
        real(host, user)

    monkeypatch.setattr(verifier.probe, "probe", taken)
    work.rounds()
    assert work.reasons == {"ada": "port 1 of ada is taken by nc (pid 7)", "grace": "", "linus": ""}
    assert verify_records.dispatch_fault(work.host.journal) is None


def test_a_session_that_cannot_be_revoked_stays_recorded(
    make_box: Callable[..., Sandbox], impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A locked database: the attempt fails, costs one start of t3, and is made again later."""
    level52 = Path(__file__).parent.parent / "data" / "state-level52.sqlite"
    box = make_box(
        ["ada"], consumer=False, behavior={"generation": "C", "busy_timeout_ms": 50}, databases={"ada": level52}
    )
    host = open_host(box.settings, box.journal)
    pending = opened_sessions.opened(host.journal)
    assert pending
    with closing(sqlite3.connect(box.database("ada"), timeout=10)) as connection:
        connection.execute("begin immediate")
        assert not revocation.revoke_sessions(host, "ada")
        connection.rollback()
    assert opened_sessions.opened(host.journal) == pending
    assert revocation.revoke_sessions(host, "ada")
    assert opened_sessions.opened(host.journal) == {}
