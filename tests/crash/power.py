"""Simulate a power cut: follow each change to files, and undo those that were not synced.

The bytes of a file are safe after its fsync or fdatasync, a name in a folder after the fsync of the folder, and everything after syncfs. What is not
safe depends on VARIANT. `everything`: all of it is lost; `data`: names survive, bytes are lost, as with a journal of metadata; `mixed`: random for
each folder, file, and written page. A rename is atomic. Modes and owners count as safe, and so do writes of programs that are not traced (the
users' servers).

A new file whose bytes are lost is empty, or has its length and contains zeros.
"""

import os
import random
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

AT_CWD = 0xFFFFFF9C
VARIANTS = ("everything", "data", "mixed")
Key = tuple[int, int]


@dataclass
class Node:
    """A file or folder. An open descriptor keeps its inode number from being reused."""

    descriptor: int
    key: Key
    mode: int
    link: str = ""

    @classmethod
    def at(cls, path: str) -> "Node":
        """Return what is at a path. Raise OSError."""
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        link = os.readlink("", dir_fd=descriptor) if stat.S_ISLNK(status.st_mode) else ""
        return cls(descriptor, (status.st_dev, status.st_ino), status.st_mode, link)

    def __del__(self) -> None:
        os.close(self.descriptor)

    def path(self) -> str | None:
        """Return its current path, or None if it was removed."""
        found = os.readlink(f"/proc/self/fd/{self.descriptor}")
        return found if os.path.lexists(found) and not found.endswith(" (deleted)") else None

    def content(self) -> bytes:
        """Return the bytes of a file, even of a removed one."""
        with open(f"/proc/self/fd/{self.descriptor}", "rb") as file:
            return file.read()


@dataclass
class Dirty:
    """A file with unsafe bytes: its last safe content (None: a new file), and the pages written since."""

    node: Node
    former: bytes | None
    pages: list[tuple[int, bytes]] = field(default_factory=list)


class Disk:
    """The changes below `top`, except in folders whose loss does no harm."""

    def __init__(self, top: Path, variant: str, seed: int) -> None:
        self.top, self.variant, self.dice = str(top), variant, random.Random(seed)
        self.leave = tuple(f"{top}/{name}/" for name in ("scratch", "log", "registry", "tools"))
        self.folders: dict[Key, tuple[Node, dict[str, Node]]] = {}
        self.files: dict[Key, Dirty] = {}
        self.fresh: dict[int, str] = {}

    # Before each call -----------------------------------------------------------------------------------------------

    def before(self, pid: int, number: int, arguments: list[int]) -> None:
        """Record what a call is about to make unsafe or safe."""
        self._find_fresh(pid)
        # A trial's process cannot be read (PermissionError); it writes only to scratch.
        with suppress(FileNotFoundError, NotADirectoryError, ProcessLookupError, PermissionError):
            self._note(pid, number, arguments)

    def _note(self, pid: int, number: int, arguments: list[int]) -> None:
        first, second, third, fourth = arguments[:4]
        if number in (74, 75):
            self._synced(f"/proc/{pid}/fd/{first}")
        elif number in (306, 162):
            self.folders.clear()
            self.files.clear()
        elif number == 18:
            self._written(f"/proc/{pid}/fd/{first}", fourth, _memory(pid, second, third))
        elif number == 77:
            self._written(f"/proc/{pid}/fd/{first}")
        elif number in (2, 257, 85):
            self._opened(pid, _path(pid, AT_CWD, first) if number != 257 else _path(pid, first, second))
        elif number in (83, 84, 87):
            self._named(_path(pid, AT_CWD, first))
        elif number in (258, 263):
            self._named(_path(pid, first, second))
        elif number in (82, 86):
            self._named(_path(pid, AT_CWD, first), _path(pid, AT_CWD, second))
        elif number in (264, 265, 316):
            self._named(_path(pid, first, second), _path(pid, third, fourth))
        elif number == 88:
            self._named(_path(pid, AT_CWD, second))
        elif number == 266:
            self._named(_path(pid, second, third))

    def _ours(self, path: str) -> bool:
        return path.startswith(self.top + "/") and not path.startswith(self.leave)

    def _opened(self, pid: int, path: str) -> None:
        if not self._ours(path):
            return
        if os.path.exists(path):
            self._written(path)
        else:
            self._named(path)
            self.fresh[pid] = path

    def _find_fresh(self, pid: int) -> None:
        """Record files whose creating call has returned; drop those that were not created."""
        for maker, path in list(self.fresh.items()):
            with suppress(FileNotFoundError):
                node = Node.at(path)
                self.files[node.key] = Dirty(node, None)
                del self.fresh[maker]
        self.fresh.pop(pid, None)

    def _named(self, *paths: str) -> None:
        """Record that names are about to change."""
        for folder in {os.path.dirname(path) for path in paths if self._ours(path)}:
            node = Node.at(folder)
            if node.key not in self.folders:
                listing = {}
                for name in os.listdir(folder):
                    with suppress(FileNotFoundError):
                        listing[name] = Node.at(f"{folder}/{name}")
                self.folders[node.key] = (node, listing)

    def _written(self, path: str, offset: int = 0, page: bytes | None = None) -> None:
        """Record that the bytes of a file are about to change."""
        real = os.path.realpath(path)
        if not self._ours(real) or not stat.S_ISREG(os.stat(path).st_mode):
            return
        status = os.stat(path)
        key = (status.st_dev, status.st_ino)
        if key not in self.files:
            node = Node.at(real)
            self.files[key] = Dirty(node, node.content())
        if page is not None:
            self.files[key].pages.append((offset, page))

    def _synced(self, path: str) -> None:
        status = os.stat(path)
        key = (status.st_dev, status.st_ino)
        self.folders.pop(key, None)
        self.files.pop(key, None)

    # The cut --------------------------------------------------------------------------------------------------------

    def cut(self) -> list[str]:
        """Undo what is not safe, and return a description. No process may write below `top`."""
        self._find_fresh(0)
        lost_files = {key: self._lost(dirty) for key, dirty in self.files.items() if self._unlucky(self.variant != "")}
        lost_folders = {key for key in self.folders if self._unlucky(self.variant != "data")}
        for key in lost_folders:
            node, listing = self.folders[key]
            path = node.path()
            if path is not None:
                self._put_back(path, listing, lost_folders, lost_files)
        for key, content in lost_files.items():
            path = self.files[key].node.path()
            if path is not None:
                mode = stat.S_IMODE(os.stat(path).st_mode)
                os.chmod(path, mode | stat.S_IWUSR)  # what is read-only for its account is lost all the same
                Path(path).write_bytes(content)
                os.chmod(path, mode)
        told = [f"{self.folders[key][0].path()}/ is as it was" for key in lost_folders]
        for key, content in lost_files.items():
            former = self.files[key].former
            told.append(f"{self.files[key].node.path()}: {len(content)} bytes are left, {len(former or b'')} were safe")
        return told

    def _unlucky(self, otherwise: bool) -> bool:
        return self.dice.random() < 0.5 if self.variant == "mixed" else otherwise

    def _lost(self, dirty: Dirty) -> bytes:
        """Restore a file to what survives."""
        if dirty.former is None:
            return bytes(len(dirty.node.content())) if self.dice.random() < 0.5 else b""
        content = bytearray(dirty.former)
        for offset, page in dirty.pages if self.variant == "mixed" else []:
            if self.dice.random() < 0.5:
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(page)] = page
        return bytes(content)

    def _put_back(
        self, folder: str, listing: dict[str, Node], lost_folders: set[Key], lost_files: dict[Key, bytes]
    ) -> None:
        """Restore the names of a folder."""
        aside = f"{folder}/.aside"
        os.mkdir(aside)
        there: dict[Key, str] = {}
        for name in os.listdir(folder):
            if name != ".aside":
                status = os.lstat(f"{folder}/{name}")
                os.rename(f"{folder}/{name}", f"{aside}/{name}")
                there[status.st_dev, status.st_ino] = name
        for name, node in listing.items():
            path = f"{folder}/{name}"
            if node.key in there and os.path.lexists(f"{aside}/{there[node.key]}"):
                os.rename(f"{aside}/{there[node.key]}", path)
            elif stat.S_ISLNK(node.mode):
                os.symlink(node.link, path)
            elif stat.S_ISREG(node.mode):
                self._make_again(path, node, lost_files)
            elif stat.S_ISDIR(node.mode):
                os.mkdir(path, stat.S_IMODE(node.mode))
                if node.key in lost_folders:
                    self._put_back(path, self.folders[node.key][1], lost_folders, lost_files)
        shutil.rmtree(aside)

    def _make_again(self, path: str, node: Node, lost_files: dict[Key, bytes]) -> None:
        """Link a renamed or removed file under a name again."""
        elsewhere = node.path()
        if elsewhere is not None:
            os.link(elsewhere, path)
            return
        Path(path).write_bytes(lost_files[node.key] if node.key in lost_files else node.content())
        os.chmod(path, stat.S_IMODE(node.mode))
        status = os.fstat(node.descriptor)
        os.chown(path, status.st_uid, status.st_gid)


def _memory(pid: int, address: int, length: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        return os.pread(memory.fileno(), length, address)


def _path(pid: int, descriptor: int, address: int) -> str:
    """Return the path in the arguments of a call."""
    text = _memory(pid, address, 4096 - address % 4096).split(b"\0")[0].decode(errors="surrogateescape")
    if not text.startswith("/"):
        base = f"/proc/{pid}/cwd" if descriptor & 0xFFFFFFFF == AT_CWD else f"/proc/{pid}/fd/{descriptor}"
        text = f"{os.readlink(base)}/{text}"
    folder, _, name = os.path.normpath(text).rpartition("/")
    return f"{os.path.realpath(folder)}/{name}"
