"""The tables of t3flow's records, and the migration of facts that earlier releases kept instead.

The first release's tables are created with the journal. Later tables are created by the first write, next to the others, so that an earlier
release can still read and write the same journal. Facts of an earlier release become rows in the transaction of the first write and when the
consumer starts, and are deleted in that transaction: each record is in one place at any time. After a downgrade, the earlier release does not find
these facts: pairings are unknown until the next one, a rejected version counts as rejected for all users, and the slot of the version that
wrote a replaced database may be pruned, which does not touch the database. Facts that it writes are migrated after the next upgrade.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from t3flow.engine.journal import Journal
from t3flow.engine.log import logger
from t3flow.host.records import facts

SET_TABLES = """
create table if not exists backup_sets (
    path text primary key, files text not null, schema text not null, rows text not null
) without rowid;
create table if not exists schemas (
    version text not null, database text not null, schema text not null, primary key (version, database)
) without rowid;
"""
LATER_TABLES = """
create table if not exists pairings (user text primary key, since real not null, reason text not null) without rowid;
create table if not exists kept (user text not null, name text not null, wrote text not null, primary key (user, name)) without rowid;
create table if not exists levels (version text primary key, level integer not null) without rowid;
create table if not exists untried (user text primary key, version text not null) without rowid;
create table if not exists untried_versions (user text not null, version text not null, primary key (user, version)) without rowid;
create table if not exists rejected_for (version text not null, user text not null, primary key (version, user)) without rowid;
create table if not exists rejected_by_hosts (
    version text not null, host text not null, reason text not null, at real not null,
    overruled integer not null default 0,  -- it passed here, as an operator tried it again
    primary key (version, host)
) without rowid;
create table if not exists ours (user text not null, since real not null, until real, primary key (user, since)) without rowid;
create table if not exists pairing_checks (user text primary key, at real not null) without rowid;
create table if not exists probe_sessions (
    user text not null, session text not null, opened real not null, primary key (user, session)
) without rowid;
"""
OUTBOX_TABLES = """
create table if not exists news (id integer primary key, about text not null, what text not null, at real not null);
create trigger if not exists run_began after insert on runs when new.workflow = 'bump'
    begin insert into news (about, what, at) values (new.id, 'began', new.created); end;
create trigger if not exists run_ended after update of status on runs when old.status = 'running' and new.status != 'running'
    begin insert into news (about, what, at) values (new.id, 'ended', new.updated); end;
create table if not exists alerts (
    key text not null, user text not null, since real not null, text text not null, primary key (key, user)
) without rowid;
create table if not exists outbox (
    id integer primary key, key text not null, channel text not null, document text not null, at real not null,
    attempts integer not null default 0, next_try real not null, dead real, unique (channel, key)
);
create table if not exists channels (
    name text primary key, shown text not null, sent integer not null default 0, failed integer not null default 0,
    sent_at real, failing_since real, cause text not null default '', dead integer not null default 0, next_beat real
) without rowid;
"""
"""See `outbox.py`. The triggers put each run that begins or ends into `news`, in the transaction that begins or ends it."""
SCHEMA = (
    """
create table deferrals (
    user text primary key, run text not null, target text not null, since real not null,
    checks integer not null default 0, next_check real, waiting_for text not null, detail text not null default '',
    revoked integer not null default 0
) without rowid;
create table backups (
    path text primary key, user text not null, wrote text not null, target text not null, level integer not null,
    fingerprint text, created real not null, run text not null
) without rowid;
create table rejected (version text primary key, reason text not null, at real not null) without rowid;
create table facts (key text primary key, value text not null) without rowid;
"""
    + SET_TABLES.lstrip()
    + LATER_TABLES.lstrip()
    + OUTBOX_TABLES.lstrip()
)
FORMER_FACTS = ("pairing", "kept", "levels", "untried", "rejected_for")
OWN_ACTIVITY = "ours:"
"""Prefix of the keys of former facts about t3flow's own probes and restarts; the user follows."""


def has_table(journal: Journal, table: str) -> bool:
    """Return whether the journal's file has a table. Later tables are created by the first write."""
    return bool(journal.query("select 1 from sqlite_master where type = 'table' and name = ?", table))


def create_set_tables(connection: sqlite3.Connection) -> None:
    """Create the tables of snapshot sets within a transaction. Idempotent."""
    for statement in SET_TABLES.strip().split(";\n"):
        connection.execute(statement)


@contextmanager
def transaction(journal: Journal, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
    """Begin a transaction in which the later tables exist and contain the facts of an earlier release."""
    with journal.transaction(synced=synced) as connection:
        for statement in (LATER_TABLES + OUTBOX_TABLES.lstrip()).strip().split(";\n"):
            connection.execute(statement)
        former = connection.execute(
            f"select key, value from facts where key in ({', '.join('?' * len(FORMER_FACTS))}) or key >= ? and key < ?",
            (*FORMER_FACTS, OWN_ACTIVITY, f"{OWN_ACTIVITY[:-1]};"),
        ).fetchall()
        for key, value in former:
            _migrate_fact(connection, str(key), json.loads(value))
            connection.execute("delete from facts where key = ?", (key,))
        yield connection


def migrate_facts(journal: Journal) -> None:
    """Create the later tables and migrate the facts of an earlier release. Idempotent."""
    with transaction(journal):
        pass


def rows(journal: Journal, table: str, former: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Query a later table. While it does not exist, run the query on the rows of the fact `former` of an earlier release, in memory."""
    if has_table(journal, table):
        return journal.query(sql, *parameters)
    known = facts.read(journal, former)
    if not known:
        return []
    with sqlite3.connect(":memory:") as connection:
        connection.executescript(LATER_TABLES)
        _migrate_fact(connection, former, known)
        return connection.execute(sql, parameters).fetchall()


def _migrate_fact(connection: sqlite3.Connection, key: str, value: Any) -> None:
    """Insert the rows of a former fact. Skip malformed values, so that the journal stays usable."""
    try:
        for sql, row in _rows_of(key, value):
            connection.execute(sql, row)
    except (KeyError, TypeError, ValueError, sqlite3.IntegrityError, sqlite3.ProgrammingError) as error:
        logger.warning("dropped the malformed record {!r} of an earlier release: {}", key, error)


def _rows_of(key: str, value: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    if key.startswith(OWN_ACTIVITY) and isinstance(value, list):
        for since, until in value:
            yield "insert or replace into ours values (?, ?, ?)", (key.removeprefix(OWN_ACTIVITY), since, until)
    if not isinstance(value, dict):
        return
    for name, each in value.items():
        if key == "pairing":
            yield "insert or replace into pairings values (?, ?, ?)", (name, each["since"], each["reason"])
        elif key == "kept":
            user, _, folder = name.partition("/")
            yield "insert or replace into kept values (?, ?, ?)", (user, folder, each)
        elif key in ("levels", "untried"):
            yield f"insert or replace into {key} values (?, ?)", (name, each)
        elif key == "rejected_for":
            for user in each:
                yield "insert or replace into rejected_for values (?, ?)", (name, user)
