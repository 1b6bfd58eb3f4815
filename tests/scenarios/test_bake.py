"""After a bump: a fault that shows later is seen in the dispatch's log, and who is concerned can go back without losing anything."""

import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from scenes import ALL, FIRST, LATER, NEXT, bump, content, deferrals, everybody_is_well, is_busy, results, write

from t3flow.sandbox.host import Sandbox, free_port


class _Stay(urllib.request.HTTPRedirectHandler):
    """Do not follow the redirect: only the cookie counts."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def browse(box: Sandbox, user: str) -> int:
    """Return what the dispatch answers a real browser without a session. t3flow takes no part."""
    address = f"http://127.0.0.1:{box.dispatch_port}/"
    request = urllib.request.Request(address, headers={"X-authentik-username": f"{user}@example.test"})
    try:
        status: int = urllib.request.build_opener(_Stay).open(request, timeout=30).status
        return status
    except HTTPError as answer:
        return answer.code


def frozen(box: Sandbox) -> str:
    """Return the text of the freeze file, or ""."""
    file = box.top / "etc" / "t3-autoupdate.freeze"
    return file.read_text() if file.exists() else ""


def logged(box: Sandbox, words: str) -> int:
    return (box.top / "log" / "dispatch.log").read_text().count(words)


def ended(box: Sandbox, workflow: str) -> Any:
    """Return the only run of a workflow once it has ended."""
    box.until(lambda: box.journal.runs("workflow = ? and status != 'running'", workflow), f"{workflow} has ended", 60)
    [run] = box.journal.runs("workflow = ?", workflow)
    return run


def test_a_fault_that_shows_later(make_box: Callable[..., Sandbox], queue_url: str) -> None:
    """Verified, accepted, and an hour later ada's browsers get 500: seen though the consumer is killed, frozen, and ada goes back with all she wrote.

    She is the only user on the version, and the others, who are not on it, pair.

    Our own failing probes are the control the other way: as many of them freeze nothing.
    """
    box = make_box(ALL, queue_url=queue_url, extra="[bake]\nrollback = true\nmax_failures = 3\n")
    is_busy(box, "grace")
    is_busy(box, "linus")
    broken = {"fault": "pairing_500", "when": {"not_scratch": True, "sql": "select 1 from broken"}}
    box.publish(NEXT, {"schema_level": 32, "rules": [broken]})
    assert results(bump(box)) == {"ada": "restarted", "grace": "deferred", "linus": "deferred"}
    status = box.document("status")
    assert (status["bake"]["version"], status["run"]) == (NEXT, None)
    assert "Watching    pairings on" in box.t3flow("status").stdout
    assert [browse(box, user) for user in ALL] == [302, 302, 302]

    write(box.database("ada"), "create table broken as select 'precious' as word")
    for _ in range(5):
        assert box.t3flow("verify", "ada").returncode == 1
    assert logged(box, "pairing for ada returned 500") >= 5
    looks = box.journal.runs("workflow = 'bake'")[0].updated
    box.kill("consumer")
    box.start_consumer()
    box.until(lambda: box.journal.runs("workflow = 'bake'")[0].updated > looks, "it looks again", 15)
    assert frozen(box) == "", "our own probes are nobody's failures"

    deadline, tries = time.monotonic() + 60, 0
    while not frozen(box) and time.monotonic() < deadline:
        assert browse(box, "ada") == 502
        tries += 1
        if tries == 3:
            box.kill("consumer")
            box.start_consumer()
    assert tries >= 4
    assert "on 0.0.25-nightly" in frozen(box)
    assert "rolling back ada" in frozen(box)
    assert ended(box, "bake").outcome == "rolled_back"
    back = ended(box, "rollback")
    assert (back.outcome, back.result["users"]["ada"]["result"]) == ("done", "rolled_back"), back.result
    assert list(back.result["users"]) == ["ada"]
    everybody_is_well(box, {"ada": FIRST, "grace": FIRST, "linus": FIRST})
    assert [browse(box, user) for user in ALL] == [302, 302, 302]
    assert [box.level(user) for user in ALL] == [30, 30, 30]
    [kept] = box.database("ada").parent.glob("replaced-*/state.sqlite")
    assert any("precious" in line for line in content(kept))
    status = box.document("status")
    assert (status["bake"], NEXT in status["rejected"]) == (None, True)
    assert sorted(deferrals(box)) == ["grace", "linus"], "users who wait go on waiting"


def test_a_dispatch_that_breaks_later_blames_no_version(make_box: Callable[..., Sandbox]) -> None:
    """It no longer mints for any user: ada on the new version, and grace on another. The watch reports that and continues."""
    box = make_box(["ada", "grace"], extra="[bake]\nmax_failures = 2\n")
    is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    assert results(bump(box)) == {"ada": "restarted", "grace": "deferred"}
    time.sleep(11)  # what a restart may still have caused is ours
    (box.top / "bin/t3").chmod(0)
    log = box.top / "log/consumer.log"
    deadline = time.monotonic() + 60
    while "GATE INCONCLUSIVE: watching pairings on" not in log.read_text() and time.monotonic() < deadline:
        assert browse(box, "ada") == 502
        time.sleep(0.2)
    assert "GATE INCONCLUSIVE: watching pairings on" in log.read_text()
    (box.top / "bin/t3").chmod(0o755)
    status = box.document("status")
    assert (status["frozen"], status["rejected"], status["bake"]["version"]) == (None, {}, NEXT)
    assert "the dispatch is at fault" in status["bake"]["problem"]


def test_users_who_are_not_on_the_version_are_no_fault_of_it(make_box: Callable[..., Sandbox]) -> None:
    """Grace is on the previous version: many failures of hers in a row freeze nothing. The same failures of ada do."""
    box = make_box(["ada", "grace"], extra="[bake]\nmax_failures = 2\n")
    is_busy(box, "grace")
    fault = {"fault": "pairing_500", "when": {"not_scratch": True, "sql": "select 1 from broken"}}
    box.publish(NEXT, {"schema_level": 32, "rules": [fault]})
    assert results(bump(box)) == {"ada": "restarted", "grace": "deferred"}
    time.sleep(11)
    file = box.top / "etc/t3-serve/grace.env"
    right = file.read_text()
    file.write_text(f"T3_PORT={free_port()}\n")  # where nothing listens
    looks = box.journal.runs("workflow = 'bake'")[0].updated
    for _ in range(12):
        assert browse(box, "grace") == 502
    assert logged(box, "pairing exchange for grace failed") == 12
    box.until(lambda: box.journal.runs("workflow = 'bake'")[0].updated > looks + 6, "it looked again", 30)
    assert (frozen(box), box.document("status")["rejected"]) == ("", {})
    file.write_text(right)
    write(box.database("ada"), "create table broken as select 1 as one")
    deadline = time.monotonic() + 60
    while not frozen(box) and time.monotonic() < deadline:
        browse(box, "ada")
        time.sleep(0.2)
    assert NEXT in frozen(box)


def killed_in(box: Sandbox, run: str, step: str) -> None:
    """Kill the consumer during a step of a run, and start another."""
    box.until(lambda: any(e.step == step for e in box.journal.events(run)), f"{step} has begun", 60)
    box.kill("consumer")
    box.start_consumer()


def snapshot(box: Sandbox, user: str) -> Path:
    """Return the user's snapshot from before the bump to NEXT."""
    [found] = [each for each in box.document("backups", user) if each["before"] == NEXT]
    return Path(found["path"])


def test_a_rollback_loses_nothing(make_box: Callable[..., Sandbox]) -> None:
    """Across a schema level: one user goes back, one fails and is restored, one has no snapshot. Within a level only the program goes back."""
    stuck = {"fault": "hang_at_start", "when": {"sql": "select 1 from poison"}}
    box = make_box(ALL, behavior={"schema_level": 30, "rules": [stuck]})
    box.publish(NEXT, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    for user in ALL:
        write(box.database(user), "create table since as select 'precious' as word")
    write(snapshot(box, "grace"), "create table poison as select 1 as one")
    snapshot(box, "linus").unlink()

    typo = box.document("enqueue", "rollback", "--to", "0.0.9", "--wait")
    assert (typo["outcome"], frozen(box)) == ("error", "")
    assert FIRST in typo["reason"], "it names the versions that are there"
    assert box.t3flow("enqueue", "rollback", "--to", "newest").returncode == 2

    is_busy(box, "ada")  # the owner asked: nobody is waited for
    run = box.document("enqueue", "rollback")["run"]
    for step in ("roll_back_user", "start_server", "undo_roll_back"):
        killed_in(box, run, step)
    box.until(lambda: box.journal.run(run).status != "running", "it has ended", 60)
    said = box.journal.run(run)
    assert (said.status, said.outcome) == ("failed", "error")
    users = said.result["users"]
    assert {user: each["result"] for user, each in users.items()} == {
        "ada": "rolled_back",
        "grace": "failed",
        "linus": "skipped",
    }
    assert "stays on" in users["grace"]["reason"]
    assert "snapshot" in users["linus"]["reason"]
    everybody_is_well(box, {"ada": FIRST, "grace": NEXT, "linus": NEXT})
    assert [box.level(user) for user in ALL] == [30, 32, 32]
    assert "a rollback of" in frozen(box)
    [kept] = box.database("ada").parent.glob("replaced-*/state.sqlite")
    for database in (kept, box.database("grace"), box.database("linus")):
        assert any("precious" in line for line in content(database)), database
    assert not any("precious" in line for line in content(box.database("ada")))
    [undone] = box.database("grace").parent.glob("replaced-*")
    assert undone.name.endswith("-undone"), "what the failed try left is kept as well"
    status = box.document("status")
    assert (status["default_version"], NEXT in status["rejected"]) == (NEXT, True)
    again = box.document("enqueue", "rollback", "--user", "ada", "--wait")
    assert (again["outcome"], results(again)) == ("done", {"ada": "untouched"})

    box.t3flow("unfreeze")
    box.publish(LATER, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    write(box.database("grace"), "create table lately as select 'kept' as word")
    back = box.document("enqueue", "rollback", "--user", "grace", "--user", "linus", "--wait")
    assert (back["outcome"], results(back)) == ("done", {"grace": "rolled_back", "linus": "rolled_back"})
    assert "only the program went back" in back["users"]["grace"]["reason"]
    assert any("kept" in line for line in content(box.database("grace")))
    everybody_is_well(box, {"ada": LATER, "grace": NEXT, "linus": NEXT})
    whole = box.document("enqueue", "rollback", "--to", NEXT, "--wait")
    assert results(whole) == {"ada": "rolled_back", "grace": "untouched", "linus": "untouched"}, whole
    status = box.document("status")
    assert status["default_version"] == status["last_good"] == NEXT, "where everybody is, the default is too"
    assert list(status["rejected"]) == [LATER]
