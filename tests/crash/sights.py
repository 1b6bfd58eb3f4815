"""Checks from outside: databases, replaced databases, and records of t3flow."""

import shutil
import sqlite3
import stat
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from rig import Attempt, Rig

from t3flow.host import freeze, slots
from t3flow.host.backups import replaced
from t3flow.host.home.restore import MANIFEST
from t3flow.host.records import catalog
from t3flow.t3.files import IDENTITY_FILES

STATE_FILES = {*("state.sqlite", "state.sqlite-wal", "state.sqlite-shm"), *IDENTITY_FILES, MANIFEST}
Rows = list[str]


def expect(found: Attempt, what: str, is_: Any, wanted: Any) -> None:
    """Record a difference from the expected value."""
    if is_ != wanted:
        more = (
            f": {[row for row in is_ if row not in wanted][:3]} and not {[row for row in wanted if row not in is_][:3]}"
        )
        text = more if isinstance(is_, list) and len(is_) > 20 else f" is {is_!r}, not {wanted!r}"
        found.wrong.append(f"{what}{text}")


def rows(database: Path) -> Rows:
    """Return all rows of a database except sessions, read from a copy of the file and its WAL, which disturbs no process."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):
            if (source := database.with_name(database.name + suffix)).exists():
                shutil.copyfile(source, Path(folder) / f"copy{suffix}")
        with closing(sqlite3.connect(Path(folder) / "copy")) as connection:
            return [line for line in connection.iterdump() if "auth_" not in line]


def kept_names(rig: Rig, user: str) -> set[str]:
    """Return the names of a user's replaced databases."""
    return {path.name for path in rig.box.database(user).parent.glob(f"{replaced.PREFIX}*")}


def noted_versions(rig: Rig, user: str, besides: set[str]) -> list[str]:
    """Return the recorded versions of a user's new replaced databases."""
    noted = replaced.recorded_versions(rig.journal)
    return [version for (of, name), version in noted.items() if of == user and name not in besides]


def one_is_kept(rig: Rig, found: Attempt, user: str, names: set[str], written: Rows) -> None:
    """Check that exactly one replaced database is kept, readable only by its owner, with all of the user's data."""
    expect(found, f"how many databases of {user} are kept", len(names), 1)
    for name in names:
        folder = rig.box.database(user).parent / name
        expect(found, f"the mode of {name}", stat.S_IMODE(folder.stat().st_mode), 0o700)
        expect(found, f"what else is in {name}", {path.name for path in folder.iterdir()} - STATE_FILES, set())
        expect(found, f"what is kept of {user}", rows(folder / "state.sqlite"), written)


def unrecorded(rig: Rig) -> list[str]:
    """Check that all snapshots are recorded (others would never be dropped), and that all records have a file."""
    known = {str(path) for each in catalog.backups(rig.journal) for path in each.paths.values()}
    there = {str(path) for path in rig.settings.paths.backup_dir.glob("*/*-prebump-*")}
    return [f"a snapshot on no record: {path}" for path in there - known] + [
        f"{path} is gone" for path in known - there
    ]


def accepted_is(rig: Rig, found: Attempt, version: str) -> None:
    """Check the default and the last good version."""
    expect(found, "the default", slots.default_version(rig.settings.paths.versions_dir), version)
    expect(found, "last-good", slots.read_last_good(rig.settings.paths.last_good_file), version)


def frozen_for(rig: Rig, found: Attempt, reason: str) -> None:
    """Check that tracking is frozen for this reason."""
    held = freeze.frozen(rig.settings, rig.journal)
    expect(found, "why it is frozen", held and held["reason"], reason)
