"""Restore a snapshot into a home, check it, and undo the restore. The user's server must be stopped."""

import json
import os
import shlex
from contextlib import ExitStack
from pathlib import Path

from t3flow.engine.files import safe_name
from t3flow.host.backups.drop_box import BackupError
from t3flow.host.host import Host
from t3flow.host.owner.answers import require
from t3flow.host.owner.program import run_as_owner
from t3flow.host.records import catalog, facts, version_schemas
from t3flow.host.records.catalog import Backup
from t3flow.t3 import files, ledger, rows

RESTORED = "restored:"
"""Fact "restored:USER": the path of the snapshot that was restored last, until the next snapshot is taken."""


def restore(host: Host, user: str, backup: Backup, name: str) -> str:
    """Replace a user's set by a snapshot; the present set is preserved as the replaced set `name`. Return its folder.

    Raises OwnerProblem, and BackupError if the restored schemas differ from the record. Idempotent. `check_restored` compares the rows once a
    server has run on the result.

    A snapshot of the first database alone comes from an earlier t3flow or from the shell tracker. The other files stay, except the database that
    later versions of t3 create from the first one once and never again: it is of another moment, and a later bump would show it instead of
    what was restored and written since. If the version that wrote the snapshot keeps its work in that database, the restore is refused.
    """
    aside: list[str] | None = None
    if not backup.is_complete:
        aside = [files.SECOND_DATABASE]
        if files.SECOND_DATABASE in (version_schemas.schema_of_version(host.journal, backup.written_by) or {}):
            raise BackupError(
                f"{Path(backup.path).name} contains {files.FIRST_DATABASE} alone, but {backup.written_by} keeps its work in "
                f"{files.SECOND_DATABASE}: choose another snapshot (t3flow backups {shlex.quote(user)})"
            )
    with ExitStack() as stack:
        descriptors = {}
        for file, path in backup.paths.items():
            try:
                descriptors[file] = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError as error:
                raise BackupError(f"the backup {path} cannot be read ({error.strerror})") from error
            stack.callback(os.close, descriptors[file])
        facts.write(host.journal, RESTORED + user, backup.path)
        request = json.dumps({"files": descriptors, "aside": aside})
        answer = run_as_owner(host, user, "restore", safe_name(name), request, descriptors=list(descriptors.values()))
    require(answer, "schema", "replaced")
    _check_schema(user, backup, {file: version_schemas.parse_schema(each) for file, each in answer["schema"].items()})
    return str(answer["replaced"])


def _check_schema(user: str, backup: Backup, restored: version_schemas.Schemas) -> None:
    """Raise BackupError if the restored databases have other migrations than the record of the snapshot."""
    if backup.schema:
        wrong = next((name for name in restored if restored[name] != backup.schema.get(name)), "")
        if wrong:
            raise BackupError(f"after the restore, {wrong} of {user} has other migrations than the snapshot")
        return
    level = max((ledger.level(schema) for schema in restored.values() if schema), default=0)
    if backup.level and level != backup.level:
        raise BackupError(f"after the restore, the database of {user} is at level {level}, not {backup.level}")


def check_restored(host: Host, user: str) -> None:
    """Compare the row counts of the set with those of the snapshot that was restored last, after a server may have run on it.

    Raises BackupError with table and counts if rows are missing; OwnerProblem. A no-op if nothing was restored since the last snapshot, or if
    the snapshot has no row counts on record.
    """
    path = facts.read(host.journal, RESTORED + user)
    backup = catalog.backup_at(host.journal, path) if path else None
    if backup is None or not backup.rows:
        return
    answer = run_as_owner(host, user, "rows")
    require(answer, "rows")
    for name, before in backup.rows.items():
        if backup.schema.get(name) is None:
            continue  # not t3's: a cache may lose rows
        if fewer := rows.lost(before, answer["rows"].get(name, {})):
            raise BackupError(f"rows are missing in {name} of {user} after the restore of {Path(path).name}: {fewer}")


def set_aside(host: Host, user: str, databases: list[str], name: str) -> None:
    """Move databases out of a user's set, which is preserved with them as the replaced set `name`. Raises OwnerProblem. Idempotent."""
    run_as_owner(host, user, "restore", safe_name(name), json.dumps({"files": {}, "aside": databases}))


def undo_restore(host: Host, user: str, name: str) -> None:
    """Undo a restore that preserved the set as `name`; a no-op if it never began. Raises OwnerProblem. Idempotent."""
    run_as_owner(host, user, "undo-restore", safe_name(name))
    facts.write(host.journal, RESTORED + user, None)
