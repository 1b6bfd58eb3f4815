"""Which migrations each version knows, as trials and snapshots have shown."""

import json
from typing import Any

from t3flow.engine.journal import Journal
from t3flow.host.records import tables
from t3flow.t3 import files, ledger

Schemas = dict[str, ledger.Schema | None]
"""Database → its applied migrations; None for a database that is not t3's."""


def parse_schema(listed: Any) -> ledger.Schema | None:
    """Return applied migrations from the lists of their JSON form."""
    return None if listed is None else [(int(number), str(name)) for number, name in listed]


def note_level(journal: Journal, version: str, level: int) -> None:
    """Record the schema level that a version migrates to, as seen in a trial. Only shown to people, never compared."""
    if level:
        with tables.transaction(journal, synced=False) as connection:
            connection.execute("insert or replace into levels values (?, ?)", (version, level))


def level_of_version(journal: Journal, version: str) -> int | None:
    """Return the schema level of a version, for people: from its trials, otherwise from the newest snapshot that it wrote."""
    rows = tables.rows(journal, "levels", "levels", "select level from levels where version = ?", version)
    rows = rows or journal.query("select level from backups where wrote = ? order by created desc limit 1", version)
    return int(rows[0][0]) if rows else None


def note_schema(journal: Journal, version: str, shown: dict[str, Any], live: list[str] | None = None) -> None:
    """Add migrations that a version served in a trial to those recorded for it: database → migrations. Idempotent.

    `live` names the databases that the server had open (None: all). A database that was only present says nothing about the version, except
    the first one, from which t3 creates the later ones.
    """
    with journal.transaction() as connection:
        tables.create_set_tables(connection)
        for name, listed in shown.items():
            if listed is None or (live is not None and name not in (*live, files.FIRST_DATABASE)):
                continue
            row = connection.execute(
                "select schema from schemas where version = ? and database = ?", (version, name)
            ).fetchone()
            known = parse_schema(json.loads(row[0])) if row else None
            union = sorted({*(known or []), *(parse_schema(listed) or [])})
            if union != known:
                connection.execute(
                    "insert or replace into schemas values (?, ?, ?)", (version, name, json.dumps(union))
                )


def schema_of_version(journal: Journal, version: str) -> dict[str, ledger.Schema] | None:
    """Return the migrations that a version knows in each database: from its trials, otherwise from snapshots that it wrote; None without either.

    From snapshots: the migrations that all of them have in common, of the first database alone, because another one may only have been present.
    """
    if tables.has_table(journal, "schemas"):
        rows = journal.query("select database, schema from schemas where version = ?", version)
        recorded = {str(name): parse_schema(json.loads(listed)) or [] for name, listed in rows}
        if recorded:
            return recorded
    if not version or not tables.has_table(journal, "backup_sets"):
        return None
    rows = journal.query("select schema from backup_sets join backups using (path) where wrote = ?", version)
    schemas = [{*(parse_schema(json.loads(text).get(files.FIRST_DATABASE)) or [])} for (text,) in rows]
    known = [schema for schema in schemas if schema]
    return {files.FIRST_DATABASE: sorted(set.intersection(*known))} if known else None


def keep_only(journal: Journal, versions: set[str]) -> None:
    """Delete what trials have shown of all versions but these. Writes nothing if there is nothing to delete. Idempotent."""
    for table in ("levels", "schemas"):
        if not tables.has_table(journal, table):
            continue
        recorded = {str(version) for (version,) in journal.query(f"select distinct version from {table}")}
        if obsolete := sorted(recorded - versions):
            with journal.transaction() as connection:
                connection.executemany(f"delete from {table} where version = ?", [(version,) for version in obsolete])


def forget_schemas(journal: Journal) -> None:
    """Delete what trials have shown of all versions."""
    with tables.transaction(journal) as connection:
        tables.create_set_tables(connection)
        connection.execute("delete from levels")
        connection.execute("delete from schemas")
