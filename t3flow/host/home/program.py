"""What is done inside a home, as its owner: a program of its own, of the standard library and `t3flow.t3`, that root never runs as itself.

usage: program.py COMMAND BASE_DIR [ARGUMENT...]   → one JSON document on stdout; `{"problem": TEXT}` when it cannot be done.

  state BASE_DIR              waits for a line `go PID PID …` on stdin, then reads work, schemas and fingerprint of what these have open
  schema BASE_DIR [KEPT]      the applied migrations of each database, or of those kept in userdata/KEPT
  rows BASE_DIR               how many rows each table of each database has
  backup BASE_DIR BOX MARK    a consistent copy of the whole state into BOX, checked; none if its fingerprint is still MARK (JSON)
  restore BASE_DIR KEPT JSON  puts `{"files": {NAME: DESCRIPTOR}, "aside": [NAME] | null}` in place, what is there kept in userdata/KEPT
  put-back BASE_DIR KEPT      moves what is kept in userdata/KEPT back into place, what is there kept in userdata/KEPT-undone
  schemas BASE_DIR FOLDER NAME...  the applied migrations of snapshots that the owner once wrote into a folder
  kept BASE_DIR               what is kept in userdata/replaced-*: name, size, time, schema level, files
  backup-kept BASE_DIR BOX KEPT  a consistent copy of such a one into BOX, checked
  drop-kept BASE_DIR KEPT     removes such a one
"""

import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # isolated, Python looks there for nothing

from t3flow.host.home import activity, copies, database, replace, replaced
from t3flow.host.home.database import Problem
from t3flow.t3 import files

ROWS_SECONDS = 5.0


def state(folder: Path) -> dict[str, Any]:
    """Say that this program has started, and read once it is told to."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    asked, *pids = sys.stdin.readline().split() or [""]
    return activity.state(folder, [int(pid) for pid in pids if asked == "go" and pid.isdigit()])


def restore(folder: Path, kept: str, asked: str) -> dict[str, Any]:
    """Restore what JSON asks for."""
    wanted = json.loads(asked)
    return replace.restore(folder, kept, wanted["files"], wanted["aside"])


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "state": state,
    "schema": lambda folder, *kept: {
        "schema": database.schemas(replaced.kept_folder(folder, kept[0]) if kept else folder)
    },
    "rows": lambda folder: {"rows": database.row_counts(folder, ROWS_SECONDS)},
    "backup": lambda folder, box, known: copies.copy_set(folder, Path(box), json.loads(known)),
    "restore": restore,
    "put-back": replace.put_back,
    "schemas": lambda folder, top, *names: {name: replaced.schema_or_reason(Path(top) / name) for name in names},
    "kept": replaced.list_kept,
    "backup-kept": lambda folder, box, kept: copies.copy_set(replaced.kept_folder(folder, kept), Path(box), None),
    "drop-kept": replaced.drop_kept,
}


def main(arguments: list[str]) -> int:
    """Run one command; every failure is a `problem` in the answer."""
    command, base_dir, *more = arguments
    try:
        answer = COMMANDS[command](files.userdata(Path(base_dir)), *more)
    except (Problem, sqlite3.Error, OSError, OverflowError) as error:
        code = getattr(error, "sqlite_errorcode", None), getattr(error, "errno", None)
        is_full = code[0] == sqlite3.SQLITE_FULL or code[1] in copies.FULL
        where = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        answer = {"problem": copies.DISK_IS_FULL if is_full else where}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
