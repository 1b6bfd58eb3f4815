"""What schema a database is at: the list of its applied migrations, each with its id and its name.

The highest id says too little: nightlies reused numbers, so that the same id can stand for other columns.
"""

import sqlite3

LEDGER = "effect_sql_migrations"

Schema = list[tuple[int, str]]
"""The applied migrations of one database, in the order of their ids."""


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Return whether a table (not a view) of that name is there."""
    found = connection.execute("select 1 from sqlite_master where type = 'table' and name = ?", (name,))
    return found.fetchone() is not None


def read(connection: sqlite3.Connection) -> Schema | None:
    """Return the applied migrations of a database, or None where it has no ledger of t3's."""
    if not has_table(connection, LEDGER):
        return None
    return [
        (int(number), str(name))
        for number, name in connection.execute(f"select migration_id, name from {LEDGER} order by migration_id")
    ]


def level(schema: Schema) -> int:
    """Return the highest id, for people; 0 for none. Two schemas of one level may differ: compare the lists."""
    return max((number for number, _ in schema), default=0)


def is_known_to(schema: Schema, known: Schema) -> bool:
    """Return whether a version that migrates to `known` knows all that was applied to a database at `schema`."""
    return set(schema) <= set(known)


def difference(schema: Schema, known: Schema) -> str:
    """Return the first migration of `schema` that `known` has not, for people; "" if there is none."""
    names = dict(known)
    for number, name in schema:
        if (number, name) not in known:
            other = f", not {names[number]}" if number in names else ""
            return f"{number} {name}{other}"
    return ""
