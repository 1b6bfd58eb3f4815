"""Which versions were rejected, on which users' databases, and on which databases a version has yet to be tried."""

import time
from collections.abc import Iterable

from t3flow.engine.journal import Journal
from t3flow.host.records import tables

BY_HOST = "rejected by the host "
"""Begins the reason of a version that another host of the fleet rejected."""


def rejected(journal: Journal) -> dict[str, str]:
    """Return rejected version → reason: what this host rejected, and before that what other hosts of the fleet did."""
    return {**rejected_by_others(journal), **rejected_here(journal)}


def rejected_here(journal: Journal) -> dict[str, str]:
    """Return version → reason of the versions that this host rejected, the oldest first."""
    rows = journal.query("select version, reason from rejected order by at")
    return {str(version): str(reason) for version, reason in rows}


def rejected_before(journal: Journal, before: float) -> list[str]:
    """Return the versions that were rejected before a time (epoch seconds)."""
    return [str(version) for (version,) in journal.query("select version from rejected where at < ?", before)]


def rejected_by_others(journal: Journal) -> dict[str, str]:
    """Return version → reason, with the host, of the versions that other hosts of the fleet rejected, unless they passed here since."""
    if not tables.has_table(journal, "rejected_by_hosts"):
        return {}
    rows = journal.query("select version, host, reason from rejected_by_hosts where overruled = 0 order by at desc")
    return {str(version): f"{BY_HOST}{host}: {reason}" for version, host, reason in rows}


def note_of_host(journal: Journal, host: str, reasons: dict[str, str]) -> None:
    """Record the versions that another host rejects now, and forget those that it no longer does. Writes only if something changed."""
    known: dict[str, str] = {}
    if tables.has_table(journal, "rejected_by_hosts"):
        known = dict(journal.query("select version, reason from rejected_by_hosts where host = ?", host))
    if known == reasons:
        return
    with tables.transaction(journal) as connection:
        for version in known.keys() - reasons.keys():
            connection.execute("delete from rejected_by_hosts where version = ? and host = ?", (version, host))
        connection.executemany(
            "insert into rejected_by_hosts values (?, ?, ?, ?, 0) on conflict (version, host) do update set reason = excluded.reason",
            [(version, host, reason, time.time()) for version, reason in reasons.items()],
        )


def rejected_for(journal: Journal, version: str) -> list[str]:
    """Return the users on whose databases alone a version failed; empty if that is unknown."""
    sql = "select user from rejected_for where version = ? order by user"
    return [str(user) for (user,) in tables.rows(journal, "rejected_for", "rejected_for", sql, version)]


def forget_other_hosts(journal: Journal, hosts: Iterable[str]) -> None:
    """Delete what hosts rejected that are none of these: they left the fleet, or this host did. Writes only if something changed."""
    if not tables.has_table(journal, "rejected_by_hosts"):
        return
    gone = {str(host) for (host,) in journal.query("select distinct host from rejected_by_hosts")} - set(hosts)
    if gone:
        with tables.transaction(journal) as connection:
            connection.executemany("delete from rejected_by_hosts where host = ?", [(host,) for host in gone])


def reject(journal: Journal, version: str, reason: str, users: list[str]) -> None:
    """Record that a version failed, and on which users' databases, in one transaction: scheduled runs do not try it again."""
    with tables.transaction(journal) as connection:
        connection.execute("insert or replace into rejected values (?, ?, ?)", (version, reason, time.time()))
        connection.execute("delete from rejected_for where version = ?", (version,))
        connection.executemany("insert or ignore into rejected_for values (?, ?)", [(version, user) for user in users])


def unreject(journal: Journal, version: str) -> None:
    """Delete the rejection of a version that passed after all. Idempotent."""
    with tables.transaction(journal) as connection:
        connection.execute("delete from rejected where version = ?", (version,))
        connection.execute("delete from rejected_for where version = ?", (version,))
        connection.execute("update rejected_by_hosts set overruled = 1 where version = ?", (version,))


def expire(journal: Journal, versions: list[str]) -> None:
    """Delete what this host rejected of versions that no run can choose any more. Says nothing about other hosts' rejections. Idempotent."""
    if versions:
        with tables.transaction(journal) as connection:
            for table in ("rejected", "rejected_for"):
                connection.executemany(f"delete from {table} where version = ?", [(version,) for version in versions])


def note_untried(journal: Journal, version: str, users: list[str]) -> None:
    """Record the users on whose databases a version has yet to be tried. Idempotent.

    What is recorded for the version that a user is deferred to stays: a later version may never be reached. `untried` holds one version of each user,
    for earlier releases.
    """
    with tables.transaction(journal) as connection:
        connection.executemany("insert or replace into untried values (?, ?)", [(user, version) for user in users])
        for user in users:
            connection.execute(
                "delete from untried_versions where user = ? and version not in (select target from deferrals where user = ?)",
                (user, user),
            )
            connection.execute("insert or ignore into untried_versions values (?, ?)", (user, version))


def note_tried(journal: Journal, user: str) -> None:
    """Record that the version that a user is moved to was tried on their databases. Idempotent."""
    with tables.transaction(journal) as connection:
        connection.execute("delete from untried where user = ?", (user,))
        connection.execute("delete from untried_versions where user = ?", (user,))


def is_untried(journal: Journal, user: str, version: str) -> bool:
    """Return whether a version has yet to be tried on a user's databases."""
    sql = "select 1 from untried where user = ? and version = ?"
    if tables.rows(journal, "untried", "untried", sql, user, version):
        return True
    if not tables.has_table(journal, "untried_versions"):
        return False
    return bool(journal.query("select 1 from untried_versions where user = ? and version = ?", user, version))
