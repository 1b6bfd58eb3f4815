"""The catalog of snapshots: which version wrote each, where its files are, and what its databases contained."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t3flow.engine.journal import Journal
from t3flow.host.records import tables
from t3flow.host.records.version_schemas import Schemas, parse_schema
from t3flow.t3 import files


@dataclass(frozen=True)
class Backup:
    """A snapshot of a user's set: the version that wrote it, the version that the user was to move to, and the highest schema level.

    `files` maps each file of the set to its name in the folder of `path` (the first of them); it is empty for a snapshot of the first database
    alone. `schema` has the applied migrations of each database, `rows` the row count of each table.
    """

    path: str
    user: str
    written_by: str
    version: str
    level: int
    fingerprint: dict[str, Any] | None
    created: float
    run: str
    files: dict[str, str] = field(default_factory=dict)
    schema: Schemas = field(default_factory=dict)
    rows: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether the snapshot has the whole set and not only the first database."""
        return bool(self.files)

    @property
    def paths(self) -> dict[str, Path]:
        """File of the set → path of its copy."""
        names = self.files or {files.FIRST_DATABASE: Path(self.path).name}
        return {name: Path(self.path).with_name(copy) for name, copy in names.items()}

    @property
    def exists(self) -> bool:
        """Whether all files of the snapshot exist."""
        return all(path.is_file() for path in self.paths.values())

    @property
    def size_bytes(self) -> int:
        """Size of all files. Raises OSError if one is missing."""
        return sum(path.stat().st_size for path in self.paths.values())


def backups(journal: Journal, user: str | None = None) -> list[Backup]:
    """Return the recorded snapshots of all users or of one, oldest first."""
    return _select(journal, "user = coalesce(?, user)", user)


def backup_at(journal: Journal, path: str) -> Backup | None:
    """Return the snapshot whose first file is at `path`, or None."""
    return next(iter(_select(journal, "path = ?", path)), None)


def version_before(snapshots: list[Backup], present: str) -> str:
    """Return the version that a user had before the one that they have now, by their snapshots, oldest first; "" where none records it."""
    forward = [
        entry
        for entry in snapshots
        if entry.written_by not in ("", entry.version) and not entry.run.startswith(("rollback-", "restore-"))
    ]
    return next((entry.written_by for entry in reversed(forward) if entry.version == present), "")


def _select(journal: Journal, where: str, value: str | None) -> list[Backup]:
    columns = "path, user, wrote, target, level, fingerprint, created, run"
    rows = journal.query(f"select {columns} from backups where {where} order by created, path", value)
    sets: dict[str, tuple[Any, ...]] = {}
    if tables.has_table(journal, "backup_sets"):
        found = journal.query(
            f"select path, files, schema, rows from backup_sets join backups using (path) where {where}", value
        )
        sets = {
            path: (json.loads(names), _parse_schemas(schema), json.loads(counts))
            for path, names, schema, counts in found
        }
    return [Backup(*(*row[:5], _parse_fingerprint(row[5]), *row[6:]), *sets.get(row[0], ())) for row in rows]


def _parse_fingerprint(text: str | None) -> dict[str, Any] | None:
    """Return a fingerprint; None for anything that is not the fingerprint of a set, which matches no state."""
    fingerprint = json.loads(text or "null")
    return fingerprint if isinstance(fingerprint, dict) else None


def _parse_schemas(text: str) -> Schemas:
    return {name: parse_schema(listed) for name, listed in json.loads(text).items()}


def put_backup(journal: Journal, backup: Backup, *, synced: bool = True) -> None:
    """Record a snapshot, or replace the record of the same path.

    Without `synced`, a power cut may lose the record: only for a caller that has recorded, synced, which files would then have no record.
    """
    with journal.transaction(synced=synced) as connection:
        tables.create_set_tables(connection)
        connection.execute(
            "insert or replace into backups values (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(backup.path, backup.user, backup.written_by, backup.version, backup.level),
                *(json.dumps(backup.fingerprint), backup.created, backup.run),
            ),
        )
        connection.execute(
            "insert or replace into backup_sets values (?, ?, ?, ?)",
            (backup.path, json.dumps(backup.files), json.dumps(backup.schema), json.dumps(backup.rows)),
        )


def drop_backups(journal: Journal, *paths: str) -> None:
    """Delete the records of snapshots in one transaction. Idempotent."""
    with journal.transaction() as connection:
        tables.create_set_tables(connection)
        connection.executemany("delete from backups where path = ?", [(path,) for path in paths])
        connection.executemany("delete from backup_sets where path = ?", [(path,) for path in paths])
