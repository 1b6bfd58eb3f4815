"""Full disks, real ones: the consumer sees a small file system (an overlay, whose upper part is small) at one of its folders. Nothing is lost or left."""

import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
from scenes import FIRST, NEXT, bump, everybody_is_well

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
    """The consumer, which alone sees the small file system."""
    if subprocess.run([*USER_NAMESPACE, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this host lets nobody mount a file system")
    words = ["sh", "-c", SMALL, "sh", str(box.top / folder), size, sys.executable, "-m", "t3flow", "consumer"]
    box._spawn("consumer", [*USER_NAMESPACE, *words])
    log = box.top / "log" / "consumer.log"
    box.until(lambda: "is ready" in log.read_text(), "the consumer is ready")


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
    assert "room" in said["reason"] or "mend" in said["reason"], said
    box.end("consumer")
    shutil.rmtree(box.top / f"{folder}.before")
    everybody_is_well(box, {"ada": FIRST})
    assert [entry.name for entry in (box.top / "opt/t3/versions").iterdir()] == [FIRST]
    box.start_consumer()
    assert bump(box)["outcome"] == "updated", "with room it goes on as if nothing had been"


def grow(box: Sandbox) -> None:
    """Makes the database larger than the file system."""
    from scenes import write

    write(box.database("ada"), "create table large as select randomblob(1000000) as bytes")
    for _ in range(6):
        write(box.database("ada"), "insert into large select randomblob(1000000) from large")
