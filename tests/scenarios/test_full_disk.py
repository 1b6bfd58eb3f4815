"""Full disks, real ones: the consumer sees a small file system (an overlay, whose upper part is small) at one of its folders. Nothing is lost or left."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from scenes import FIRST, LATER, NEXT, bump, everybody_is_well, write

from t3flow.sandbox.host import Sandbox

USER_NAMESPACE = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount", "--"]
SMALL = """
set -e
folder=$1 size=$2; shift 2
cp -a "$folder" "$folder.before"
mkdir "$folder.small"
mount -t tmpfs -o "size=$size" small "$folder.small"
mkdir "$folder.small/upper" "$folder.small/work"
mount -t overlay -o "lowerdir=$folder.before,upperdir=$folder.small/upper,workdir=$folder.small/work" small "$folder"
exec setpriv --ambient-caps=-all --inh-caps=-all -- "$@"
"""


def start_consumer_on_small(box: Sandbox, folder: str, size: str) -> None:
    """Return the consumer, which alone sees the small file system."""
    if subprocess.run([*USER_NAMESPACE, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this host lets nobody mount a file system")
    words = ["sh", "-c", SMALL, "sh", str(box.top / folder), size, sys.executable, "-m", "t3flow", "consumer"]
    log = box.top / "log" / "consumer.log"
    before = log.read_text().count("is ready") if log.exists() else 0
    box._spawn("consumer", [*USER_NAMESPACE, *words])
    box.until(lambda: log.read_text().count("is ready") > before, "the consumer is ready")


@pytest.mark.parametrize(
    ("folder", "size", "outcome", "setting"),
    [
        ("backups", "1m", "backup_failed", "backup"),
        ("backups", "33m", "backup_failed", "room for the backup"),
        ("scratch", "1m", "error", "scratch"),
        ("opt/t3", "2m", "error", "slot"),
    ],
)
def test_a_full_disk(make_box: Callable[..., Sandbox], folder: str, size: str, outcome: str, setting: str) -> None:
    box = make_box(["ada"], consumer=False)
    if size == "33m":  # room by the first look, none by the time of writing
        grow(box)
    start_consumer_on_small(box, folder, size)
    box.publish(NEXT, {"schema_level": 32})
    said = bump(box)
    assert (said["outcome"], said["status"]) == (outcome, "failed"), said
    assert setting in said["reason"], said
    assert "room" in said["reason"] or "check paths." in said["reason"], said
    box.end("consumer")
    shutil.rmtree(box.top / f"{folder}.before")
    everybody_is_well(box, {"ada": FIRST})
    assert [entry.name for entry in (box.top / "opt/t3/versions").iterdir()] == [FIRST]
    box.start_consumer()
    assert bump(box)["outcome"] == "updated", "with room it goes on as if nothing had been"


def grow(box: Sandbox, user: str = "ada") -> None:
    """Make the database larger than the file system."""
    write(box.database(user), "create table large as select randomblob(1000000) as bytes")
    for _ in range(6):
        write(box.database(user), "insert into large select randomblob(1000000) from large")


def test_room_for_some_backups_alone_restarts_nobody(make_box: Callable[..., Sandbox]) -> None:
    """The space runs out in the middle: the disk is at fault and not the user whose turn it was, and `status` says what to do."""
    box = large_and_small(make_box)
    servers = {user: box.supervise("status", user)["main_pid"] for user in box.users}
    said = bump(box)
    assert (said["outcome"], said["status"]) == ("backup_failed", "failed"), said
    assert "grace" in said["reason"], said
    assert "make room" in said["reason"], said
    assert {user: box.supervise("status", user)["main_pid"] for user in box.users} == servers
    everybody_is_well(box, dict.fromkeys(box.users, NEXT))
    lines = box.t3flow("status").stdout.splitlines()
    assert any("as backup_failed: " in line and "see t3flow show" in line for line in lines), lines


def test_a_disk_that_fills_after_the_gate_restarts_nobody_further(make_box: Callable[..., Sandbox]) -> None:
    """The next user would have no backup either: all wait for room, and the outcome says so.

    A user whose snapshot from before the gate is still good needs no room; here a person has dropped the snapshots meanwhile.
    """
    box = make_box(["ada", "grace"], consumer=False)
    start_consumer_on_small(box, "backups", "80m")
    box.publish(NEXT, {"schema_level": 32})
    run = box.document("enqueue", "bump")["run"]

    def is_at_the_gate() -> bool:
        events = box.document("show", run)["events"]
        return any((event["kind"], event["step"]) == ("started", "run_trials") for event in events)

    box.until(is_at_the_gate, "the gate is at work", 60)
    inside = Path(f"/proc/{box.processes['consumer'].pid}/root{box.top}/backups/filling")
    with inside.open("wb") as file, suppress(OSError):
        for _ in range(80):
            file.write(bytes(1024 * 1024))
    with box.journal.transaction() as connection:
        connection.execute("delete from backups")
    box.until(lambda: box.document("show", run)["status"] != "running", "the run has ended", 60)
    shown = box.document("show", run)
    assert shown["outcome"] == "backup_failed", shown["reason"]
    assert "make room" in shown["reason"]
    everybody_is_well(box, dict.fromkeys(box.users, FIRST))
    waiting = {entry["user"]: entry for entry in box.document("deferrals")}
    assert set(waiting) == {"ada", "grace"}
    lines = box.t3flow("status").stdout.splitlines()
    assert any("as backup_failed: " in line for line in lines), lines
    with_room_again(box)
    box.until(lambda: all(box.assigned(user) == NEXT for user in box.users), "with room the drains move both", 60)


def test_databases_that_do_not_fit_by_themselves_name_their_user(make_box: Callable[..., Sandbox]) -> None:
    """With room for all but one, the reason names the one who can be left out."""
    box = large_and_small(make_box)
    assert "grace" in bump(box)["reason"]
    said = bump(box, "--without", "grace")
    assert said["outcome"] == "updated", said
    assert said["users"]["ada"]["result"] == "deferred", "in its name space the consumer can hold no server still"
    with_room_again(box)
    box.until(lambda: box.assigned("ada") == LATER, "the drain moves her", 60)
    assert box.assigned("grace") == NEXT


def large_and_small(make_box: Callable[..., Sandbox]) -> Sandbox:
    """Two users with a snapshot each, of whom one has large databases; then a disk for backups that has room for the small ones alone."""
    box = make_box(["ada", "grace"], consumer=False)
    grow(box, "grace")
    box.start_consumer()
    box.publish(NEXT, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    box.end("consumer")
    start_consumer_on_small(box, "backups", "60m")
    box.publish(LATER, {"schema_level": 33})
    return box


def with_room_again(box: Sandbox) -> None:
    """Return a consumer that sees the folder as it was, with room in it."""
    box.end("consumer")
    shutil.rmtree(box.top / "backups.before")
    box.start_consumer()
