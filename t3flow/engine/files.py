"""Files that must survive a power cut or an attack: atomic synced writes, safe names, and removal of trees that others may have filled.

Part of the engine because the journal needs it; knows nothing of runs.
"""

import ctypes
import os
import re
import shutil
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

from t3flow import T3flowError

MAX_NAME_BYTES = 240
"""A file name may have 255 bytes, and atomic replacement uses a temporary file with a slightly longer name."""
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@$\\-]{0,239}")
REMOVE_TIMEOUT_SECONDS = 60.0
AT_FDCWD, RENAME_NOREPLACE, RENAME_EXCHANGE = -100, 1, 2
CLAIM_ATTEMPTS = 1000
REGULAR_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)


class DiskError(T3flowError):
    """A disk is full or cannot be written, or a name is not safe to use."""


def safe_name(text: str) -> str:
    """Return the text if it is a safe file name. Raises DiskError."""
    if not _SAFE_NAME.fullmatch(text) or ".." in text:
        raise DiskError(f"{text[:80]!a} cannot be a file name: letters, digits and . _ + - @ $ \\ only")
    return text


def path_component(text: str) -> str:
    """Return the text if it is one component of a path, whatever its characters. Raises DiskError.

    For names that exist on the host already: an account needs its link even if `safe_name` rejects its name. A leading dot is reserved for temporary
    files.
    """
    size = len(text.encode(errors="surrogateescape"))
    if not 0 < size <= MAX_NAME_BYTES or text.startswith(".") or any(letter in text for letter in "/\0\n"):
        raise DiskError(f"{text[:80]!a} cannot be a file name: 1 to {MAX_NAME_BYTES} bytes, no slash, no leading dot")
    return text


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, mode: int = 0o755) -> None:
    """Create a folder and its missing parents, synced. Idempotent."""
    if not folder.parent.is_dir():
        make_folder(folder.parent)
    folder.mkdir(mode=mode, exist_ok=True)
    sync_folder(folder.parent)


def sync_file_system(folder: Path) -> None:
    """Sync the whole file system of a folder, which is cheaper than syncing each of 15,000 files. Raises DiskError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor) != 0:
            raise DiskError(f"{folder}: syncfs failed: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file by one rename. Readers see the old text or the new one, also after a power cut."""
    temporary = path.with_name(f".{path.name}.t3flow")
    descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_folder(path.parent)


def link_atomically(link: Path, target: str) -> None:
    """Point a symlink at a target by one rename, so that it is never missing in between."""
    temporary = link.with_name(f".{link.name}.t3flow")
    with suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(target)
    temporary.rename(link)
    sync_folder(link.parent)


def _read_regular_file(descriptor: int, name: str, max_bytes: int) -> str:
    """Return the text of an open file, and close it."""
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
            raise ValueError(f"{name} is not a regular file of at most {max_bytes} bytes")
        return file.read(max_bytes).decode()


def read_regular_file_below(top: Path, relative: str, max_bytes: int = 1024 * 1024) -> str:
    """Return the text of a regular file below a folder, opened one component at a time without following links. Raises OSError, ValueError."""
    *folders, name = relative.split("/")
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for each in folders:
            if each in ("", ".", ".."):
                raise ValueError(f"{relative} is not a path below a folder")
            below = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        return _read_regular_file(os.open(name, REGULAR_FILE_FLAGS, dir_fd=descriptor), relative, max_bytes)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a path and all below it. Follows no symlink and enters no mount. Idempotent. Raises DiskError.

    Others may have filled the tree and may still change it, so this runs `rm`: the tree may be nested deeper than Python can recurse, and opening a
    fifo in place of a folder would hang. `rm` dies with this process: it must not remove what the next consumer creates there.
    """
    for _ in range(3):
        if not os.path.lexists(path):
            return
        words = ["setpriv", "--pdeathsig=KILL", "--", "rm", "-rf", "--one-file-system", "--", str(path)]
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                words, capture_output=True, timeout=REMOVE_TIMEOUT_SECONDS, check=False, start_new_session=True
            )
    if os.path.lexists(path):
        raise DiskError(f"{path} cannot be removed; see what uses it (fuser -vm {path}), then remove it")


def claim_folder(folder: Path, mode: int) -> None:
    """Create an empty folder at a name in a world-writable place, even if others keep creating something there. Raises OSError, DiskError.

    A fresh folder takes the place of theirs by one exchange of names. Between a removal and a mkdir they could win the race.
    """
    replacement = folder.with_name(f"{folder.name}-{os.urandom(8).hex()}")
    replacement.mkdir(mode=0o700)
    os.chmod(replacement, mode)
    names = (AT_FDCWD, os.fsencode(replacement), AT_FDCWD, os.fsencode(folder))
    for _ in range(CLAIM_ATTEMPTS):
        if _libc.renameat2(*names, RENAME_NOREPLACE) == 0:
            return
        if _libc.renameat2(*names, RENAME_EXCHANGE) == 0:
            with suppress(DiskError, FileNotFoundError):  # it has another name now and is removed later
                if replacement.lstat().st_uid == os.geteuid():  # a tree of another account may take minutes, and stays
                    remove_tree(replacement)
            return
    code = ctypes.get_errno()
    os.rmdir(replacement)
    raise OSError(code, os.strerror(code))


def is_on_tmpfs(folder: Path) -> bool:
    """Whether a folder is on a file system in memory (tmpfs). Raises OSError."""
    device = os.stat(folder).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1] in ("tmpfs", "ramfs")
    return False


def require_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Raise DiskError unless a folder's file system has the space that `purpose` needs."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise DiskError(
            f"{folder} cannot be used for {purpose}: {error.strerror}; create the folder, or set another one"
        ) from error
    if free < needed_bytes:
        raise DiskError(
            f"{folder} has {free / 1e6:.0f} MB free, but {purpose} needs {needed_bytes / 1e6:.0f} MB: make room, then run it again"
        )
