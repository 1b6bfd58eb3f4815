"""The set that a trial runs on: which database the server has live, and whether anything of the set is lost."""

from pathlib import Path

from t3flow.gate.cell import database
from t3flow.gate.cell.database import Facts, Unreadable
from t3flow.gate.cell.server import Failed
from t3flow.t3 import files, ledger
from t3flow.t3.unknown import keeps_its_work

KNOWN = (files.SECOND_DATABASE, files.FIRST_DATABASE)
"""The databases that can be live, newest generation first."""


class State:
    """The set below a base dir: its facts before the trial and, once read, after it."""

    def __init__(self, base_dir: Path, deadline: float) -> None:
        self.base_dir = base_dir
        self.folder = files.userdata(base_dir)
        self.deadline = deadline
        self.live = ""
        self.open: list[str] = []
        self.before: database.Set = {}
        self.after: database.Set = {}
        self.identity = b""

    def read_before(self) -> None:
        """Read the unchanged copy. Raises Unreadable."""
        self.before = database.read_set(self.folder, self.deadline)
        self.identity = self._identity()

    def find_live(self, pids: list[int]) -> str:
        """Return the live database: the newest that the server has open. Raises Unknown if it is of another kind, and Failed if it is misplaced.

        t3flow must know every open database in the set's folder, with tables that show work in progress: it decides by them when to stop a server.
        """
        opened = database.open_databases(pids, self.base_dir.resolve())
        here = [path.name for path in opened if path.parent == self.folder.resolve()]
        astray = [path for path in opened if path.name in KNOWN and path.name not in here]
        if astray:
            where = astray[0].relative_to(self.base_dir.resolve())
            raise Failed(f"its database is {where}, outside of {files.USERDATA}, so no backup would find it")
        if special := next((name for name in KNOWN if is_special(self.folder / name)), ""):
            raise Failed(f"the database {special} is no longer a regular file")
        if self.live and self.live not in here:
            raise Failed(f"its database was {self.live} and is now {' and '.join(here) or 'none'}")
        if others := [name for name in here if name not in KNOWN]:
            raise keeps_its_work(f"its server has the database {others[0]} open")
        live = next((name for name in KNOWN if name in here), "")
        if not live:
            raise keeps_its_work(f"its server has no database in {files.USERDATA} open")
        for name in here:
            try:
                database.read_activity(self.folder / name, self.deadline)
            except Unreadable as error:
                raise Failed(
                    f"the live database cannot be read: {error}", slow=True
                ) from error  # it may be locked for long
        self.live, self.open = live, here
        return live

    def stale_reason(self, in_use: list[str]) -> str:
        """Return why the live database is not the one that the version in use continues with, or "".

        A newer version that the user once ran created the second database from the first; the older version then continued with the first.
        """
        first, second = (self.before.get(name) or Facts() for name in (files.FIRST_DATABASE, files.SECOND_DATABASE))
        if self.live != files.SECOND_DATABASE or self.live in in_use or not second.newest_event:
            return ""
        if first.newest_event <= second.newest_event:
            return ""
        return (
            f"the user's own newer t3 created {files.SECOND_DATABASE} from {files.FIRST_DATABASE}, which was written since, and this version would "
            f"show the older one: move {files.SECOND_DATABASE} and its -wal and -shm out of {files.USERDATA} while the server is stopped"
        )

    def required_rows(self) -> dict[str, int]:
        """Return how many rows of each kind a client must see in the live database. Raises Failed if rows from before the trial are missing in it."""
        try:
            shown = database.read_shown(self.folder / self.live, self.deadline)
        except Unreadable as error:
            raise Failed(f"the live database cannot be read: {error}", slow=True) from error
        if gone := database.missing(self._origin(self.live).shown, shown):
            raise Failed(f"{gone} are missing in {self.live}")
        return {kind: len(ids) for kind, ids in shown.items()}

    def _origin(self, name: str) -> Facts:
        """Return the facts of a database before the trial: t3 creates a new database from the first."""
        return self.before.get(name) or self.before.get(files.FIRST_DATABASE) or Facts()

    def read_after(self) -> None:
        """Read the set after the trial. Raises Failed if a database is missing, is not a regular file or cannot be read."""
        for name in self.before:
            path = self.folder / name
            if not path.is_symlink() and not path.exists():
                raise Failed(f"the database {name} was deleted")
            if is_special(path):
                raise Failed(f"the database {name} is no longer a regular file")
        try:
            self.after = database.read_set(self.folder, self.deadline)
        except Unreadable as error:
            raise Failed(f"a migrated database cannot be read: {error}") from error
        if self.live not in self.after:
            raise Failed(f"the database {self.live} was deleted")

    def check_integrity(self) -> str:
        """Compare SQLite's own checks and the schema levels with those before. Raises Failed."""
        for name, after in self.after.items():
            before = self._origin(name)
            if worse := database.worse_integrity(before, after):
                raise Failed(f"{name}: {worse}")
            if name in (*self.before, self.live) and ledger.level(after.schema) < ledger.level(before.schema):
                raise Failed(f"{name}: schema level {ledger.level(after.schema)}, was {ledger.level(before.schema)}")
        first, last = (ledger.level(facts.schema) for facts in (self._origin(self.live), self.after[self.live]))
        return f"{self.live}: level {first} → {last}, no new faults in {len(self.after)} database(s)"

    def check_rows(self) -> str:
        """Check that no table lost rows, in each database of the set and in a live database created from it. Raises Failed."""
        for name in {*self.before, self.live}:
            before, after = self._origin(name), self.after[name]
            lost = (
                database.lost_rows(before, after)
                or database.missing(before.shown, after.shown)
                or database.dropped_runs(before, after)
            )
            if lost:
                raise Failed(f"{name} lost rows: {lost}")
        counts = [sum(facts.rows.values()) for facts in self.before.values()]
        return f"{sum(counts)} rows in {len(counts)} database(s), none lost"

    def check_identity(self) -> str:
        """Check that the server's identity is unchanged: the names of its cookies depend on it. Raises Failed."""
        now = self._identity()
        if self.identity and now != self.identity:
            raise Failed(f"{files.ENVIRONMENT_ID} was {'removed' if not now else 'rewritten'}")
        self.identity = now
        return "unchanged" if now else "none"

    def _identity(self) -> bytes:
        path = self.folder / files.ENVIRONMENT_ID
        try:
            return path.read_bytes().strip() if path.is_file() and not path.is_symlink() else b""
        except OSError:
            return b""

    def schema(self) -> dict[str, ledger.Schema]:
        """Return the applied migrations of each database that records them; empty if the set cannot be read."""
        found = self.after
        if not found:
            try:
                found = database.read_set(self.folder, self.deadline)
            except (Unreadable, OSError):
                return {}
        return {name: facts.schema for name, facts in found.items() if facts.schema}

    def level(self) -> int:
        """Return the schema level of the live database, otherwise of the newest one; 0 if none can be read."""
        found = self.schema()
        newest = [name for name in (self.live, *KNOWN) if name in found]
        return ledger.level(found[newest[0]]) if newest else 0


def is_special(path: Path) -> bool:
    """Return whether a path exists and is not a regular file."""
    return path.is_symlink() or (path.exists() and not path.is_file())
