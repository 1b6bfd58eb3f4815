"""A host with the user Ada, the attacker Mallory, and a secret of root. Mallory acts through processes (`hostile.py`)."""

import hashlib
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from conftest import LEVEL30

from t3flow.host.backups import drop_box, store
from t3flow.host.host import Host, open_host
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.records.catalog import Backup
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import open_journal

HOSTILE = Path(__file__).with_name("hostile.py")


class World:
    """A host with the user Ada, the attacker Mallory, and a secret of root."""

    def __init__(self, top: Path, accounts: dict[str, int]) -> None:
        os.chmod(top, 0o755)
        self.top, self.uids = top, accounts
        self.box = Sandbox(top, ["mallory", "ada"], extra="[backup]\ntimeout_s = 3\n")
        self.host: Host = open_host(self.box.settings, open_journal(self.box.settings, create=True))
        os.chmod(top / "backups", 0o711)
        self.token = secrets.token_hex(16)
        self.secret = top / "state/secret"
        self.secret.write_text(self.token)
        self.secret.chmod(0o600)
        self.children: list[subprocess.Popen[bytes]] = []
        for user in self.box.users:
            self.give(user)
        os.chmod(self.home("ada"), 0o700)
        self.of_ada = self.fingerprint()

    def home(self, user: str) -> Path:
        return self.box.base_dir(user).parent

    def give(self, user: str) -> None:
        """Create a regular home."""
        home = self.home(user)
        if home.is_symlink() or home.is_file() or home.is_fifo() or home.is_char_device():
            home.unlink()
        shutil.rmtree(home, ignore_errors=True)
        self.box.database(user).parent.mkdir(parents=True)
        self.box.database(user).write_bytes(LEVEL30.read_bytes())
        with closing(sqlite3.connect(self.box.database(user))) as connection, connection:
            connection.execute(f"create table whose as select '{user}' as name")
        self.box.database(user).chmod(0o600)
        for path in (home, *home.rglob("*")):
            os.chown(path, self.uids[user], self.uids[user])

    def fingerprint(self) -> dict[str, str]:
        """Return a checksum of Ada's files and root's secret."""
        paths = [self.secret, *(path for path in self.home("ada").rglob("*") if path.is_file())]
        paths = [
            path for path in paths if not path.name.endswith(("-wal", "-shm"))
        ]  # her own reads create and remove these
        return {
            str(path): f"{path.stat().st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths
        }

    def words(self, *words: str) -> list[str]:
        """Return a command line that runs as Mallory."""
        uid = self.uids["mallory"]
        return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--pdeathsig=KILL", *words]

    def does(self, deed: str, *words: object) -> str:
        """Run a deed of Mallory to its end and return its output."""
        command = self.words(sys.executable, "-I", str(HOSTILE), deed, *map(str, words))
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    def begins(self, deed: str, *words: object) -> subprocess.Popen[bytes]:
        """Start a deed of Mallory."""
        return self.runs(deed, *map(str, words))

    def runs(self, *words: str, fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        command = self.words(sys.executable, "-I", str(HOSTILE), *words)
        self.children.append(subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=fds))
        return self.children[-1]

    def says(self, deed: str, *words: object) -> subprocess.Popen[bytes]:
        """Start a deed of Mallory and wait until it reports that it runs."""
        child = self.begins(deed, *words)
        assert child.stdout is not None
        assert child.stdout.readline()
        return child

    def stop(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
        self.children = []

    def take(self, user: str = "mallory") -> Path:
        return Path(self.snapshot(user).path)

    def snapshot(self, user: str = "mallory") -> Backup:
        return store.take(self.host, user, written_by="1.0.0", version="2.0.0", run="run-1")

    def holds_open(self) -> list[int]:
        """Start a process of Mallory that has his database open, like his server."""
        script = 'exec 3<"$1" && echo open && exec sleep 60'
        words = self.words("sh", "-c", script, "sh", str(self.box.database("mallory")))
        child = subprocess.Popen(words, stdout=subprocess.PIPE)
        self.children.append(child)
        assert child.stdout is not None
        child.stdout.readline()
        return [child.pid]

    def nothing_happened(self) -> None:
        """Check that Ada's and root's files are unchanged, that Mallory can read no secret, and that Ada's backup succeeds."""
        self.stop()
        assert self.fingerprint() == self.of_ada
        assert whose(self.take("ada")) == "ada"
        found = subprocess.run(
            self.words("grep", "-rlsD", "skip", self.token, str(self.top)), capture_output=True, check=False
        )
        assert found.stdout == b""
        assert list((self.top / "backups/.incoming").iterdir()) == []


def whose(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return str(connection.execute("select name from whose").fetchone()[0])


def in_one_line(deed: Callable[[], object]) -> str:
    """Return the error about Mallory's home, or "". It must not be a disk error, which would end the run for all users."""
    said = ""
    try:
        deed()
    except (OwnerProblem, drop_box.BackupError) as error:
        said = str(error) or "nothing"
    assert "\n" not in said
    assert len(said) < 400
    return said
