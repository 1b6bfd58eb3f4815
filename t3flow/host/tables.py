"""Tables for what used to be facts that were rewritten whole.

An earlier t3flow has none of them, and goes on reading and writing the journal. Its facts are taken over row by row, in the transaction of the first
write and when the consumer starts, and are then gone: each is in one place at any time. An earlier t3flow that comes back finds no such facts, as on
a new host: pairings show as unknown until the next one, a rejected version counts as rejected for all users, and the slot that wrote a kept database
may be pruned, which does not touch the database. What it notes meanwhile is taken over when this one is back.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from t3flow.engine.journal import Journal
from t3flow.engine.log import logger
from t3flow.host.facts import fact, has_table

SCHEMA = """
create table if not exists pairings (user text primary key, since real not null, reason text not null) without rowid;
create table if not exists pairing_checks (user text primary key, at real not null) without rowid;
create table if not exists kept (user text not null, name text not null, wrote text not null, primary key (user, name)) without rowid;
create table if not exists levels (version text primary key, level integer not null) without rowid;
create table if not exists untried (user text primary key, version text not null) without rowid;
create table if not exists rejected_for (version text not null, user text not null, primary key (version, user)) without rowid;
create table if not exists ours (user text not null, since real not null, until real, primary key (user, since)) without rowid;
"""
FORMER_FACTS = ("pairing", "kept", "levels", "untried", "rejected_for")
OURS = "ours:"
"""What the keys of the former facts about our own probes and restarts begin with; the user follows."""


@contextmanager
def writing(journal: Journal, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
    """A transaction in which the tables are there, and hold what an earlier t3flow had as facts."""
    with journal.transaction(synced=synced) as connection:
        for statement in SCHEMA.strip().split(";\n"):
            connection.execute(statement)
        found = connection.execute(
            f"select key, value from facts where key in ({', '.join('?' * len(FORMER_FACTS))}) or key >= ? and key < ?",
            (*FORMER_FACTS, OURS, f"{OURS[:-1]};"),
        ).fetchall()
        for key, value in found:
            _take_over_fact(connection, str(key), json.loads(value))
            connection.execute("delete from facts where key = ?", (key,))
        yield connection


def take_over(journal: Journal) -> None:
    """Make the tables and take over what an earlier t3flow noted. Idempotent."""
    with writing(journal):
        pass


def rows(journal: Journal, table: str, former: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of a question to a table; while there is none, those to the fact `former` of an earlier t3flow, in a table of that name."""
    if has_table(journal, table):
        return journal.query(sql, *parameters)
    known = fact(journal, former)
    if not known:
        return []
    with sqlite3.connect(":memory:") as connection:
        connection.executescript(SCHEMA)
        _take_over_fact(connection, former, known)
        return connection.execute(sql, parameters).fetchall()


def _take_over_fact(connection: sqlite3.Connection, key: str, value: Any) -> None:
    """Write a former fact as rows. What is not as it should be is left out: the journal stays usable."""
    try:
        for sql, row in _rows_of(key, value):
            connection.execute(sql, row)
    except (KeyError, TypeError, ValueError, sqlite3.IntegrityError, sqlite3.ProgrammingError) as error:
        logger.warning("what was noted under {} is not as it should be ({}), and is dropped", key, error)


def _rows_of(key: str, value: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    if key.startswith(OURS) and isinstance(value, list):
        for since, until in value:
            yield "insert or replace into ours values (?, ?, ?)", (key.removeprefix(OURS), since, until)
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
