"""The watch over pairings, on a real journal, queue and log: what it counts, and that nothing makes it count twice.

There are no servers here: who runs what is told by the links, and who cannot pair now by the test. `tests/scenarios/test_bake.py` has the real ones.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from loguru import logger

from t3flow import workflows
from t3flow.engine.engine import Engine
from t3flow.engine.files import make_folder
from t3flow.engine.journal import Run
from t3flow.engine.queue import open_queue
from t3flow.engine.runs import new_run, send_signal
from t3flow.host import freeze, slots
from t3flow.host.host import Host, set_current_host
from t3flow.host.pairing import last_pairings, own_activity
from t3flow.host.records import bakes, facts, rejections
from t3flow.rollout import bake, outcomes, suspicion

OLD, NEW, NEWER = "0.0.24", "0.0.25-nightly.20260609.501", "0.0.25-nightly.20260610.502"
USERS = ("ada", "grace", "ken", "lise", "linus")


class Watch:
    """A host whose users were moved to NEW, except linus, who is deferred; and an engine advanced by hand. `broken`: users who cannot pair now."""

    def __init__(self, host: Host, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        self.broken = {"ada", "grace", "ken", "lise"}
        self.asked: list[str] = []
        monkeypatch.setattr(suspicion, "running_users", self.running_users)
        monkeypatch.setattr(suspicion, "cannot_pair", self.cannot_pair)
        settings = host.settings._replace(bake=host.settings.bake._replace(**changes))
        self.host = dataclasses.replace(host, settings=settings)
        self.log = Path(settings.dispatch.log)
        self.log.touch()
        for version in (OLD, NEW, NEWER):
            folder = make_folder_of(settings.paths.versions_dir, version)
            (folder / slots.MANIFEST).write_text(json.dumps({"version": version}))
        for user in USERS:
            slots.assign(settings.paths.versions_dir, user, OLD if user == "linus" else NEW)
        self.restart()

    def restart(self) -> None:
        """Return another engine, as a consumer that takes over from one that died."""
        queue = open_queue(f"sqlite://{self.host.settings.paths.state_dir}/queue.db", b"k" * 32)
        workflows_known = {**workflows.WORKFLOWS, "begin": begin}
        self.engine = Engine(self.host.journal, queue, workflows_known)
        set_current_host(self.host)

    def running_users(self, host: Host, version: str) -> tuple[list[str], list[str]]:
        led_to = {user: slots.effective(host.settings.paths.versions_dir, user) for user in USERS}
        on_it = [user for user in USERS if led_to[user] == version]
        return on_it, [user for user in USERS if user not in on_it]

    def cannot_pair(self, host: Host, users: list[str], *, tries: int) -> dict[str, str]:
        self.asked += users
        return {user: "the dispatch answers 500" for user in users if user in self.broken}

    def begin(self, version: str, *users: str) -> str:
        """Begin or extend the watch as a bump or drain that moved these users; return the watching run."""
        for user in users:
            slots.assign(self.host.settings.paths.versions_dir, user, version)
        run = new_run(self.host.journal, "begin", {"version": version, "users": list(users)})
        assert run is not None
        self.engine.advance(run)
        return str(self.host.journal.run(run).result["reason"])

    def said(self, *lines: str) -> None:
        with self.log.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def look(self, run: str) -> Run:
        """Poll once, as if its time had come."""
        with self.host.journal.transaction() as connection:
            connection.execute("update runs set wake_at = ? where id = ?", (time.time(), run))
        self.engine.advance(run)
        return self.host.journal.run(run)

    @property
    def frozen(self) -> str:
        found = freeze.frozen(self.host.settings, self.host.journal)
        return found["reason"] if found else ""


def begin(version: str, users: list[str]) -> Any:
    """Run nothing but the step."""
    return outcomes.ended("done", bake.begin_bake(version, users))


def make_folder_of(versions_dir: Path, version: str) -> Path:
    folder = slots.slot_path(versions_dir, version)
    make_folder(folder)
    return folder


def failures(user: str, count: int) -> list[str]:
    return [f"pairing for {user} returned 500"] * count


def fallbacks(user: str, count: int) -> list[str]:
    return [f"paired user={user} endpoint=/api/auth/bootstrap fallback=true"] * count


class Page(BaseHTTPRequestHandler):
    """Serve a dispatch that is up."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def watch(bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watch]]:
    servers: list[HTTPServer] = []

    def make(**changes: Any) -> Watch:
        host = bare(USERS)
        servers.append(HTTPServer(("127.0.0.1", urlsplit(host.settings.dispatch.url).port or 0), Page))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        return Watch(host, monkeypatch, **changes)

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def test_more_failures_than_are_borne_freeze(watch: Callable[..., Watch]) -> None:
    """Three failures are allowed, the fourth is not; the reason names users, counts and the command; the version is rejected."""
    found = watch()
    run = found.begin(NEW, "ada", "grace")
    found.said(*failures("ada", 2), "mint for grace failed: exit 1: no such table")
    assert found.look(run).status == "running"
    assert found.frozen == ""
    found.said(*["pairing exchange for linus failed: TimeoutError at port 1"] * 9)
    assert found.look(run).status == "running", "linus is not on it"
    assert found.asked == []
    found.said(*failures("grace", 1))
    ended = found.look(run)
    assert (ended.status, ended.outcome) == ("failed", "frozen")
    for part in (
        NEW,
        "4 failed pairings",
        "ada 2",
        "grace 2",
        "4 users are on it",
        "enqueue rollback --user ada --user grace;",
        "unfreeze",
    ):
        assert part in ended.result["reason"]
    assert found.frozen == ended.result["reason"] == rejections.rejected(found.host.journal)[NEW]
    assert facts.read(found.host.journal, bake.BAKE) is None
    assert [each.workflow for each in found.host.journal.runs()] == ["begin", "bake"], (
        "no user is rolled back without the setting"
    )


def test_those_concerned_are_rolled_back_if_asked_for(watch: Callable[..., Watch]) -> None:
    """The rollback goes before other runs, once, and only for users on the version."""
    found = watch(rollback=True, max_failures=1)
    run = found.begin(NEW, "ada", "grace")
    found.said(*failures("ada", 1), *failures("grace", 1), *failures("linus", 1))
    assert found.look(run).outcome == "rolled_back"
    [back] = found.host.journal.runs("workflow = 'rollback'")
    assert (back.args["users"], back.priority) == (["ada", "grace"], bake.ROLLBACK_PRIORITY)
    assert "rolling back ada, grace" in found.frozen


def test_what_is_no_fault_of_the_version_does_not_count(watch: Callable[..., Watch]) -> None:
    """Each of these would freeze if it counted; the last line shows that such a line does."""
    found = watch(max_failures=1)
    run = found.begin(NEW, "ada", "grace")
    found.look(run)
    time.sleep(0.02)
    found.said(*["mint for ada failed: exit 1: Error: database is locked"] * 9)
    found.said(*failures("nobody-here", 9), *failures("../../etc", 9), *failures("root", 9))
    found.said(*fallbacks("linus", 9), "x" * 100_000, "\x00\x1b[2J")
    with own_activity.probing(found.host.journal, "grace"):
        found.said(*failures("grace", 9))
    own_activity.note_restart(found.host.journal, "ada")
    found.said(*failures("ada", 9))
    own_activity.note_restart_end(found.host.journal, "ada")
    assert found.look(run).status == "running", found.frozen
    assert facts.read(found.host.journal, bake.BAKE)["counted"] == []
    found.said(*failures("linus", 9))
    assert found.look(run).status == "running", "not on it"
    found.said(*failures("ken", 1), *failures("lise", 1))
    assert found.look(run).status == "failed"


@pytest.mark.parametrize(("on_it", "least"), [(1, 1), (2, 2), (3, 2), (40, 2), (41, 3), (100, 5), (300, 15), (301, 16)])
def test_how_many_users_must_fail(on_it: int, least: int) -> None:
    """At least two and at least 5 %, or all where they are fewer."""
    assert suspicion.least_users(on_it) == least


def test_noise_on_a_large_host_suspects_nothing(watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch) -> None:
    """Four failures in ten minutes among 300 users, of one user or of four; 15 users are the control."""
    found = watch()
    everybody = [f"user{number}" for number in range(300)]
    monkeypatch.setattr(suspicion, "running_users", lambda host, version: (everybody, []))

    def suspected(users: list[str], each: int) -> bool:
        counted = [[1000.0 + number, "failure", user, each] for number, user in enumerate(users)]
        return suspicion.suspect(found.host, NEW, counted) is not None

    assert not suspected(everybody[:1], 50)
    flood = [[float(second), "failure", user, 1] for second in range(600) for user in everybody[:14]]
    began = time.process_time()
    assert suspicion.suspect(found.host, NEW, flood) is None
    assert time.process_time() - began < 1, "it polls every five seconds"
    assert not suspected(everybody[:4], 1)
    assert not suspected(everybody[:14], 3)
    assert suspected(everybody[:15], 1)


def test_one_user_of_several_is_that_users_trouble(watch: Callable[..., Watch]) -> None:
    """The only user on a version is all of them."""
    found = watch()
    run = found.begin(NEW, "ada", "grace")
    found.said(*failures("ada", 50))
    assert found.look(run).status == "running"
    for user in USERS:
        slots.assign(found.host.settings.paths.versions_dir, user, NEW if user == "ada" else OLD)
    assert found.look(run).status == "failed"


def test_what_passes_by_itself_blames_nobody(watch: Callable[..., Watch]) -> None:
    """Users who failed and can pair now, as with expired links: their counts are dropped, and the watch continues."""
    found = watch()
    run = found.begin(NEW, "ada", "grace")
    found.broken = {"ada"}
    found.said(*failures("ada", 3), *failures("grace", 3))
    assert found.look(run).status == "running"
    assert (found.asked, found.frozen) == (["linus", "ada", "grace"], "")
    assert facts.read(found.host.journal, bake.BAKE)["counted"] == []
    assert last_pairings.pairings(found.host.journal)["ada"]["reason"], "status names her alone"
    found.said(*failures("ada", 1))
    found.look(run)
    assert found.asked == ["linus", "ada", "grace"], "asked again only for what is new"
    found.broken = {"ada", "grace"}
    found.said(*failures("ada", 3), *failures("grace", 3))
    assert found.look(run).status == "failed"


def test_a_dispatch_that_pairs_no_user_is_at_fault(watch: Callable[..., Watch]) -> None:
    """Nothing is frozen or rejected; the log has the alert, the watch the cause; once others pair again, a version can be blamed."""
    found = watch()
    lines: list[str] = []
    sink = logger.add(lines.append, level="ERROR")
    run = found.begin(NEW, "ada", "grace")
    found.broken |= {"linus"}
    found.said(*failures("ada", 3), *failures("grace", 3))
    assert found.look(run).status == "running"
    logger.remove(sink)
    assert (found.frozen, rejections.rejected(found.host.journal)) == ("", {})
    assert any("GATE INCONCLUSIVE" in line and "linus" in line for line in lines), lines
    known = facts.read(found.host.journal, bake.BAKE)
    assert (known["counted"], "the dispatch is at fault" in known["problem"]) == ([], True)
    found.broken -= {"linus"}
    found.said(*failures("ada", 3), *failures("grace", 3))
    assert found.look(run).status == "failed"


def test_a_dispatch_that_is_down_is_at_fault(bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where every user is on the version, so that there is no witness."""
    found = Watch(bare(USERS), monkeypatch)
    slots.assign(found.host.settings.paths.versions_dir, "linus", NEW)
    run = found.begin(NEW, "ada", "grace")
    found.said(*failures("ada", 3), *failures("grace", 3))
    assert found.look(run).status == "running"
    assert (found.frozen, found.asked) == ("", [])
    assert "does not answer" in facts.read(found.host.journal, bake.BAKE)["problem"]


def test_without_a_witness_the_users_concerned_are_asked(watch: Callable[..., Watch]) -> None:
    found = watch()
    slots.assign(found.host.settings.paths.versions_dir, "linus", NEW)
    run = found.begin(NEW, "ada", "grace")
    found.said(*failures("ada", 3), *failures("grace", 3))
    assert found.look(run).status == "failed"
    assert found.asked == ["ada", "grace"]


def test_our_own_doing_has_an_end(watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart's aftermath and a probe's lag are over after a while; a restart that was never finished counts for an hour."""
    journal, now = watch().host.journal, time.time()
    own_activity.note_restart(journal, "ada")
    own_activity.note_restart(journal, "ada")
    assert own_activity.is_own(journal, "ada", now + 600, now + 600)
    assert not own_activity.is_own(journal, "ada", now + 3700, now + 3700)
    assert not own_activity.is_own(journal, "ada", now - 9, now - 1)
    assert not own_activity.is_own(journal, "grace", now, now)
    own_activity.note_restart_end(journal, "ada")
    assert own_activity.is_own(journal, "ada", now + 9, now + 9)
    assert not own_activity.is_own(journal, "ada", now + 12, now + 12)
    assert own_activity.is_own(journal, "ada", now + 9, now + 12), "when a line was written is not known exactly"
    with pytest.raises(OSError), own_activity.probing(journal, "grace"):  # noqa: PT011
        raise OSError
    assert own_activity.is_own(journal, "grace", now + 8, now + 8), "the dispatch may be at it still"
    assert not own_activity.is_own(journal, "grace", now + 15, now + 15)
    killed = own_activity.probing(journal, "ken")
    killed.__enter__()
    assert own_activity.is_own(journal, "ken", now + 50, now + 50)
    with own_activity.probing(journal, "linus"):
        pass
    assert not own_activity.is_own(journal, "linus", now + 5, now + 5)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 2 * own_activity.RETENTION_SECONDS)
    own_activity.note_restart_end(journal, "ada")
    assert facts.read(journal, "ours:ada") is None, "what is over is forgotten"


def test_fallbacks_count_for_who_was_moved(watch: Callable[..., Watch]) -> None:
    """Only after their move: linus may pair in the old way until linus is on the version."""
    found = watch(max_failures=2)
    run = found.begin(NEW, "ada")
    found.look(run)
    time.sleep(0.02)
    found.said(*fallbacks("linus", 5), *fallbacks("grace", 5), *fallbacks("ada", 2))
    assert found.look(run).status == "running"
    found.said(*fallbacks("linus", 5))  # read only after the move
    slots.assign(found.host.settings.paths.versions_dir, "linus", NEW)
    assert found.begin(NEW, "linus") == run
    assert found.look(run).status == "running"
    found.said(*fallbacks("linus", 1))
    assert "3 pairings by an old endpoint" in found.look(run).result["reason"]


def test_ten_minutes_are_the_measure(watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures far apart do not add up; failures close together do, even after earlier ones."""
    found = watch()
    run = found.begin(NEW, "ada")
    real, later = time.time, 0
    monkeypatch.setattr(time, "time", lambda: real() + later)
    for _ in range(4):
        found.said(*failures("ada", 1), *failures("grace", 1))
        assert found.look(run).status == "running"
        later += 700
    later -= 200
    found.said(*failures("ada", 1))
    assert found.look(run).status == "running", "two and one within 500 s"
    found.said(*failures("ada", 1))
    assert found.look(run).status == "failed"


def test_a_watch_ends_is_extended_and_replaced(watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch()
    run = found.begin(NEW, "ada")
    real, later = time.time, 1800
    monkeypatch.setattr(time, "time", lambda: real() + later)
    assert found.begin(NEW, "grace") == run, "a user drained later extends it"
    later = 3700
    assert found.look(run).status == "running"
    second = found.begin(NEWER, "ada")
    assert second != run
    old = found.look(run)
    assert (old.outcome, old.result["reason"]) == ("done", "a newer watch has taken over")
    assert bakes.cut_short(found.host.journal) == [NEW], "the other hosts of a fleet do not count it as verified"
    freeze.freeze(found.host.settings, found.host.journal, "party")
    assert found.look(second).status == "running", "a freeze does not end it"
    later = 7400
    ended = found.look(second)
    assert (ended.status, ended.outcome) == ("succeeded", "done")
    assert NEWER in ended.result["reason"]
    assert found.begin(NEWER, "grace") not in (run, second), "after its end a new one begins"
    third = found.host.journal.runs("workflow = 'bake'")[-1].id
    send_signal(found.host.journal, third, "cancel")
    assert found.look(third).outcome == "cancelled"
    assert bakes.cut_short(found.host.journal) == [NEW, NEWER]
    assert facts.read(found.host.journal, bake.BAKE) is None


def test_it_ends_when_nobody_is_on_its_version_any_more(watch: Callable[..., Watch]) -> None:
    found = watch()
    run = found.begin(NEW, "ada")
    for user in USERS:
        slots.assign(found.host.settings.paths.versions_dir, user, slots.RESTORING if user == "ada" else OLD)
    assert found.look(run).status == "running", "her database is being restored: she may be on it again"
    slots.assign(found.host.settings.paths.versions_dir, "ada", OLD)
    ended = found.look(run)
    assert (ended.outcome, ended.result["reason"]) == ("done", f"no user is on {NEW} any more")
    assert facts.read(found.host.journal, bake.BAKE) is None


def test_it_can_be_switched_off(watch: Callable[..., Watch]) -> None:
    found = watch(minutes=0)
    assert found.begin(NEW, "ada") == ""
    assert found.host.journal.runs("workflow = 'bake'") == []


@pytest.mark.parametrize("at", ["before the commit", "after the commit", "with a verdict"])
def test_killed_at_a_look(watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """The lines of one poll are counted once, wherever a crash cut it off; a verdict that was reached is found again."""
    found = watch(max_failures=3)
    run = found.begin(NEW, "ada")
    found.said(*failures("ada", 3 if at == "with a verdict" else 2), *failures("grace", 1))

    class Killed(BaseException):
        """Write nothing more to the journal, as after a kill -9."""

    def die(*arguments: Any, **more: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if at == "before the commit":
            patch.setattr(facts, "change", die)
        elif at == "after the commit":
            patch.setattr(bake, "NotYet", die)
        else:
            patch.setattr("t3flow.engine.flow.Flow._record", die)
        with pytest.raises(Killed):
            found.look(run)
    found.restart()
    ended = found.look(run)
    if at == "with a verdict":
        assert (ended.outcome, "4 failed pairings" in found.frozen) == ("frozen", True)
        return
    assert ended.status == "running", "three, not six"
    found.said(*failures("ada", 1))
    assert "4 failed pairings" in found.look(run).result["reason"]


def test_a_log_that_cannot_be_read_is_no_failure(watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreadable log is reported once, and in the run and its end; once it is readable, it is read."""
    found = watch()
    lines: list[str] = []
    sink = logger.add(lines.append, level="WARNING")
    found.log.unlink()
    run = found.begin(NEW, "ada")
    for _ in range(3):
        assert found.look(run).status == "running"
    logger.remove(sink)
    assert sum("cannot read" in line for line in lines) == 1, lines
    [waiting] = [event for event in found.host.journal.events(run) if event.kind == "waiting"]
    assert "cannot read" in waiting.data["waiting_for"]
    found.said(*failures("ada", 1))
    found.look(run)
    assert facts.read(found.host.journal, bake.BAKE)["counted"]
    found.log.unlink()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3700)
    ended = found.look(run)
    assert (ended.outcome, "not watched" in ended.result["reason"]) == ("done", True)
