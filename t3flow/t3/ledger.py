"""The schema of a database: the list of its applied migrations, each with id and name.

The highest id alone is not enough: nightlies reused ids for other columns.
"""

import sqlite3

LEDGER = "effect_sql_migrations"

Schema = list[tuple[int, str]]
"""The applied migrations of one database, in the order of their ids."""


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Return whether a table (not a view) of that name exists."""
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
    """Return the highest id for display, or 0. Schemas of the same level may differ, so compare the lists."""
    return max((number for number, _ in schema), default=0)


def difference(schema: Schema, known: Schema) -> str:
    """Return a description of the first migration of `schema` that `known` lacks, or ""."""
    names = dict(known)
    for number, name in schema:
        if (number, name) not in known:
            other = f", not {names[number]}" if number in names else ""
            return f"{number} {name}{other}"
    return ""
