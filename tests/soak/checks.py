"""The invariants after each night, checked from outside: doctor, servers, assignments, snapshots, leftovers."""

import shutil
import sqlite3
import stat
import tempfile
from contextlib import closing, suppress
from pathlib import Path

import sights
from host_of_year import Violation, Year
from rig import Attempt

from t3flow.host import slots
from t3flow.host.backups import replaced

TOLERATED = ("replaced databases of", "has no assignment of their own")
"""Findings of the doctor that a person's decision or, for a new user, the next bump ends."""

DOCTOR_SECONDS = 60.0


class Checks:
    """The checks, with what they have already seen: an unchanged snapshot is read once."""

    def __init__(self, year: Year) -> None:
        self.year = year
        self.seen: dict[str, tuple[int, int, int]] = {}
        self.restored = 0

    def night(self, *, all_snapshots: bool = False) -> None:
        """Check everything. Raise Violation with all that is wrong."""
        if all_snapshots:
            self.seen.clear()
        found = Attempt("night")
        self._users(found)
        self._versions(found)
        self._snapshots(found)
        self._leftovers(found)
        self._doctor(found)
        if found.wrong:
            raise Violation("; ".join(found.wrong))

    def notice_damage(self) -> None:
        """Damage a snapshot after the last night: raise Violation unless the checks notice it. A control of the checks themselves."""
        chosen = next(iter(self.year.snapshots()), None)
        if chosen is None:
            return
        path = Path(chosen.path)
        path.write_bytes(path.read_bytes()[:-4096])
        found = Attempt("damage")
        self._snapshots(found)
        if not any(path.name in line for line in found.wrong):
            raise Violation("the checks did not notice a damaged snapshot")

    def _users(self, found: Attempt) -> None:
        """Each user's assignment, server, and database match, each can pair, and none is on a build that users saw fail."""
        year = self.year
        for user in year.box.users:
            version = slots.effective(year.settings.paths.versions_dir, user) or ""
            if version != year.box.assigned(user):
                found.wrong += [] if user in year.new else [f"{user} follows the default"]
                continue
            year.user_is_on(found, user, version, year.box.level(user))
            if version in year.bad:
                found.wrong.append(f"{user} is on the bad build {version}")
        year.nobody_is_held(found)

    def _versions(self, found: Attempt) -> None:
        """Default and last-good are the same accepted version; every version to which a rollback goes has its slot."""
        paths = self.year.settings.paths
        default, last_good = slots.default_version(paths.versions_dir), slots.read_last_good(paths.last_good_file)
        if default != last_good or default in self.year.bad:
            found.wrong.append(f"default {default}, last-good {last_good}")
        installed = set(slots.installed(paths.versions_dir))
        for each in self.year.snapshots():
            if each.written_by not in installed:
                found.wrong.append(f"the slot of {each.written_by}, which wrote {Path(each.path).name}, is gone")
        for (user, name), version in replaced.recorded_versions(self.year.journal).items():
            if user in self.year.box.users and replaced.age_seconds(name) < replaced.KEEP_SECONDS:
                if not (self.year.box.database(user).parent / name).is_dir():
                    found.wrong.append(f"{name} of {user} is gone before its time")
                if version and version not in installed:
                    found.wrong.append(f"the slot of {version}, which wrote {name} of {user}, is gone")

    def _snapshots(self, found: Attempt) -> None:
        """Each snapshot is recorded, private, complete, and opens as a sound database of the recorded level."""
        found.wrong += sights.unrecorded(self.year)
        for each in self.year.snapshots():
            for name, path in each.paths.items():
                if not path.exists():
                    continue  # already said
                status = path.stat()
                mark = (status.st_ino, status.st_size, status.st_mtime_ns)
                if self.seen.get(str(path)) == mark:
                    continue
                self.seen[str(path)] = mark
                if stat.S_IMODE(status.st_mode) & 0o077:
                    found.wrong.append(f"{path} has mode {status.st_mode:o}")
                if name.endswith(".sqlite"):
                    self.restored += 1
                    found.wrong += unsound(path, each.level if name == "state.sqlite" else None)

    def _leftovers(self, found: Attempt) -> None:
        """No scratch, partial slot, drop box, or lease is left while no run is at work."""
        year = self.year
        paths = year.settings.paths
        left = [
            *paths.scratch_dir.iterdir(),
            *paths.versions_dir.rglob(".*partial"),
            *paths.versions_dir.glob("**/.*.t3flow"),
        ]
        incoming = paths.backup_dir / ".incoming"
        left += list(incoming.iterdir()) if incoming.exists() else []
        found.wrong += [f"left behind: {path.relative_to(year.box.top)}" for path in left]
        if year.journal.query("select run from locks"):
            found.wrong.append("a run still has the lease")

    def _doctor(self, found: Attempt) -> None:
        """`doctor` has no finding, once the consumer has verified each user since the clock was set."""
        problems: list[str] = []

        def is_well() -> bool:
            said = self.year.box.document("doctor", timeout_seconds=300)
            findings = said if isinstance(said, list) else said["findings"]
            problems[:] = [each["problem"] for each in findings]
            return not [each for each in problems if not any(word in each for word in TOLERATED)]

        with suppress(AssertionError):
            self.year.box.until(is_well, "the doctor finds nothing", DOCTOR_SECONDS)
            return
        found.wrong += [f"doctor: {problem}" for problem in problems]


def unsound(database: Path, level: int | None) -> list[str]:
    """Return what is wrong with a copy of a database, restored into an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "state.sqlite"
        shutil.copyfile(database, copy)
        with closing(sqlite3.connect(copy)) as connection:
            try:
                [[answer]] = connection.execute("pragma integrity_check").fetchall()
                if answer != "ok":
                    return [f"{database.name}: {answer}"]
                if level is not None:
                    [[is_]] = connection.execute("select max(migration_id) from effect_sql_migrations")
                    if is_ != level:
                        return [f"{database.name} is at level {is_}, its record says {level}"]
            except sqlite3.DatabaseError as error:
                return [f"{database.name}: {error}"]
    return []
