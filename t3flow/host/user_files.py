"""The two files by which a user and the consumer speak: `users/USER/me.json` and `wish.json` in the state folder.

The folder belongs to the consumer's account, so that a user can create, rename, and link nothing in it. The files belong to the user; other users
cannot read them. The consumer replaces `me.json` and the line of `hint` by a rename; the user overwrites `wish.json`, which is always there.
"""

import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from t3flow.engine.files import make_folder
from t3flow.host.accounts import Account
from t3flow.host.state_dir import MODE, USERS

ME, WISH, HINT = "me.json", "wish.json", "hint"
ALIVE = "alive"
"""The file beside the folders that the consumer touches while it is alive, for all to see."""
ALIVE_SECONDS, SILENT_SECONDS = 10.0, 60.0
"""How often it is touched, and from which age on it tells that no consumer is running."""


def folder_of(state_dir: Path, user: str) -> Path:
    """Return the folder of a user's files."""
    return state_dir / USERS / user


def prepare(state_dir: Path, owner: Account) -> int:
    """Create a user's folder and wish file, with the right owners, and return the opened folder. Idempotent. Raises OSError."""
    path = folder_of(state_dir, owner.name)
    if not path.is_dir():
        make_folder(path, MODE)
        path.chmod(MODE)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with suppress(FileNotFoundError):
            status = os.stat(WISH, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and status.st_uid == owner.uid:
                return folder
            os.unlink(WISH, dir_fd=folder)  # the account was made anew, or this is not what it made
        publish(folder, WISH, "", owner, 0o600)
    except OSError:
        os.close(folder)
        raise
    return folder


def users(state_dir: Path) -> list[str]:
    """Return the users who have a folder here."""
    with suppress(OSError), os.scandir(state_dir / USERS) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    return []


def remove(state_dir: Path, user: str) -> None:
    """Remove a user's folder. Only this account can create anything there, so all names in it are known. Idempotent. Raises OSError."""
    with suppress(FileNotFoundError):
        folder = os.open(folder_of(state_dir, user), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for name in os.listdir(folder):
                os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)
        os.rmdir(folder_of(state_dir, user))


def publish(folder: int, name: str, text: str, owner: Account, mode: int = 0o400) -> None:
    """Replace a file in a user's folder by one rename, readable by that user alone. Not synced: the consumer writes it again. Raises OSError."""
    temporary = f".{name}.t3flow"
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=folder), "w") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fchown(file.fileno(), owner.uid, owner.gid)
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def note_alive(state_dir: Path) -> None:
    """Show all users that the consumer is alive."""
    path = state_dir / USERS / ALIVE
    with suppress(OSError):
        path.touch(mode=0o644)
        path.chmod(0o644)


def silent_seconds(state_dir: Path) -> float | None:
    """Return for how long the consumer has shown no sign of life if that is too long (infinite for never), else None."""
    try:
        age = time.time() - (state_dir / USERS / ALIVE).stat().st_mtime
    except OSError:
        return float("inf")
    return age if age > SILENT_SECONDS else None
