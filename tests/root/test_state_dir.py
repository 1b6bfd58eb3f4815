"""The state folder between root, the page's account, and a user."""

import json
import os
import stat
import subprocess
import sys

from world import World

from t3flow.host import state_dir
from t3flow.host.records import facts

READ = """
import sqlite3, sys
print(sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True).execute("select value from facts where key = 'a'").fetchone()[0])
"""


def test_the_page_reads_the_journal_and_nothing_else(world: World) -> None:
    """Also after the log of the journal was made anew; a user reads neither."""
    folder = world.top / "state"
    state_dir.prepare(folder)
    (folder / "queue.key").write_text("secret")
    (folder / "queue.key").chmod(0o600)
    facts.write(world.host.journal, "a", "seen")
    page, group = state_dir.page_ids()
    assert (page, group) == (world.uids["t3flow-web"],) * 2
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        status = (folder / name).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o640, 0, group), name
    status = (folder / "requests").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o700, page, page)

    def reads(uid: int) -> subprocess.CompletedProcess[str]:
        become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        script = [sys.executable, "-I", "-c", READ, str(folder / "journal.db")]
        return subprocess.run([*become, *script], capture_output=True, text=True, check=False)

    assert reads(page).stdout == '"seen"\n'
    assert reads(world.uids["mallory"]).returncode == 1
    become = ["setpriv", f"--reuid={page}", f"--regid={page}", "--clear-groups", "sh", "-c"]
    for closed in (f"cat {folder}/queue.key", f"ls {folder}", f"touch {folder}/x", f"echo >> {folder}/journal.db"):
        assert subprocess.run([*become, closed], capture_output=True, check=False).returncode != 0, closed
    words = [f"list:{folder}", f"list:{folder}/requests", f"make:{folder}/requests", f"make:{folder}/users"]
    assert json.loads(world.does("attempts", *words)) == []
    world.nothing_happened()


def test_owners_of_an_older_installation_are_corrected(world: World) -> None:
    """As an installation before the page had them: root's alone. The doctor names it until then."""
    folder = world.top / "state"
    state_dir.prepare(folder)
    os.chmod(folder, 0o700)
    os.chown(folder / "requests", 0, 0)
    os.chmod(folder / "journal.db", 0o600)
    os.chown(folder / "journal.db", 0, 0)
    wrong = {entry.path.name: what for entry, what in state_dir.wrong_entries(folder)}
    assert wrong["requests"] == "mode 700 and owner root instead of 700 and t3flow-web"
    assert set(wrong) >= {"state", "requests", "journal.db"}
    state_dir.prepare(folder)
    assert list(state_dir.wrong_entries(folder)) == []
