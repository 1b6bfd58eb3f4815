"""Creation of a slot: a copy of an installed tree that is not trusted and may change during the copy."""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from t3flow.engine.files import make_folder, remove_tree, safe_name, sync_file_system, sync_folder
from t3flow.host.slots import MANIFEST, SlotError, has_slot, slot_path, slots_dir
from t3flow.t3.processes import PROGRAM

FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def create_slot(
    versions_dir: Path, version: str, tree: Path, node: Path, note: dict[str, Any], package: str = "", program: str = ""
) -> Path:
    """Copy an installed tree into a new slot, and return its path.

    The tree itself is not moved, since its makers may still have files open. Copied are regular files with one link, folders, and symlinks that stay
    inside, with modes 0755 and 0644; anything else raises SlotError. `tree` is npm's prefix or, with `package`, that package's folder in a global
    install, which contains `program`. Idempotent: a complete slot is kept; a partial one has another name and is discarded.
    """
    final = slot_path(versions_dir, version)
    if has_slot(versions_dir, version):
        return final
    make_folder(slots_dir(versions_dir))
    partial = slots_dir(versions_dir) / f".{safe_name(version)}.partial"
    remove_tree(partial)
    remove_tree(final)
    digest = hashlib.sha256()
    if package:
        place = partial / "node_modules" / package
        place.parent.mkdir(mode=0o755, parents=True)
        _copy_tree(tree, place, partial, digest, None)
        (partial / PROGRAM).parent.mkdir(mode=0o755)
        (partial / PROGRAM).symlink_to(Path("..") / package / program)
    else:
        _copy_tree(tree, partial, partial, digest, tree.lstat().st_uid)
    (partial / ".node").symlink_to(node)
    (partial / MANIFEST).write_text(
        json.dumps(
            {"version": version, "node": str(node), "node_mark": node_mark(node), "sha256": digest.hexdigest(), **note}
        )
        + "\n"
    )
    sync_file_system(partial)
    partial.rename(final)
    sync_folder(final.parent)
    return final


def node_mark(node: Path) -> list[int]:
    """Return values that change when Node is replaced: its size and modification time."""
    status = node.stat()
    return [status.st_size, status.st_mtime_ns]


def _copy_tree(tree: Path, place: Path, top: Path, digest: Any, owner: int | None) -> None:
    """Copy a tree that may be changing: its own path must be a folder, and everything below is opened relative to a descriptor."""
    descriptor = os.open(tree, FOLDER)
    try:
        _copy(descriptor, place, top, digest, owner)
    finally:
        os.close(descriptor)


def _copy(folder: int, target: Path, top: Path, digest: Any, owner: int | None, depth: int = 0) -> None:
    """Copy an open folder. Entries are opened without following links and judged by their descriptors, since names may be swapped meanwhile."""
    if depth > 64:
        raise SlotError(f"{target.name} is nested too deeply for a package")
    target.mkdir(mode=0o755)
    for name in sorted(os.listdir(folder)):
        relative = (target / name).relative_to(top)
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            link_target = os.readlink(name, dir_fd=folder) if stat.S_ISLNK(status.st_mode) else None
            if link_target is None:
                descriptor = os.open(name, FOLDER if stat.S_ISDIR(status.st_mode) else FILE, dir_fd=folder)
        except OSError as error:
            raise SlotError(f"the package changes while it is copied: {relative} ({error.strerror})") from error
        if link_target is not None:
            if link_target.startswith("/") or not Path(os.path.normpath(target / link_target)).is_relative_to(top):
                raise SlotError(f"the package has a link that leads out of it: {relative} → {link_target}")
            (target / name).symlink_to(link_target)
            digest.update(f"{relative}\0link\0{link_target}\0".encode())
            continue
        try:
            opened = os.fstat(descriptor)
            if owner is not None and opened.st_uid != owner:
                raise SlotError(f"the package contains a file that is not its installer's: {relative}")
            if stat.S_ISDIR(opened.st_mode):
                _copy(descriptor, target / name, top, digest, owner, depth + 1)
            elif stat.S_ISREG(opened.st_mode) and opened.st_nlink == 1:
                executable = bool(opened.st_mode & 0o111)
                content = _copy_file(descriptor, opened.st_size, target / name, 0o755 if executable else 0o644)
                digest.update(f"{relative}\0{executable}\0{content}\0".encode())
            else:
                raise SlotError(f"the package contains something that is not a regular file: {relative}")
        finally:
            os.close(descriptor)


def _copy_file(source: int, size: int, target: Path, mode: int) -> str:
    """Copy at most `size` bytes of an open file and return the SHA-256 of the copy."""
    content = hashlib.sha256()
    with open(target, "xb") as copy:
        while size > 0 and (part := os.read(source, min(size, 1024 * 1024))):
            content.update(part)
            copy.write(part)
            size -= len(part)
        os.fchmod(copy.fileno(), mode)
    return content.hexdigest()
