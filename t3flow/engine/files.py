"""Small writes that survive a power cut, and names that cannot leave their folder."""

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
"""A file name takes 255 bytes, and a name is replaced by way of a temporary file whose name is a little longer."""
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@$\\-]{0,239}")
REMOVE_TIMEOUT_SECONDS = 60.0
AT_FDCWD, RENAME_NOREPLACE, RENAME_EXCHANGE = -100, 1, 2
CLAIM_ATTEMPTS = 1000
REGULAR_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)


class DiskError(T3flowError):
    """A disk has no space, or cannot be written."""


def safe_name(text: str) -> str:
    """The text, if it can be one component of a path and nothing else. Raises DiskError."""
    if not _SAFE_NAME.fullmatch(text) or ".." in text:
        raise DiskError(f"{text[:80]!a} cannot be a file name: letters, digits and . _ + - @ $ \\ only")
    return text


def path_component(text: str) -> str:
    """Return the text, if it is one component of a path, whatever its letters are. Raise DiskError for any other.

    For names that the host has given already: an account whose name t3flow would not take elsewhere still needs its link.
    A leading dot is what temporary files begin with.
    """
    size = len(text.encode(errors="surrogateescape"))
    if not 0 < size <= MAX_NAME_BYTES or text.startswith(".") or any(letter in text for letter in "/\0\n"):
        raise DiskError(f"{text[:80]!a} cannot be a file name: 1 to {MAX_NAME_BYTES} bytes, no slash, no leading dot")
    return text


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, mode: int = 0o755) -> None:
    """Makes a folder, and those above it that are missing, so that their names survive a power cut. Repeating it is harmless."""
    if not folder.parent.is_dir():
        make_folder(folder.parent)
    folder.mkdir(mode=mode, exist_ok=True)
    sync_folder(folder.parent)


def sync_file_system(folder: Path) -> None:
    """Writes out everything of the file system that a folder is on: cheaper than a sync for each of 15,000 files."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor) != 0:
            raise DiskError(f"{folder}: syncfs failed: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replaces a file by one rename: readers see the old text or the new, also after a power cut."""
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
    """Points a symlink at a target by one rename: it never dangles in between."""
    temporary = link.with_name(f".{link.name}.t3flow")
    with suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(target)
    temporary.rename(link)
    sync_folder(link.parent)


def read_regular_file(path: Path, max_bytes: int = 1024 * 1024) -> str:
    """The text of a plain file that somebody may have put anything in the place of. Raises OSError, ValueError."""
    return _read_regular_file(os.open(path, REGULAR_FILE_FLAGS), str(path), max_bytes)


def _read_regular_file(descriptor: int, name: str, max_bytes: int) -> str:
    """The text of an open file, which is closed."""
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
            raise ValueError(f"{name} is no plain file of at most {max_bytes} bytes")
        return file.read(max_bytes).decode()


def read_regular_file_below(top: Path, relative: str, max_bytes: int = 1024 * 1024) -> str:
    """Return the text of a plain file below a folder, opened name by name without following links. Raises OSError, ValueError."""
    *folders, name = relative.split("/")
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for each in folders:
            if each in ("", ".", ".."):
                raise ValueError(f"{relative} is no path below a folder")
            below = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        return _read_regular_file(os.open(name, REGULAR_FILE_FLAGS, dir_fd=descriptor), relative, max_bytes)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Removes a folder and all below it, or whatever else is there. Follows no symlink, enters no mount. Raises DiskError.

    Others may have filled it, or be filling it still: with folders nested deeper than Python goes, or a fifo where a folder was, whose
    opening would never end. The program dies with this one: it must not meet what the next makes there.
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
        raise DiskError(f"{path} cannot be removed: see who uses it (fuser -vm {path}), then remove it")


def claim_folder(folder: Path, mode: int) -> None:
    """Makes an empty folder where everybody may write, whatever others put at its name, and however fast. Raises OSError, DiskError.

    A folder of ours takes the place of theirs by one exchange of names: between a removal and a mkdir they would be first.
    """
    replacement = folder.with_name(f"{folder.name}-{os.urandom(8).hex()}")
    replacement.mkdir(mode=0o700)
    os.chmod(replacement, mode)
    names = (AT_FDCWD, os.fsencode(replacement), AT_FDCWD, os.fsencode(folder))
    for _ in range(CLAIM_ATTEMPTS):
        if _libc.renameat2(*names, RENAME_NOREPLACE) == 0:
            return
        if _libc.renameat2(*names, RENAME_EXCHANGE) == 0:
            with suppress(DiskError):  # it has another name now, and is swept later
                remove_tree(replacement)
            return
    code = ctypes.get_errno()
    os.rmdir(replacement)
    raise OSError(code, os.strerror(code))


def is_on_tmpfs(folder: Path) -> bool:
    """Whether a folder's file system is kept in memory (tmpfs). Raises OSError."""
    device = os.stat(folder).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1] in ("tmpfs", "ramfs")
    return False


def require_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Raises DiskError when a folder's file system has not the space that `purpose` needs."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise DiskError(
            f"{folder} cannot be used for {purpose}: {error.strerror}; make the folder, or set another"
        ) from error
    if free < needed_bytes:
        raise DiskError(
            f"{folder} has {free / 1e6:.0f} MB free, {purpose} needs {needed_bytes / 1e6:.0f} MB: make room, then run it again"
        )
