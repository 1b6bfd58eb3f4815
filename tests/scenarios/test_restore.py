"""One backup of one user, put in place with a version that knows it; replaced databases are listed, restored and dropped."""

import os
import time
from collections.abc import Callable
from typing import Any

from scenes import FIRST, NEXT, bump, content, everybody_is_well, write

from t3flow.sandbox.host import Sandbox
from t3flow.sandbox.registry import Registry

BOTH = ["ada", "grace"]


def listed(box: Sandbox, user: str, kind: str) -> list[dict[str, Any]]:
    return [each for each in box.document("backups", user) if each["kind"] == kind]


def has(box: Sandbox, user: str, word: str) -> bool:
    return any(word in line for line in content(box.database(user)))


def test_back_and_forth_without_loss(make_box: Callable[..., Sandbox]) -> None:
    """A snapshot from before a bump, then the database that it replaced; killed half-way each time; whoever is not named is left alone."""
    box = make_box(BOTH)
    box.publish(NEXT, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    write(box.database("ada"), "create table since as select 'precious' as word")
    [snapshot] = [each for each in listed(box, "ada", "snapshot") if each["before"] == NEXT]

    for words in (("ada", "state-prebump-nosuch.sqlite"), ("ada", "replaced-never"), ("nobody", "x")):
        refused = box.t3flow("restore", *words)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1), refused
    run = box.document("restore", "ada", snapshot["backup"])["run"]
    for step in ("roll_back_user", "verify_user"):
        box.until(lambda step=step: any(e.step == step for e in box.journal.events(run)), step, 60)
        box.kill("consumer")
        box.start_consumer()
    box.until(lambda: box.journal.run(run).status != "running", "it has ended", 60)
    found = box.journal.run(run)
    assert (found.outcome, found.result["users"]["ada"]["result"]) == ("done", "rolled_back"), found.result
    everybody_is_well(box, {"ada": FIRST, "grace": NEXT})
    assert (box.level("ada"), has(box, "ada", "precious")) == (30, False)
    assert box.document("status")["frozen"]["reason"].startswith("restoring")

    [kept] = listed(box, "ada", "kept")
    assert (kept["level"], kept["version"]) == (32, NEXT)
    assert kept["backup"] in box.t3flow("backups").stdout
    write(box.database("ada"), "create table meanwhile as select 'also kept' as word")
    back = box.document("restore", "ada", kept["backup"], "--wait")
    assert back["users"]["ada"]["result"] == "rolled_back", back
    everybody_is_well(box, {"ada": NEXT, "grace": NEXT})
    assert (has(box, "ada", "precious"), has(box, "ada", "also kept")) == (True, False)
    assert len(listed(box, "ada", "kept")) == 2, "what was there between the two is kept as well"
    again = box.document("enqueue", "rollback", "--user", "ada", "--wait")
    assert again["users"]["ada"]["version"] == FIRST, "the version before the bump, whatever was restored since"
    while_npm_hangs(box)
    dropped(box, kept)


def while_npm_hangs(box: Sandbox) -> None:
    """Return a rollback waits for nobody who changes nothing: it is done in 10 s, though a dry run has the host and its npm hangs."""
    box.t3flow("unfreeze")
    Registry(box.top / "registry").set_faults(hang=True)
    dry = box.document("enqueue", "bump", "--dry-run")["run"]
    box.until(lambda: any(e.step == "resolve" for e in box.journal.events(dry)), "npm is asked")
    time.sleep(0.5)
    assert box.journal.run(dry).status == "running"
    began = time.monotonic()
    box.document("enqueue", "rollback", "--user", "grace")
    box.until(lambda: box.assigned("grace") == FIRST and box.level("grace") == 30, "grace is back", 20)
    assert time.monotonic() - began < 10
    assert box.journal.run(dry).outcome == "cancelled"
    box.until(lambda: box.document("status")["run"] is None, "it has ended")
    everybody_is_well(box, {"ada": FIRST, "grace": FIRST})


def dropped(box: Sandbox, kept: dict[str, Any]) -> None:
    """Kept for 14 days, unless a person insists; other names, and names that lead elsewhere, drop nothing."""
    young = box.t3flow("backups", "drop", "ada", kept["backup"])
    assert (young.returncode, "14 more days" in young.stderr) == (1, True), young
    for name in ("../userdata", "replaced-../..", "state.sqlite", "replaced-none"):
        assert box.t3flow("backups", "drop", "ada", name, "--force").returncode in (1, 2)
    assert box.database("ada").is_file()
    old = time.time() - 15 * 86400
    os.utime(kept["path"], (old, old))
    assert box.t3flow("backups", "drop", "ada", kept["backup"]).returncode == 0
    assert kept["backup"] not in [each["backup"] for each in listed(box, "ada", "kept")]
    last = next(each for each in listed(box, "grace", "snapshot") if each["version"] == FIRST)
    refused = box.t3flow("backups", "drop", "grace", last["backup"])
    assert (refused.returncode, "--force" in refused.stderr) == (1, True)
    assert box.t3flow("backups", "drop", "grace", last["backup"], "--force").returncode == 0
    assert last["backup"] not in [each["backup"] for each in listed(box, "grace", "snapshot")]
    gone = box.t3flow("restore", "grace", last["backup"])
    assert (gone.returncode, "t3flow backups grace" in gone.stderr) == (2, True)
