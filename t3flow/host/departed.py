"""What accounts that no longer exist have left: links, folders of wishes, deferrals, and rows of the journal.

Each of them would stay for ever, and a link or a deferral would keep its version's slot. They stay for `backup.gone_days`, because an account service
may be unavailable and an account may return. Snapshots are not touched here: they become superseded like those of users who are there.
"""

import pwd
import time
from collections.abc import Iterator

from t3flow.engine.journal import Journal
from t3flow.engine.log import logger
from t3flow.host import slots, t3_accounts, user_files
from t3flow.host.accounts import is_root
from t3flow.host.backups.restoring import RESTORED
from t3flow.host.backups.store import TAKING
from t3flow.host.host import Host
from t3flow.host.records import facts, tables

GONE = "gone_accounts"
"""Fact: accounts that t3flow knows and that no longer exist → since when (epoch seconds)."""
OF_USERS = (
    "deferral_troubles",
    "deferrals",
    "holds",
    "kept",
    "left_behind",
    "measured",
    "ours",
    "pairing_checks",
    "pairings",
    "probe_sessions",
    "untried",
    "untried_versions",
    "wishes",
)
"""Tables whose rows belong to a user alone. Those of `backups` and `rejected_for` end with a version, those of `alerts` with a problem."""
PREFIXES = (TAKING, RESTORED)
"""Prefixes of facts about a user, whose name follows."""
OF_EACH = (facts.UNKNOWN_T3, facts.DEFERRAL_CAUSES)
"""Facts that map users to something."""


def remove(host: Host) -> list[str]:
    """Remove what accounts that have not existed for `backup.gone_days` have left, and return what was removed. Idempotent.

    Raises UserMapError, ServiceError: while the accounts are not known, nothing is removed. Records go last, so that a kill is made up for.
    """
    recorded: dict[str, float] = facts.read(host.journal, GONE) or {}
    folders = set(user_files.users(host.settings.paths.state_dir))
    linked = set(slots.links(host.settings.paths.versions_dir))
    missing = {user for user in linked | folders | set(_recorded(host.journal)) if not _has_account(user)}
    there = set(t3_accounts.accounts(host)) if missing else set()
    now = time.time()
    gone = {user: min(recorded.get(user, now), now) for user in missing if user not in there}
    days = float(host.settings.backup.gone_days)
    old = sorted(user for user, since in gone.items() if now - since > days * 86400)
    for user in old:
        slots.remove_starting(host.settings.paths.versions_dir, user)
        slots.remove_link(slots.user_link(host.settings.paths.versions_dir, user))
        user_files.remove(host.settings.paths.state_dir, user)
        forget(host.journal, user)
        logger.info("forgot {}: the account has not existed for {:g} days", user, days)
    if (left := {user: since for user, since in gone.items() if user not in old}) != recorded:
        facts.write(host.journal, GONE, left or None)
    return [f"users/{user}" for user in old]


def forget(journal: Journal, user: str) -> None:
    """Delete the rows and facts of a user. A drain that misses its deferral ends. Idempotent."""
    present = [table for table in OF_USERS if tables.has_table(journal, table)]
    with journal.transaction() as connection:
        for table in present:
            connection.execute(f"delete from {table} where user = ?", (user,))
        connection.executemany("delete from facts where key = ?", [(prefix + user,) for prefix in PREFIXES])
    for key in OF_EACH:
        if user in (facts.read(journal, key) or {}):
            facts.change(
                journal, key, lambda known: {name: each for name, each in (known or {}).items() if name != user} or None
            )


def _recorded(journal: Journal) -> Iterator[str]:
    """Yield the users of whom the journal has a row or a fact."""
    for table in OF_USERS:
        if tables.has_table(journal, table):
            yield from (str(user) for (user,) in journal.query(f"select distinct user from {table}"))
    for prefix in PREFIXES:
        rows = journal.query("select key from facts where substr(key, 1, ?) = ?", len(prefix), prefix)
        yield from (str(key).removeprefix(prefix) for (key,) in rows)


def _has_account(user: str) -> bool:
    """Return whether an account exists. Only as root does each user have one; otherwise the user map and the servers decide."""
    if not is_root():
        return False
    try:
        pwd.getpwnam(user)
        return True
    except KeyError:
        return False
