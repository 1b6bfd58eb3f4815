"""The folder of the consumer's state: which account may read or write what in it, and its two spools.

All accounts may pass through the folder; only this one may list it. In it,

- `journal.db` can be read by the page's account, where that account exists; only this account can read the queue, its key, and the locks;
- `requests` belongs to the page's account, which puts the requests of operators there;
- `users/USER` belongs to this account and holds two files of that user's: `me.json`, which the consumer writes, and `wish.json`, which the user
  writes. Users cannot create, rename, or link anything there.
"""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from t3flow.engine.files import make_folder
from t3flow.host.accounts import is_root

WEB_ACCOUNT = "t3flow-web"
"""The account of the page, and its group."""
MODE = 0o711
REQUESTS, USERS = "requests", "users"
JOURNAL_FILES = ("journal.db", "journal.db-wal", "journal.db-shm")
PRIVATE = ("queue.*", "fleet.*", "*.lock", "reserve")


class Entry(NamedTuple):
    """The mode and the owner that a path should have."""

    path: Path
    mode: int
    uid: int
    gid: int


def page_ids() -> tuple[int, int]:
    """Return the uid of the page's account and its group; this process's own where there is no such account, or without root."""
    if is_root():
        with suppress(KeyError):
            return pwd.getpwnam(WEB_ACCOUNT).pw_uid, grp.getgrnam(WEB_ACCOUNT).gr_gid
    return os.geteuid(), os.getegid()


def wrong_entries(state_dir: Path) -> Iterator[tuple[Entry, str]]:
    """Yield each existing path with another mode or owner than it should have, and what is wrong with it."""
    for entry in _entries(state_dir):
        with suppress(FileNotFoundError):
            status = entry.path.lstat()
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISLNK(status.st_mode):
                continue
            if (mode, status.st_uid, status.st_gid) != entry[1:]:
                present, wanted = (
                    f"mode {mode:o} and owner {_name(status.st_uid)}",
                    f"{entry.mode:o} and {_name(entry.uid)}",
                )
                yield entry, f"{present} instead of {wanted}"


def create_folders(state_dir: Path) -> None:
    """Create the folder and its spools. Changes nothing that is there. Idempotent. Raises OSError."""
    make_folder(state_dir, MODE)
    if not (state_dir / REQUESTS).exists():
        make_folder(state_dir / REQUESTS, 0o700)
        os.chown(state_dir / REQUESTS, *page_ids())
    make_folder(state_dir / USERS, MODE)


def prepare(state_dir: Path) -> list[str]:
    """Create the folders, and correct modes and owners, such as those of an earlier t3flow. Return the corrections. Idempotent. Raises OSError.

    Call it once the journal was opened: a file that only has the journal's name stays as it is.
    """
    create_folders(state_dir)
    corrected = []
    for entry, what in wrong_entries(state_dir):
        os.chown(entry.path, entry.uid, entry.gid, follow_symlinks=False)
        os.chmod(entry.path, entry.mode)
        corrected.append(f"{entry.path} had {what}")
    return corrected


def _entries(state_dir: Path) -> Iterator[Entry]:
    own, page = (os.geteuid(), os.getegid()), page_ids()
    yield Entry(state_dir / REQUESTS, 0o700, *page)
    yield Entry(state_dir / USERS, MODE, *own)
    shared = page != own
    for name in JOURNAL_FILES:
        yield Entry(state_dir / name, 0o640 if shared else 0o600, own[0], page[1])
    for pattern in PRIVATE:
        for path in sorted(state_dir.glob(pattern)):
            yield Entry(path, 0o600, *own)
    yield Entry(state_dir, MODE, *own)  # last, when nothing in it is open to others


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
