"""The doctor on what t3flow has noted: backups, kept databases, the old tracker, consumer, freeze, deferrals, the lock."""

import fcntl
import shlex
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from t3flow.adoption import shell_tracker
from t3flow.host import freeze, orphans, slots
from t3flow.host.backups import replaced
from t3flow.host.host import CHILDREN_LOCK, Host
from t3flow.host.records import catalog, deferral_records
from t3flow.state.doctor.finding import Finding, finding

LATE_SECONDS = 600.0
OLD_KEPT, OLD_KEPT_BYTES = 10, 2 * 1024**3
"""Kept databases that are old enough to be dropped, which only a person does: so many, or so large, and it is said."""
CONSUMER_LOCK = "consumer.lock"


def backups_are_there(host: Host) -> Iterator[Finding]:
    """Each snapshot on record is a file."""
    for entry in catalog.backups(host.journal):
        gone = next((path for path in entry.paths.values() if not path.is_file()), None)
        if gone is not None:
            name = Path(entry.path).name
            yield finding(
                f"the snapshot {gone.name} of {entry.user} is missing",
                f"t3flow backups drop {entry.user} {name} --force",
            )


def kept_databases_are_there(host: Host) -> Iterator[Finding]:
    """What was kept when a database was replaced is still kept, for 14 days at least."""
    noted = replaced.recorded_versions(host.journal)
    mapped = [entry.name for entry in host.user_map().users]
    for user in sorted({user for user, _ in noted} & set(mapped)):
        listed = replaced.list_replaced(host, user)
        old = [each for each in listed if time.time() - each.created > replaced.KEEP_SECONDS]
        if len(old) > OLD_KEPT or sum(each.size_bytes for each in old) > OLD_KEPT_BYTES:
            size = sum(each.size_bytes for each in old) / 1e6
            yield finding(
                f"{len(old)} kept databases of {user} are older than 14 days and take {size:.0f} MB of their home",
                f"t3flow backups {user} lists them; t3flow backups drop {user} {old[0].name}",
            )
        there = {each.name for each in listed}
        for name in sorted(name for of, name in noted if of == user):
            if name not in there and replaced.age_seconds(name) < replaced.KEEP_SECONDS:
                yield finding(
                    f"the kept database {name} of {user} is gone before its 14 days",
                    f"ask {user}; snapshots: t3flow backups {user}",
                )


def old_tracker_is_off(host: Host) -> Iterator[Finding]:
    """Where t3flow has taken over, the shell tracker's timers are off and it marks nobody any more."""
    if slots.default_version(host.settings.paths.versions_dir) is None:
        return
    for timer in shell_tracker.TIMERS:
        if host.services.is_enabled(timer):
            yield finding(
                f"{timer} of the shell tracker is on: two trackers restart servers",
                f"systemctl disable --now {timer}, or t3flow adopt",
            )
    if markers := shell_tracker.read_markers(host):
        yield finding(
            f"the shell tracker has marked {', '.join(markers)} as deferred",
            "t3flow adopt makes deferrals of the marks",
        )


def consumer_runs(host: Host) -> Iterator[Finding]:
    """A consumer runs; without one, nothing of an earlier one does."""
    state_dir = host.settings.paths.state_dir
    if _is_locked(state_dir / CONSUMER_LOCK):
        return
    yield finding("no consumer runs: nothing is updated", "systemctl start t3flow")
    if not orphans.are_gone(state_dir / CHILDREN_LOCK):
        yield finding("children of a consumer that died still run", "systemctl start t3flow ends them")


def _is_locked(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False


def tracking_is_not_held(host: Host) -> Iterator[Finding]:
    """Nothing is frozen; and after a failed restart something is, unless a person has let it go on."""
    held = freeze.frozen(host.settings, host.journal)
    if held is not None:
        since = datetime.fromtimestamp(held["since"]).isoformat(timespec="seconds")
        yield finding(
            f"FROZEN since {since} by {held['by']}: {held['reason']}", "t3flow unfreeze, when it is understood"
        )


def deferrals_are_pending(host: Host) -> Iterator[Finding]:
    """Each deferral has a user of the map, and a drain that lives and is not late."""
    mapped = {entry.name for entry in host.user_map().users}
    for pending in deferral_records.deferrals(host.journal):
        if pending.user not in mapped:
            yield finding(
                f"{pending.user} is deferred, and not in {host.settings.paths.user_map}: nobody moves them",
                f"put them back, or drop it: t3flow deferrals revoke {shlex.quote(pending.user)}",
            )
        runs = host.journal.runs("id = ? and status = 'running'", pending.run)
        if not runs:
            yield finding(
                f"the deferral of {pending.user} has no drain",
                "the consumer makes one within a minute: systemctl restart t3flow",
            )
        elif runs[0].revoked is None and runs[0].wake_at is not None and runs[0].wake_at < time.time() - LATE_SECONDS:
            yield finding(
                f"the drain of {pending.user} is {(time.time() - runs[0].wake_at) / 60:.0f} minutes late",
                "systemctl restart t3flow",
            )


def lock_has_a_run(host: Host) -> Iterator[Finding]:
    """Who has the host to himself is a run that is under way."""
    for run, since in host.journal.query("select run, since from locks"):
        if not host.journal.runs("id = ? and status = 'running'", run):
            yield finding(f"{run} has ended and still has the host", "systemctl restart t3flow")
        elif time.time() - since > 6 * 3600:
            yield finding(
                f"{run} has had the host for {(time.time() - since) / 3600:.0f} hours",
                f"t3flow show {run}; t3flow cancel {run}",
            )
