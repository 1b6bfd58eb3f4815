"""What is removed once nothing needs it: old snapshots, slots, half-made slots, links of accounts that are gone.

Called from steps (`tasks.accept`, `restore_default`, `prune`, `back_up`), which may repeat it: a second time finds less to do. Every removal unlinks
first and notes it afterwards, so that pruning works on a disk that is completely full: a record whose files are gone is found and dropped next time.
No part stops another, and none fails the step that called it.
"""

import pwd
import time
from collections.abc import Callable
from pathlib import Path

from loguru import logger

from t3flow import T3flowError
from t3flow.engine.journal import Journal, Run
from t3flow.host import slots, t3_accounts
from t3flow.host.accounts import is_root
from t3flow.host.backups import replaced, store
from t3flow.host.host import Host
from t3flow.host.records import catalog, deferral_records, facts, journal_reserve
from t3flow.host.records.catalog import Backup

ACCEPTED = "accepted"
"""The fact that lists the accepted versions, oldest first."""
TO_BE_ACCEPTED = "to_be_accepted"
"""The fact that names the last version assigned to users while none of them could be restarted on it."""
GONE = "gone_accounts"
"""The fact that says since when accounts that have a link are not there any more."""
GONE_SECONDS = 14 * 86400.0
"""A directory of accounts may be away for a while, and an account may come back: a link lasts so long without its account."""
GOING_BACK = ("rollback-", "restore-")
"""What the runs that go back to a snapshot are called."""


def prune(host: Host, spare: str = "") -> list[str]:
    """Remove all that nothing needs; return the names of what went. `spare` is a version whose slot stays in any case."""
    gone: list[str] = []
    parts: list[Callable[[], list[str]]] = [
        lambda: prune_snapshots(host),
        lambda: _prune_links(host),
        lambda: _prune_slots(host, spare),
    ]
    for part in parts:
        try:
            gone += part()
        except (T3flowError, OSError) as error:
            logger.warning("not everything old was removed: {}", error)
    journal_reserve.allocate(host.settings.paths.state_dir)
    return gone


def prune_snapshots(host: Host, user: str | None = None) -> list[str]:
    """Remove the snapshots, of all users or of one, that neither a rollback nor a deferral needs; return their paths."""
    accepted: list[str] = facts.read(host.journal, ACCEPTED) or []
    doomed = [entry for entry in superseded(host, accepted, user) if not _is_asked_for(host.journal, entry)]
    return store.drop_all(host, doomed)


def superseded(host: Host, accepted: list[str], user: str | None = None) -> list[Backup]:
    """Return the snapshots that are too old to be kept.

    Kept are, of each user and each pair of versions, the newest: those of the last `backup.keep` accepted versions; of versions that a pending
    deferral moves to; of the version that the user is on, which a rollback would leave; and of the newest `backup.keep` versions that were not
    accepted, unless they are older than the oldest version kept.
    """
    keep = int(host.settings.backup.keep)
    there = catalog.backups(host.journal, user)
    newest: dict[tuple[str, str, str], float] = {}
    newest_of_target: dict[str, float] = {}
    for entry in there:
        way = (entry.user, entry.version, entry.written_by)
        newest[way] = max(entry.created, newest.get(way, 0.0))
        newest_of_target[entry.version] = max(entry.created, newest_of_target.get(entry.version, 0.0))
    needed = {*accepted[-keep:], *(entry.version for entry in deferral_records.deferrals(host.journal))}
    oldest = min((entry.created for entry in there if entry.version in accepted[-keep:]), default=0.0)
    others = sorted(set(newest_of_target) - set(accepted), key=lambda target: newest_of_target[target])
    needed_if_young = set(others[-keep:])
    on = slots.links(host.settings.paths.versions_dir)

    def is_kept(entry: Backup) -> bool:
        if entry.created < newest[entry.user, entry.version, entry.written_by]:
            return False
        is_young = entry.version in needed_if_young and entry.created >= oldest
        return entry.version in needed or entry.version == on.get(entry.user) or is_young

    return [entry for entry in there if not is_kept(entry)]


def make_room(host: Host, user: str) -> None:
    """Remove a user's old snapshots before the next is taken. Best effort: what fails is no reason not to take it."""
    try:
        prune_snapshots(host, user)
    except (T3flowError, OSError) as error:
        logger.warning("old snapshots of {} were not removed: {}", user, error)


def _is_asked_for(journal: Journal, entry: Backup) -> bool:
    """Return whether a rollback or a restore that was asked for, and may still wait for the host, goes back to this snapshot."""
    for run in _going_back(journal):
        if run.workflow == "rollback" and run.args.get("to") == entry.written_by:
            return True
        if run.workflow == "restore" and run.args.get("backup") == Path(entry.path).name:
            return True
    return False


def _going_back(journal: Journal) -> list[Run]:
    return journal.runs("status = 'running' and workflow in ('rollback', 'restore')")


def versions_that_wrote(journal: Journal) -> set[str]:
    """Return the versions that people may go back to: those that wrote snapshots and kept databases."""
    return {entry.written_by for entry in catalog.backups(journal)} | replaced.versions_needed(journal)


def versions_to_come(journal: Journal) -> set[str]:
    """Return the versions that deferred users are to be moved to."""
    return {entry.version for entry in deferral_records.deferrals(journal)}


def _prune_slots(host: Host, spare: str) -> list[str]:
    """Remove the slots that nothing needs, one walk of /proc for all, and what was half made or half removed."""
    paths, journal = host.settings.paths, host.journal
    going_back = _going_back(journal)
    slots.remove_partials(paths.versions_dir)
    if any(run.workflow == "restore" for run in going_back):
        return []  # it looks for any version that knows its snapshot
    accepted: list[str] = facts.read(journal, ACCEPTED) or []
    needed = {spare, slots.read_last_good(paths.last_good_file) or "", *accepted[-2:]}
    needed |= versions_that_wrote(journal) | versions_to_come(journal)
    needed |= {str(run.args.get("to") or "") for run in going_back}
    idle = [version for version in slots.installed(paths.versions_dir) if version not in needed]
    running = slots.running_versions(paths.versions_dir) if idle else {}
    return [version for version in idle if slots.remove_slot(paths.versions_dir, version, running) is None]


def _prune_links(host: Host) -> list[str]:
    """Remove the links of accounts that have not been there for GONE_SECONDS: each would keep its slot for ever."""
    versions_dir = host.settings.paths.versions_dir
    noted: dict[str, float] = facts.read(host.journal, GONE) or {}
    linked = slots.links(versions_dir)
    missing = [user for user in linked if not _has_account(user)]
    there = set(t3_accounts.accounts(host)) if missing else set()
    now = time.time()
    gone = {user: min(noted.get(user, now), now) for user in missing if user not in there}
    old = [user for user, since in gone.items() if now - since > GONE_SECONDS]
    for user in old:
        slots.forget_starting(versions_dir, user)
        slots.unlink(slots.user_link(versions_dir, user))
        logger.info("the link of {} is removed: there has been no such account for 14 days", user)
    if (left := {user: since for user, since in gone.items() if user not in old}) != noted:
        facts.write(host.journal, GONE, left or None)
    return [f"users/{user}" for user in old]


def _has_account(user: str) -> bool:
    """Return whether the host knows an account. Only root's host has one for each user; elsewhere the user map and the servers say who there is."""
    if not is_root():
        return False
    try:
        pwd.getpwnam(user)
        return True
    except KeyError:
        return False
