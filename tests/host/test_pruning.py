"""Pruning keeps what is needed and removes the rest, also on a full disk; a snapshot that does not fit is not begun."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from scenes import write

from t3flow import T3flowError, tasks
from t3flow.cli import backups
from t3flow.engine.engine import Engine
from t3flow.engine.errors import StepFailed
from t3flow.engine.files import DiskError
from t3flow.engine.journal import JournalError, append_event
from t3flow.engine.queue import open_queue
from t3flow.engine.runs import Outcome, new_run
from t3flow.host import departed, pruning, slots
from t3flow.host.backups import drop_box, replaced, store
from t3flow.host.host import Host, set_current_host
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.records import catalog, deferral_records, facts, journal_reserve
from t3flow.rollout import snapshots
from t3flow.state.doctor import history

VERSIONS = [f"0.0.25-nightly.202606{day:02}.{day}" for day in range(1, 31)]


def slot(host: Host, version: str) -> Path:
    made = slots.slot_path(host.settings.paths.versions_dir, version)
    made.mkdir(parents=True)
    (made / slots.MANIFEST).write_text(f'{{"version": "{version}"}}')
    return made


def lead(host: Host, user: str, version: str) -> None:
    slots.assign(host.settings.paths.versions_dir, user, version)


def snapshot(host: Host, user: str, wrote: str, target: str) -> catalog.Backup:
    """Take a snapshot of a database that was written to since the last one."""
    write(store.database_path(host, user), f"create table t{time.monotonic_ns()} (x)")
    return store.take(host, user, written_by=wrote, version=target, run="bump-1")


def names(host: Host) -> set[str]:
    return {Path(entry.path).name for entry in catalog.backups(host.journal)}


def on_disk(host: Host) -> set[str]:
    return {path.name for path in host.settings.paths.backup_dir.glob("[!.]*/*")}


def test_ten_nightlies_that_drains_accept_leave_no_more_than_what_is_kept(hosted: Callable[..., Host]) -> None:
    """Drains alone move all users: the first drain accepts the version, and no bump ever does."""
    host = hosted(("ada", "grace", "linus"))
    set_current_host(host)
    slot(host, VERSIONS[0])
    slots.set_default(host.settings.paths.versions_dir, VERSIONS[0])
    for user in ("ada", "grace", "linus"):
        lead(host, user, VERSIONS[0])
    for former, target in pairwise(VERSIONS[:11]):
        slot(host, target)
        for user in ("ada", "grace", "linus"):
            snapshot(host, user, former, target)
            lead(host, user, target)
            tasks.accept.unjournaled(target)
    keep = host.settings.backup.keep
    assert len(names(host)) <= 3 * keep
    assert on_disk(host) == names(host)
    assert len(slots.installed(host.settings.paths.versions_dir)) <= keep + 1
    assert pruning.prune(host) == [], "a repeat is a no-op"


def test_what_a_rollback_may_need_stays(bare: Callable[..., Host]) -> None:
    """Snapshots of a user who has not moved for long, of a deferred user, and those to which a waiting rollback or restore returns."""
    host = bare(("ada", "grace"))
    set_current_host(host)
    for version in VERSIONS[:14]:
        slot(host, version)
    of_ada = snapshot(host, "ada", VERSIONS[0], VERSIONS[1])
    lead(host, "ada", VERSIONS[1])
    lead(host, "grace", VERSIONS[13])
    made = {}
    for former, target in pairwise(VERSIONS[1:14]):
        made[target] = snapshot(host, "grace", former, target)
    facts.write(host.journal, pruning.ACCEPTED, VERSIONS[1:14])
    deferral_records.put_deferral(host.journal, "ada", "drain-1", VERSIONS[12], "active_turn", 0.0)
    new_run(host.journal, "rollback", {"users": [], "to": VERSIONS[3]})
    new_run(host.journal, "restore", {"user": "grace", "backup": Path(made[VERSIONS[2]].path).name})
    pruning.prune(host)
    left = names(host)
    assert Path(of_ada.path).name in left, "she runs its version"
    assert Path(made[VERSIONS[4]].path).name in left, "a rollback to the version that wrote it is waiting"
    assert Path(made[VERSIONS[2]].path).name in left, "its restore is waiting"
    assert Path(made[VERSIONS[3]].path).name not in left
    assert slots.has_slot(host.settings.paths.versions_dir, VERSIONS[0])
    with host.journal.transaction() as connection:
        connection.execute("update runs set status = 'succeeded'")
    pruning.prune(host)
    there = slots.installed(host.settings.paths.versions_dir)
    assert {VERSIONS[0], VERSIONS[1], VERSIONS[12], VERSIONS[13]} <= set(there)
    assert VERSIONS[2] not in there


def test_the_snapshots_of_a_bump_that_waits_for_its_turn_stay(bare: Callable[..., Host]) -> None:
    """It took them before its gate, and returns to them if a restart fails. Meanwhile others run, and the user's other snapshot is of the same set."""
    host = bare()
    run = new_run(host.journal, "bump", {}) or ""
    with host.journal.transaction() as connection:
        append_event(connection, run, "completed", "resolve", 1, {"result": {"target": VERSIONS[1]}})
    taken = snapshot(host, "ada", VERSIONS[0], VERSIONS[1])
    keep = host.settings.backup.keep
    others = [
        store.take(host, "ada", written_by=VERSIONS[0], version=version, run="drain-1") for version in VERSIONS[2:9]
    ]
    pruning.prune_snapshots(host)
    assert names(host) == {Path(entry.path).name for entry in (taken, *others[-keep:])}
    with pytest.raises(T3flowError, match=f"{run} is in progress and needs .* t3flow cancel {run}"):
        backups._drop(host, "ada", Path(taken.path).name, force=True)
    with host.journal.transaction() as connection:
        connection.execute("update runs set status = 'succeeded'")
    pruning.prune_snapshots(host)
    assert not taken.exists


def test_the_newest_snapshot_stays_after_the_clock_was_set_back(bare: Callable[..., Host]) -> None:
    host = bare()
    former = snapshot(host, "ada", VERSIONS[0], VERSIONS[1])
    with host.journal.transaction() as connection:
        connection.execute("update backups set created = created + 3600")
    newest = snapshot(host, "ada", VERSIONS[0], VERSIONS[1])
    assert [entry.path for entry in catalog.backups(host.journal)] == [former.path, newest.path]
    assert pruning.prune_snapshots(host) == [former.path]
    assert store.is_last(host, "ada", newest.fingerprint)


def test_bumps_that_never_pass_leave_a_bounded_number_of_snapshots(
    bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = bare()
    set_current_host(host)
    slot(host, VERSIONS[0])
    lead(host, "ada", VERSIONS[0])
    monkeypatch.setattr(snapshots, "current_run", lambda: "bump-1")
    for target in VERSIONS[1:]:
        write(store.database_path(host, "ada"), f"create table t{time.monotonic_ns()} (x)")
        assert snapshots.back_up.unjournaled("ada", VERSIONS[0], target, False)["path"]
    assert len(names(host)) <= host.settings.backup.keep + 1
    assert on_disk(host) == names(host)


def test_a_running_version_and_the_one_asked_for_keep_their_slots(bare: Callable[..., Host]) -> None:
    host = bare()
    for version in VERSIONS[:4]:
        slot(host, version)
    program = slots.slot_path(host.settings.paths.versions_dir, VERSIONS[1]).resolve() / "t3.sh"
    program.write_text("sleep 60; true")
    child = subprocess.Popen(["sh", str(program)])
    try:
        while "t3.sh" not in Path(f"/proc/{child.pid}/cmdline").read_text():
            time.sleep(0.01)
        assert set(pruning.prune(host, VERSIONS[2])) == {VERSIONS[0], VERSIONS[3]}
    finally:
        child.kill()
        child.wait()
    assert pruning.prune(host) == VERSIONS[1:3]


def test_a_link_goes_14_days_after_its_account(hosted: Callable[..., Host]) -> None:
    host = hosted()
    slot(host, VERSIONS[0])
    versions_dir = host.settings.paths.versions_dir
    for user in ("ada", "left"):
        lead(host, user, VERSIONS[0])
    pruning.prune(host)
    assert set(slots.links(versions_dir)) == {"ada", "left"}
    since = facts.read(host.journal, departed.GONE)
    assert set(since) == {"left"}
    facts.write(host.journal, departed.GONE, {"left": time.time() - 15 * 86400, "back": 1.0})
    assert "users/left" in pruning.prune(host)
    assert set(slots.links(versions_dir)) == {"ada"}
    assert facts.read(host.journal, departed.GONE) is None


def test_records_that_cannot_be_dropped_are_dropped_later(
    bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the journal's disk is full, the files are removed anyway, because that makes room."""
    host = bare()
    lead_to = VERSIONS[9]
    slot(host, lead_to)
    for former, target in pairwise(VERSIONS[:10]):
        snapshot(host, "ada", former, target)
    facts.write(host.journal, pruning.ACCEPTED, VERSIONS[1:10])
    journal_reserve.allocate(host.settings.paths.state_dir)
    pages = host.journal.query("pragma page_count")[0][0]
    host.journal._connection("FULL").execute(f"pragma max_page_count = {pages}")
    fill(host)
    pruning.prune(host)
    assert len(on_disk(host)) == host.settings.backup.keep
    host.journal._connection("FULL").execute("pragma max_page_count = 1000000")
    pruning.prune(host)
    assert on_disk(host) == names(host)


def fill(host: Host) -> None:
    """Fill all free pages of the journal."""
    for size in (100_000, 1000, 10):
        with suppress(JournalError):
            for number in range(100_000):
                facts.write(host.journal, f"fill{size}-{number}", "x" * size)
    with pytest.raises(JournalError, match="full"):
        facts.write(host.journal, "one more", "x" * 100)


SMALL = """
set -e
mount -t tmpfs -o size=40m small "$1"
cp -a "$1.before/." "$1"
shift
exec setpriv --ambient-caps=-all --inh-caps=-all -- "$@"
"""
NAMESPACE = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount", "--"]
PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
import test_pruning
test_pruning.on_a_small_disk(Path({config!r}), {what!r})
"""


def on_a_small_disk(config: Path, what: str) -> None:
    """Run one scenario in a process that sees backups on a disk of 40 MB."""
    from t3flow.host.host import open_host
    from t3flow.service.consumer import open_journal
    from t3flow.settings.load import load

    settings = load(config, {})
    host = open_host(settings, open_journal(settings))
    set_current_host(host)
    snapshots.current_run = lambda: "bump-1"
    top = settings.paths.backup_dir
    if what == "full":
        with suppress(OSError), open(top / "filler", "wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        free = os.statvfs(top).f_bavail
        assert free == 0, free
        assert pruning.prune(host)
        left = {path.name for path in top.glob("ada/*")}
        assert left == names(host)
        print("pruned", len(left))
        return
    try:
        made = snapshots.back_up.unjournaled("ada", VERSIONS[20], VERSIONS[21], False)
        print("made" if made["path"] else made["problem"])
    except DiskError as error:
        print("DiskError", error)
    print("left", sorted(path.name for path in top.rglob("*") if path.is_file() and "filler" not in path.name))


def small(host: Host, what: str) -> str:
    """Run such a process and return its output."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this host lets nobody mount a file system")
    top = host.settings.paths.backup_dir
    shutil.copytree(top, f"{top}.before", symlinks=True)
    config = Path(next(each for each in host.settings.sources.values() if each.startswith("file "))[5:])
    program = PROGRAM.format(path=sys.path, config=str(config), what=what)
    words = [*NAMESPACE, "sh", "-c", SMALL, "sh", str(top), sys.executable, "-c", program]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    return said.stdout


def test_pruning_works_on_a_disk_without_a_free_byte(bare: Callable[..., Host]) -> None:
    host = bare()
    slot(host, VERSIONS[9])
    lead(host, "ada", VERSIONS[9])
    for former, target in pairwise(VERSIONS[:10]):
        snapshot(host, "ada", former, target)
    facts.write(host.journal, pruning.ACCEPTED, VERSIONS[1:10])
    assert small(host, "full") == f"pruned {host.settings.backup.keep}\n"


def test_a_backup_that_does_not_fit_is_not_begun(bare: Callable[..., Host]) -> None:
    """On 40 MB, of which 32 stay free, a database of 6 MB needs its size twice for a moment: refused with figures, and nothing remains."""
    host = bare()
    database = store.database_path(host, "ada")
    write(database, "create table large as select randomblob(6000000) as bytes")
    said = small(host, "take")
    assert said.startswith("there is no room for the backup: it needs"), said
    assert said.endswith("left []\n"), said


def test_a_dry_run_removes_nothing_where_the_disk_is_full(
    bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bump removes old snapshots and retries."""
    host = bare()
    set_current_host(host)
    for _ in range(3):
        snapshot(host, "ada", VERSIONS[0], VERSIONS[1])
    there = names(host)

    def take(*words: object, **named: object) -> None:
        raise DiskError("the disk is full")

    monkeypatch.setattr(store, "take", take)
    monkeypatch.setattr(pruning, "make_room", lambda host, user: None)
    queue = open_queue(f"sqlite://{host.settings.paths.state_dir}/queue.db", b"k" * 32)
    engine = Engine(host.journal, queue, {"copied": copied})
    for in_scratch in (True, False):
        run = new_run(host.journal, "copied", {"in_scratch": in_scratch}) or ""
        engine.advance(run)
        assert host.journal.run(run).result["reason"] == "the disk is full"
        assert (names(host) == there) == in_scratch


def copied(in_scratch: bool) -> Outcome:
    """Return a workflow with a backup alone."""
    tasks.open_scratch()
    try:
        return Outcome("done", snapshots.back_up("ada", VERSIONS[0], VERSIONS[2], in_scratch)["path"], "succeeded")
    except StepFailed as failure:
        return Outcome("error", failure.reason, "failed")


def test_a_large_claim_is_its_users_own_trouble(bare: Callable[..., Host]) -> None:
    """A sparse database claims more than any disk has. If there is room for usual sets, the host is not at fault."""
    host = bare()
    database = store.database_path(host, "ada")
    with open(database, "r+b") as file:
        file.seek(28)
        file.write((2**30).to_bytes(4, "big"))
        file.truncate(2**30 * 4096)
    with pytest.raises((OwnerProblem, drop_box.BackupError), match=r"room|malformed|full"):
        store.take(host, "ada", written_by="1.0.0", version="2.0.0", run="bump-1")
    assert not any((host.settings.paths.backup_dir / ".incoming").iterdir())


def test_the_reserve_is_given_up_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = journal_reserve.watch(tmp_path)
    monkeypatch.setattr(journal_reserve, "CHECK_SECONDS", 0.0)
    look()
    made = tmp_path / journal_reserve.NAME
    assert made.stat().st_blocks * 512 >= journal_reserve.RESERVE_BYTES
    monkeypatch.setattr(journal_reserve, "LOW_BYTES", 2**62)
    look()
    assert not made.exists()


def test_kept_databases_that_may_be_dropped_are_named_once_they_are_many(hosted: Callable[..., Host]) -> None:
    """Only an operator drops them. Young ones are never listed."""
    host = hosted()
    userdata = store.database_path(host, "ada").parent
    for number in range(12):
        made = userdata / f"replaced-20260{number % 6 + 1}01T0{number // 6}0000Z"
        made.mkdir()
        shutil.copy(store.database_path(host, "ada"), made / "state.sqlite")
        replaced.note(host.journal, "ada", made.name, VERSIONS[0])
    [found] = list(history.replaced_databases_exist(host))
    assert found.problem.startswith("12 replaced databases of ada are older than 14 days and take "), found
    assert "t3flow backups drop ada replaced-20260101T000000Z" in found.remedy
    assert len(list(history.replaced_databases_exist(host))) == 1, "to look at them makes them no younger"
    for made in userdata.glob("replaced-*T01*"):
        shutil.rmtree(made)
    assert list(history.replaced_databases_exist(host)) == []


def test_folders_of_the_users_own_hide_no_replaced_set(hosted: Callable[..., Host]) -> None:
    """A home that cannot be listed is one finding, and those of the others are checked all the same."""
    host = hosted(("ada", "grace"))
    made = f"replaced-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    for user in ("ada", "grace"):
        userdata = store.database_path(host, user).parent
        for name in (made, f"{made} (copy)", "replaced-\n", "replaced-..", "replaced-é", f"replaced-{'x' * 200}"):
            (userdata / name).mkdir()
        assert [each.name for each in replaced.list_replaced(host, user)] == [made]
        replaced.note(host.journal, user, made, VERSIONS[0])
    (store.database_path(host, "grace").parent / made).rmdir()
    closed = store.database_path(host, "ada").parent
    closed.chmod(0)
    try:
        found = [each.problem for each in history.replaced_databases_exist(host)]
    finally:
        closed.chmod(0o700)
    assert found[0].startswith("the replaced databases of ada cannot be seen: ")
    assert found[1] == f"the replaced database {made} of grace is missing before its 14 days are over"


def test_the_user_map_is_read_again_when_it_changes(hosted: Callable[..., Host]) -> None:
    host = hosted(("ada", "grace"))
    assert [entry.name for entry in host.user_map().users] == ["ada", "grace"]
    assert host.user_map() is host.user_map()
    path = host.settings.paths.user_map
    path.write_text(path.read_text().replace("grace@example.test=grace\n", ""))
    assert [entry.name for entry in host.user_map().users] == ["ada"]
