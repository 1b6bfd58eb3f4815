"""Checks of what t3flow has recorded: snapshots, replaced databases, the consumer, a freeze, deferrals, the lease."""

import fcntl
import shlex
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from t3flow import T3flowError
from t3flow.adoption import shell_tracker
from t3flow.host import freeze, orphans, slots
from t3flow.host.backups import replaced
from t3flow.host.host import CHILDREN_LOCK, Host
from t3flow.host.records import catalog, deferral_records
from t3flow.state import verification
from t3flow.state.doctor.finding import Finding, finding
from t3flow.state.doctor.surveys import running

LATE_SECONDS = 600.0
MAX_OLD_REPLACED, MAX_OLD_REPLACED_BYTES = 10, 2 * 1024**3
"""Replaced databases past their minimum age that are tolerated. Only an operator drops them."""
CONSUMER_LOCK = "consumer.lock"


def snapshots_exist(host: Host) -> Iterator[Finding]:
    """Check that each recorded snapshot exists."""
    for entry in catalog.backups(host.journal):
        missing = next((path for path in entry.paths.values() if not path.is_file()), None)
        if missing is not None:
            name = Path(entry.path).name
            yield finding(
                f"the snapshot {missing.name} of {entry.user} is missing",
                f"t3flow backups drop {shlex.quote(entry.user)} {name} --force",
            )


def replaced_databases_exist(host: Host) -> Iterator[Finding]:
    """Check that replaced databases exist for at least 14 days, and that older ones take little space."""
    recorded = replaced.recorded_versions(host.journal)
    mapped = {entry.name for entry in host.user_map().users}
    for user in sorted({user for user, _ in recorded} & mapped):
        try:
            listed = replaced.list_replaced(host, user)
        except T3flowError as error:
            yield finding(
                f"the replaced databases of {user} cannot be seen: {error}", f"ask {user}; then: t3flow backups {user}"
            )
            continue
        old = [each for each in listed if time.time() - each.created > replaced.KEEP_SECONDS]
        if len(old) > MAX_OLD_REPLACED or sum(each.size_bytes for each in old) > MAX_OLD_REPLACED_BYTES:
            size = sum(each.size_bytes for each in old) / 1e6
            yield finding(
                f"{len(old)} replaced databases of {user} are older than 14 days and take {size:.0f} MB in the user's home",
                f"list them: t3flow backups {shlex.quote(user)}; drop one: t3flow backups drop {shlex.quote(user)} {old[0].name}",
            )
        existing = {each.name for each in listed}
        for name in sorted(name for owner, name in recorded if owner == user):
            if name not in existing and replaced.age_seconds(name) < replaced.KEEP_SECONDS:
                yield finding(
                    f"the replaced database {name} of {user} is missing before its 14 days are over",
                    f"ask {user}; list the snapshots: t3flow backups {shlex.quote(user)}",
                )


def shell_tracker_is_off(host: Host) -> Iterator[Finding]:
    """On an adopted host, check that the timers of the shell tracker are off and it marks no user as deferred."""
    if slots.default_version(host.settings.paths.versions_dir) is None:
        return
    for timer in shell_tracker.TIMERS:
        if host.services.is_enabled(timer):
            yield finding(
                f"{timer} of the shell tracker is enabled, so two trackers restart servers",
                f"systemctl disable --now {timer}, or t3flow adopt",
            )
    if markers := shell_tracker.read_markers(host):
        yield finding(
            f"the shell tracker has marked {', '.join(markers)} as deferred",
            "turn the markers into deferrals: t3flow adopt",
        )


def consumer_runs(host: Host) -> Iterator[Finding]:
    """Check that a consumer runs; if none does, no child of an earlier one runs either."""
    state_dir = host.settings.paths.state_dir
    if _is_locked(state_dir / CONSUMER_LOCK):
        return
    yield finding("no consumer runs, so nothing is updated", "systemctl start t3flow")
    if not orphans.are_gone(state_dir / CHILDREN_LOCK):
        yield finding("children of a consumer that died still run", "the consumer ends them: systemctl start t3flow")


def _is_locked(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False


def verify_is_not_overdue(host: Host) -> Iterator[Finding]:
    """Check that the hourly verify reaches each managed user with a running server, while a consumer runs."""
    if not _is_locked(host.settings.paths.state_dir / CONSUMER_LOCK):
        return
    found = verification.verify_state(host.settings, host.journal, running(host))
    if found["overdue"]:
        yield finding(
            verification.overdue_text(found["overdue"], found["every_minutes"], found["waiting_for"]),
            "t3flow verify; if runs do not end: t3flow runs",
        )


def tracking_is_not_frozen(host: Host) -> Iterator[Finding]:
    """Check that tracking is not frozen."""
    frozen = freeze.frozen(host.settings, host.journal)
    if frozen is not None:
        since = datetime.fromtimestamp(frozen["since"]).strftime("%Y-%m-%d %H:%M")
        yield finding(
            f"FROZEN since {since} by {frozen['by']}: {frozen['reason']}", "once the cause is fixed: t3flow unfreeze"
        )


def deferrals_are_pending(host: Host) -> Iterator[Finding]:
    """Check that each deferral belongs to a user in the user map and has a drain that runs and is not late."""
    mapped = {entry.name for entry in host.user_map().users}
    for pending in deferral_records.deferrals(host.journal):
        if pending.user not in mapped:
            yield finding(
                f"{pending.user} is deferred but not in {host.settings.paths.user_map}, so the drain waits",
                f"add the user again, or: t3flow deferrals revoke {shlex.quote(pending.user)}",
            )
        runs = host.journal.runs("id = ? and status = 'running'", pending.run)
        if not runs:
            yield finding(
                f"the deferral of {pending.user} has no drain",
                "systemctl restart t3flow (the consumer starts one within a minute)",
            )
        elif runs[0].revoked is None and runs[0].wake_at is not None and runs[0].wake_at < time.time() - LATE_SECONDS:
            yield finding(
                f"the drain of {pending.user} is {(time.time() - runs[0].wake_at) / 60:.0f} minutes late",
                "systemctl restart t3flow",
            )


def lease_has_a_run(host: Host) -> Iterator[Finding]:
    """Check that the lease of the host belongs to a run that has not ended, for less than 6 hours."""
    for run, since in host.journal.query("select run, since from locks"):
        if not host.journal.runs("id = ? and status = 'running'", run):
            yield finding(f"{run} has ended and still has the lease of the host", "systemctl restart t3flow")
        elif time.time() - since > 6 * 3600:
            yield finding(
                f"{run} has had the lease of the host for {(time.time() - since) / 3600:.0f} hours",
                f"t3flow show {run}; t3flow cancel {run}",
            )
