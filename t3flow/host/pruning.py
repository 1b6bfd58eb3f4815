"""Remove what nothing needs any more: old snapshots and slots, partial slots, and what accounts that no longer exist have left.

Called from steps (`tasks.accept`, `restore_default`, `prune`, `back_up`). Idempotent. Every removal unlinks first and updates the record afterwards,
so that pruning works on a completely full disk: the next pruning drops a record whose files are missing. A failure in one part affects neither
the other parts nor the step.
"""

import time
from collections.abc import Callable
from pathlib import Path

from loguru import logger

from t3flow import T3flowError
from t3flow.engine.journal import Journal, Run
from t3flow.host import departed, slots
from t3flow.host.backups import replaced, store
from t3flow.host.host import Host
from t3flow.host.records import catalog, deferral_records, facts, journal_reserve, rejections, version_schemas
from t3flow.host.records.catalog import Backup
from t3flow.host.slots import removal, running_version
from t3flow.t3.versions import is_older

ACCEPTED = "accepted"
"""Fact: the accepted versions, oldest first."""
TO_BE_ACCEPTED = "to_be_accepted"
"""Fact: the last version that was assigned to users while none of them could be restarted on it."""
GOING_BACK = ("rollback-", "restore-")
"""Prefixes of the runs that return to a snapshot."""


def prune(host: Host, version: str = "") -> list[str]:
    """Remove everything that nothing needs and return the names. The slot of `version` always stays."""
    removed: list[str] = []
    parts: list[Callable[[], list[str]]] = [
        lambda: prune_snapshots(host),
        lambda: _prune_replaced(host),
        lambda: departed.remove(host),
        lambda: _prune_slots(host, version),
        lambda: _prune_versions(host),
    ]
    for part in parts:
        try:
            removed += part()
        except (T3flowError, OSError) as error:
            logger.warning("could not remove all old snapshots, slots and links: {}", error)
    journal_reserve.allocate(host.settings.paths.state_dir)
    return removed


def prune_snapshots(host: Host, user: str | None = None) -> list[str]:
    """Remove the snapshots of all users or of one that neither a rollback nor a deferral needs; return their paths."""
    accepted: list[str] = facts.read(host.journal, ACCEPTED) or []
    doomed = [entry for entry in superseded(host, accepted, user) if not _is_requested(host.journal, entry)]
    return store.drop_all(host, doomed)


def superseded(host: Host, accepted: list[str], user: str | None = None) -> list[Backup]:
    """Return the snapshots that are too old to keep.

    Of each user and each pair of versions, only the newest snapshot is kept, and it is kept if it was taken before one of these versions: the last
    `backup.keep` accepted ones; those of pending deferrals and of bumps in progress; the one that the user is on, which a rollback would leave; and
    the newest `backup.keep` that were not accepted, unless they are older than the oldest accepted one among these.
    """
    keep = int(host.settings.backup.keep)
    snapshots = catalog.backups(host.journal, user)
    newest: dict[tuple[str, str, str], float] = {}
    newest_of_version: dict[str, float] = {}
    for entry in snapshots:
        pair = (entry.user, entry.version, entry.written_by)
        newest[pair] = max(entry.created, newest.get(pair, 0.0))
        newest_of_version[entry.version] = max(entry.created, newest_of_version.get(entry.version, 0.0))
    needed = {*accepted[-keep:], *versions_to_come(host.journal), *versions_in_progress(host.journal).values()}
    oldest = min((entry.created for entry in snapshots if entry.version in accepted[-keep:]), default=0.0)
    others = sorted(set(newest_of_version) - set(accepted), key=lambda target: newest_of_version[target])
    needed_if_young = set(others[-keep:])
    versions_dir = host.settings.paths.versions_dir
    assigned = slots.links(versions_dir, user)

    def is_kept(entry: Backup) -> bool:
        if entry.created < newest[entry.user, entry.version, entry.written_by]:
            return False
        is_young = entry.version in needed_if_young and entry.created >= oldest
        return entry.version in needed or entry.version == assigned.get(entry.user) or is_young

    return [entry for entry in snapshots if not is_kept(entry)]


def _prune_replaced(host: Host) -> list[str]:
    """Remove the replaced sets that are older than `backup.replaced_days`, except those to which a requested restore returns."""
    return replaced.drop_expired(host, {str(run.args.get("backup")) for run in _returning_runs(host.journal)})


def make_room(host: Host, user: str) -> None:
    """Remove a user's old snapshots before the next one is taken. Best effort."""
    try:
        prune_snapshots(host, user)
    except (T3flowError, OSError) as error:
        logger.warning("could not remove old snapshots of {}: {}", user, error)


def _is_requested(journal: Journal, entry: Backup) -> bool:
    """Return whether a requested rollback or restore, which may still wait for the host, returns to this snapshot."""
    for run in _returning_runs(journal):
        if run.workflow == "rollback" and run.args.get("to") == entry.written_by:
            return True
        if run.workflow == "restore" and run.args.get("backup") == Path(entry.path).name:
            return True
    return False


def _returning_runs(journal: Journal) -> list[Run]:
    return journal.runs("status = 'running' and workflow in ('rollback', 'restore')")


def versions_that_wrote(journal: Journal) -> set[str]:
    """Return the versions to which a rollback may return: those that wrote snapshots and replaced sets."""
    return {entry.written_by for entry in catalog.backups(journal)} | replaced.versions_needed(journal)


def versions_to_come(journal: Journal) -> set[str]:
    """Return the versions of pending deferrals."""
    return {entry.version for entry in deferral_records.deferrals(journal)}


def versions_in_progress(journal: Journal) -> dict[str, str]:
    """Return bump under way → the version that it has chosen. One that waits for its turn in a fleet does not hold the host meanwhile."""
    rows = journal.query(
        "select run, json_extract(data, '$.result.target') from events join runs on runs.id = run "
        "where status = 'running' and workflow = 'bump' and kind = 'completed' and step = 'resolve' order by seq"
    )
    return {str(run): str(version) for run, version in rows if version}


def versions_needed_by_others(journal: Journal, run: str) -> set[str]:
    """Return the versions that a run may not remove: a rollback, a deferral, or another bump needs them."""
    others = {version for other, version in versions_in_progress(journal).items() if other != run}
    return versions_that_wrote(journal) | versions_to_come(journal) | others


def _prune_slots(host: Host, version: str) -> list[str]:
    """Remove the slots that nothing needs, with one scan of /proc for all of them, and partial slots."""
    paths, journal = host.settings.paths, host.journal
    going_back = _returning_runs(journal)
    removal.remove_partials(paths.versions_dir)
    if any(run.workflow == "restore" for run in going_back):
        return []  # a restore searches all slots for a version that knows its snapshot
    accepted: list[str] = facts.read(journal, ACCEPTED) or []
    needed = {version, slots.read_last_good(paths.last_good_file) or "", *accepted[-2:]}
    needed |= versions_that_wrote(journal) | versions_to_come(journal) | set(versions_in_progress(journal).values())
    needed |= {str(run.args.get("to") or "") for run in going_back}
    idle = [version for version in slots.installed(paths.versions_dir) if version not in needed]
    running = running_version.all_running(paths.versions_dir) if idle else {}
    return [version for version in idle if removal.remove_slot(paths.versions_dir, version, running) is None]


def _prune_versions(host: Host) -> list[str]:
    """Delete the records of versions to which nothing can return and which no run can choose. Returns nothing, as no file goes."""
    paths, journal = host.settings.paths, host.journal
    accepted: list[str] = facts.read(journal, ACCEPTED) or []
    moves = {entry.version for entry in catalog.backups(journal)}
    present = {*slots.installed(paths.versions_dir), *moves, *versions_that_wrote(journal), *versions_to_come(journal)}
    present |= {*accepted[-int(host.settings.backup.keep) :], slots.read_last_good(paths.last_good_file) or ""}
    if former := [version for version in accepted if version not in present]:
        facts.change(
            journal, ACCEPTED, lambda known: [version for version in known or [] if version not in former] or None
        )
    version_schemas.keep_only(journal, present | set(rejections.rejected(journal)))
    default = slots.default_version(paths.versions_dir)
    if default is not None:
        before = time.time() - float(host.settings.journal.keep_days) * 86400
        old = [version for version in rejections.rejected_before(journal, before) if version not in present]
        rejections.expire(journal, [version for version in old if is_older(version, default)])
    return []
