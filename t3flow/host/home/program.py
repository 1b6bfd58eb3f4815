"""The program that works in a home, as its owner: standard library and `t3flow.t3` alone; root never runs it as itself.

usage: program.py COMMAND BASE_DIR [ARGUMENT...]   → one JSON document on stdout; `{"problem": TEXT}` if the command fails

  state BASE_DIR                 wait for a line `go PID PID …` on stdin, then report work, schemas and fingerprint of the databases these have open
  schema BASE_DIR [REPLACED]     applied migrations of each database, or of each in userdata/REPLACED
  rows BASE_DIR                  row count of each table of each database
  backup BASE_DIR BOX MARK       consistent, checked copy of the set in BOX; no copy if the fingerprint still equals MARK (JSON)
  restore BASE_DIR NAME JSON     put `{"files": {FILE: DESCRIPTOR}, "aside": [FILE] | null}` in place; the present set is preserved in userdata/NAME
  undo-restore BASE_DIR NAME     move userdata/NAME back into place; the present set is preserved in userdata/NAME-undone
  schemas BASE_DIR FOLDER FILE…  applied migrations of snapshots that the owner once wrote into a folder
  list-replaced BASE_DIR         the sets in userdata/replaced-*: name, size, time, schema level, files
  backup-replaced BASE_DIR BOX NAME   consistent, checked copy of such a set in BOX
  drop-replaced BASE_DIR NAME    remove such a set
"""

import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[3])
)  # an isolated interpreter (-I) searches no folder for t3flow

from t3flow.host.home import activity, copies, database
from t3flow.host.home.database import Problem
from t3flow.t3 import files

ROWS_SECONDS = 5.0


def read_state(folder: Path) -> dict[str, Any]:
    """Report that this program has started, wait for the command to go, and read."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    word, *pids = sys.stdin.readline().split() or [""]
    return activity.read_state(folder, [int(pid) for pid in pids if word == "go" and pid.isdigit()])


def schemas(folder: Path, *name: str) -> dict[str, Any]:
    """Read the migrations of the present set, or of the replaced set of that name."""
    if not name:
        return {"schema": database.schemas(folder)}
    from t3flow.host.home import replaced

    return {"schema": database.schemas(replaced.replaced_folder(folder, name[0]))}


def replaced_command(command: str) -> Callable[..., dict[str, Any]]:
    """Return a command about replaced sets. The others do without its modules: importing them takes longer than most commands do."""

    def run(folder: Path, *arguments: str) -> dict[str, Any]:
        from t3flow.host.home import replaced, restore

        def restore_files(folder: Path, name: str, request: str) -> dict[str, Any]:
            wanted = json.loads(request)
            return restore.restore(folder, name, wanted["files"], wanted["aside"])

        def back_up(folder: Path, box: str, name: str) -> dict[str, Any]:
            return copies.copy_set(replaced.replaced_folder(folder, name), Path(box), None)

        def read_schemas(folder: Path, top: str, *names: str) -> dict[str, Any]:
            return {name: replaced.schema_or_reason(Path(top) / name) for name in names}

        commands: dict[str, Callable[..., dict[str, Any]]] = {
            "restore": restore_files,
            "undo-restore": restore.undo_restore,
            "schemas": read_schemas,
            "list-replaced": replaced.list_replaced,
            "backup-replaced": back_up,
            "drop-replaced": replaced.drop_replaced,
        }
        return commands[command](folder, *arguments)

    return run


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "state": read_state,
    "schema": schemas,
    "rows": lambda folder: {"rows": database.row_counts(folder, ROWS_SECONDS)},
    "backup": lambda folder, box, known: copies.copy_set(folder, Path(box), json.loads(known)),
}


def main(arguments: list[str]) -> int:
    """Run one command; report every failure as a `problem` in the answer."""
    command, base_dir, *more = arguments
    try:
        work = COMMANDS.get(command) or replaced_command(command)
        answer = work(files.userdata(Path(base_dir)), *more)
    except (Problem, sqlite3.Error, OSError, OverflowError) as error:
        code = getattr(error, "sqlite_errorcode", None), getattr(error, "errno", None)
        is_full = code[0] == sqlite3.SQLITE_FULL or code[1] in copies.FULL
        where = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        answer = {"problem": copies.DISK_IS_FULL if is_full else where}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
