"""What t3flow remembers about the host beside its runs: deferrals, backups, rejected versions, and single facts. In the journal's file."""

import json
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t3flow.engine.journal import Journal
from t3flow.host import tables
from t3flow.host.facts import change_fact as change_fact
from t3flow.host.facts import fact as fact
from t3flow.host.facts import has_table as has_table
from t3flow.host.facts import set_fact as set_fact
from t3flow.host.rejections import note_untried as note_untried
from t3flow.host.rejections import reject as reject
from t3flow.host.rejections import rejected as rejected
from t3flow.host.rejections import rejected_for as rejected_for
from t3flow.host.rejections import unreject as unreject
from t3flow.t3 import files, ledger

Schemas = dict[str, ledger.Schema | None]
"""Database → its applied migrations; None for one that is not t3's."""

SETS = """
create table if not exists backup_sets (
    path text primary key, files text not null, schema text not null, rows text not null
) without rowid;
create table if not exists schemas (
    version text not null, database text not null, schema text not null, primary key (version, database)
) without rowid;
"""
"""Tables that came later. They are made when first written to, beside the older ones: so an earlier t3flow still reads and writes its journal."""

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
    + SETS.lstrip()
    + tables.SCHEMA.lstrip()
)

UNKNOWN = "unknown"
"""Fact: users whose t3 is of an unknown kind → [since (epoch seconds), what is not known]."""


@dataclass(frozen=True)
class Deferral:
    """A user who is to move to `target` once idle. Times are seconds since the epoch."""

    user: str
    run: str
    target: str
    since: float
    checks: int
    next_check: float | None
    waiting_for: str
    detail: str
    revoked: bool


@dataclass(frozen=True)
class Backup:
    """A snapshot: the version that wrote the databases (`wrote`), the one moved to (`target`), and the highest schema level.

    It is a set: `files` says under which name in the folder of `path` (the first of them) each file of the state is kept, `schema` what
    migrations each database had been through, `rows` how many rows each table had. `files` is empty where the first database alone was kept.
    """

    path: str
    user: str
    wrote: str
    target: str
    level: int
    fingerprint: dict[str, Any] | None
    created: float
    run: str
    files: dict[str, str] = field(default_factory=dict)
    schema: Schemas = field(default_factory=dict)
    rows: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether it is all of a state, and not one file of it."""
        return bool(self.files)

    @property
    def paths(self) -> dict[str, Path]:
        """File of the state → where it is kept."""
        named = self.files or {files.FIRST_DATABASE: Path(self.path).name}
        return {name: Path(self.path).with_name(kept) for name, kept in named.items()}

    @property
    def is_there(self) -> bool:
        """Whether all of its files are."""
        return all(path.is_file() for path in self.paths.values())

    @property
    def bytes(self) -> int:
        """What all of its files take. Raises OSError when one is gone."""
        return sum(path.stat().st_size for path in self.paths.values())


def deferrals(journal: Journal) -> list[Deferral]:
    """All pending deferrals, oldest first."""
    rows = journal.query(
        "select user, run, target, since, checks, next_check, waiting_for, detail, revoked from deferrals order by since, user"
    )
    return [Deferral(*(*row[:8], bool(row[8]))) for row in rows]


def deferral(journal: Journal, user: str) -> Deferral | None:
    """One user's pending deferral."""
    return next((entry for entry in deferrals(journal) if entry.user == user), None)


def put_deferral(journal: Journal, user: str, run: str, target: str, waiting_for: str, next_check: float) -> None:
    """Makes a deferral, or gives the one that is pending a newer target and its drain. Since when it is pending stays."""
    with journal.transaction() as connection:
        connection.execute(
            "insert into deferrals (user, run, target, since, next_check, waiting_for) values (?, ?, ?, ?, ?, ?) "
            "on conflict (user) do update set target = excluded.target, run = excluded.run",
            (user, run, target, time.time(), next_check, waiting_for),
        )


def replace_drain(journal: Journal, known: Deferral, run: str) -> bool:
    """Gives a deferral another drain; False where it is gone, or has another one, since it was read: then nothing is changed."""
    with journal.transaction() as connection:
        changed = connection.execute(
            "update deferrals set run = ? where user = ? and run = ? and target = ?",
            (run, known.user, known.run, known.target),
        )
    return changed.rowcount == 1


def note_check(journal: Journal, user: str, waiting_for: str, detail: str, next_check: float) -> None:
    """Notes why a check found the user not ready, and when the next one is due."""
    with journal.transaction(synced=False) as connection:  # what a power cut takes back is asked again
        connection.execute(
            "update deferrals set checks = checks + 1, waiting_for = ?, detail = ?, next_check = ? where user = ?",
            (waiting_for, detail, next_check, user),
        )


def set_revoked(journal: Journal, user: str, revoked: bool) -> None:
    """Marks a deferral as taken out of the queue by a person, or put back."""
    with journal.transaction() as connection:
        connection.execute("update deferrals set revoked = ? where user = ?", (revoked, user))


def drop_deferral(journal: Journal, user: str) -> None:
    """The user is where they were to go, or no longer to go there."""
    with journal.transaction() as connection:
        connection.execute("delete from deferrals where user = ?", (user,))


def backups(journal: Journal, user: str | None = None) -> list[Backup]:
    """The snapshots on record, oldest first."""
    return _backups(journal, "user = coalesce(?, user)", user)


def backup_at(journal: Journal, path: str) -> Backup | None:
    """The snapshot whose first file is at `path`, or None."""
    return next(iter(_backups(journal, "path = ?", path)), None)


def _backups(journal: Journal, where: str, value: str | None) -> list[Backup]:
    shown = "path, user, wrote, target, level, fingerprint, created, run"
    rows = journal.query(f"select {shown} from backups where {where} order by created, path", value)
    sets: dict[str, tuple[Any, ...]] = {}
    if has_table(journal, "backup_sets"):
        found = journal.query(
            f"select path, files, schema, rows from backup_sets join backups using (path) where {where}", value
        )
        sets = {
            path: (json.loads(named), _as_schemas(schema), json.loads(counts)) for path, named, schema, counts in found
        }
    return [Backup(*(*row[:5], _marks(row[5]), *row[6:]), *sets.get(row[0], ())) for row in rows]


def _marks(text: str | None) -> dict[str, Any] | None:
    """A fingerprint; None where it is none of a set, and fits nothing."""
    marks = json.loads(text or "null")
    return marks if isinstance(marks, dict) else None


def _as_schemas(text: str) -> Schemas:
    return {name: as_schema(listed) for name, listed in json.loads(text).items()}


def as_schema(listed: Any) -> ledger.Schema | None:
    """The applied migrations of what JSON has as lists."""
    return None if listed is None else [(int(number), str(name)) for number, name in listed]


def make_sets(connection: sqlite3.Connection) -> None:
    """Makes the tables that an earlier t3flow did not, within a transaction. Repeating it finds them."""
    for statement in SETS.strip().split(";\n"):
        connection.execute(statement)


def put_backup(journal: Journal, backup: Backup, *, synced: bool = True) -> None:
    """Records a snapshot; again for the same path replaces the record.

    Not `synced`, a power cut may take the record back: for a caller that has noted, synced, which files would then be on no record.
    """
    with journal.transaction(synced=synced) as connection:
        make_sets(connection)
        connection.execute(
            "insert or replace into backups values (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(backup.path, backup.user, backup.wrote, backup.target, backup.level),
                *(json.dumps(backup.fingerprint), backup.created, backup.run),
            ),
        )
        connection.execute(
            "insert or replace into backup_sets values (?, ?, ?, ?)",
            (backup.path, json.dumps(backup.files), json.dumps(backup.schema), json.dumps(backup.rows)),
        )


def drop_backup(journal: Journal, *paths: str) -> None:
    """Forget snapshots, in one transaction."""
    with journal.transaction() as connection:
        make_sets(connection)
        connection.executemany("delete from backups where path = ?", [(path,) for path in paths])
        connection.executemany("delete from backup_sets where path = ?", [(path,) for path in paths])


def note_level(journal: Journal, version: str, level: int) -> None:
    """Notes the schema level that a version migrates to, as a trial has shown: for people alone."""
    if level:
        with tables.writing(journal, synced=False) as connection:
            connection.execute("insert or replace into levels values (?, ?)", (version, level))


def level_of_version(journal: Journal, version: str) -> int | None:
    """The schema level that a version knows, for people: as a trial has shown, else by the newest snapshot that it wrote."""
    rows = tables.rows(journal, "levels", "levels", "select level from levels where version = ?", version)
    rows = rows or journal.query("select level from backups where wrote = ? order by created desc limit 1", version)
    return int(rows[0][0]) if rows else None


def forget_schemas(journal: Journal) -> None:
    """Forgets what trials have shown of all versions."""
    with tables.writing(journal) as connection:
        make_sets(connection)
        connection.execute("delete from levels")
        connection.execute("delete from schemas")


def note_schema(journal: Journal, version: str, shown: dict[str, Any], live: list[str] | None = None) -> None:
    """Notes what a version was shown to serve: database → its migrations, beside what is noted of it. Repeating it writes the same.

    `live` names the databases that it had open (None: all). One that merely lay there says nothing about the version, except the first, which
    later ones are made of.
    """
    with journal.transaction() as connection:
        make_sets(connection)
        for name, listed in shown.items():
            if listed is None or (live is not None and name not in (*live, files.FIRST_DATABASE)):
                continue
            row = connection.execute(
                "select schema from schemas where version = ? and database = ?", (version, name)
            ).fetchone()
            known = as_schema(json.loads(row[0])) if row else None
            both = sorted({*(known or []), *(as_schema(listed) or [])})
            if both != known:
                connection.execute("insert or replace into schemas values (?, ?, ?)", (version, name, json.dumps(both)))


def schema_of_version(journal: Journal, version: str) -> dict[str, ledger.Schema] | None:
    """What migrations a version knows in each database: as trials have shown, else by the snapshots that it wrote; None where there are neither.

    Of the snapshots it is what all have in common, and the first database alone: another one may only have lain beside it.
    """
    if has_table(journal, "schemas"):
        rows = journal.query("select database, schema from schemas where version = ?", version)
        noted = {str(name): as_schema(json.loads(listed)) or [] for name, listed in rows}
        if noted:
            return noted
    sets = [entry.schema.get(files.FIRST_DATABASE) for entry in backups(journal) if version and entry.wrote == version]
    lists = [{*each} for each in sets if each]
    return {files.FIRST_DATABASE: sorted(set.intersection(*lists))} if lists else None
