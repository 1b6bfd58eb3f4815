"""Slots: one folder a version, one link a user. Assigning a version is one rename; nobody is led to a slot but by a link.

`versions_dir/versions/VERSION/` holds an npm install and a link `.node` to the Node it was gated with. `versions_dir/users/USER` and
`versions_dir/current` are links to slots, `versions_dir/hold` is a link that means: being restored, start nothing.
"""

import hashlib
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from t3flow import T3flowError
from t3flow.engine.files import (
    link_atomically,
    make_folder,
    path_component,
    remove_tree,
    safe_name,
    sync_file_system,
    sync_folder,
    write_atomically,
)
from t3flow.host.processes import proc
from t3flow.t3.processes import PROGRAM as PROGRAM

MANIFEST = ".t3flow.json"
HOLD = "hold"
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class SlotError(T3flowError):
    """A slot or a link is not as it must be."""


def versions(versions_dir: Path) -> Path:
    """The folder that the slots are in."""
    return versions_dir / "versions"


def slot_path(versions_dir: Path, version: str) -> Path:
    """Where a version's slot is, or would be."""
    return versions(versions_dir) / safe_name(version)


def manifest(versions_dir: Path, version: str) -> dict[str, Any]:
    """What was noted of a slot when it was made. Raises SlotError when there is no such slot, or half of one."""
    path = slot_path(versions_dir, version) / MANIFEST
    try:
        noted: dict[str, Any] = json.loads(path.read_text())
        return noted
    except (OSError, ValueError) as error:
        raise SlotError(
            f"there is no usable slot of {version} in {versions(versions_dir)}: run a bump to it"
        ) from error


def has_slot(versions_dir: Path, version: str) -> bool:
    """Whether a complete slot of the version is there."""
    with suppress(SlotError):
        return manifest(versions_dir, version).get("version") == version
    return False


def installed(versions_dir: Path) -> list[str]:
    """The versions that have a slot."""
    with suppress(FileNotFoundError):
        return sorted(entry.name for entry in versions(versions_dir).iterdir() if not entry.name.startswith("."))
    return []


def make_slot(
    versions_dir: Path, version: str, tree: Path, node: Path, note: dict[str, Any], package: str = "", program: str = ""
) -> Path:
    """Copies an installed tree into a slot of its own: never the tree itself, whose makers may still hold parts of it open.

    Regular files with one link, folders, and symlinks that stay inside; modes 0755 and 0644; anything else raises SlotError.
    `tree` is npm's prefix; with a `package`, that package's folder alone, as a global install has it, and `program` the path in it of t3.
    Repeating it is harmless: a complete slot is kept, a half-made one has another name and is thrown away.
    """
    final = slot_path(versions_dir, version)
    if has_slot(versions_dir, version):
        return final
    make_folder(versions(versions_dir))
    partial = versions(versions_dir) / f".{safe_name(version)}.partial"
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
    """What changes when another Node is put in a Node's place: size and time of change."""
    status = node.stat()
    return [status.st_size, status.st_mtime_ns]


def _copy_tree(tree: Path, place: Path, top: Path, digest: Any, owner: int | None) -> None:
    """Copy a tree whose makers may still be at work on it: its own name is followed no further than to a folder, nothing below it by path."""
    descriptor = os.open(tree, FOLDER)
    try:
        _copy(descriptor, place, top, digest, owner)
    finally:
        os.close(descriptor)


def _copy(folder: int, target: Path, top: Path, digest: Any, owner: int | None, depth: int = 0) -> None:
    """Copy an open folder. Each entry is opened in it without following links, and is what its descriptor says: names may be swapped meanwhile."""
    if depth > 64:
        raise SlotError(f"{target.name} is nested too deeply for a package")
    target.mkdir(mode=0o755)
    for name in sorted(os.listdir(folder)):
        relative = (target / name).relative_to(top)
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            goal = os.readlink(name, dir_fd=folder) if stat.S_ISLNK(status.st_mode) else None
            if goal is None:
                descriptor = os.open(name, FOLDER if stat.S_ISDIR(status.st_mode) else FILE, dir_fd=folder)
        except OSError as error:
            raise SlotError(f"the package changes while it is copied: {relative} ({error.strerror})") from error
        if goal is not None:
            if goal.startswith("/") or not Path(os.path.normpath(target / goal)).is_relative_to(top):
                raise SlotError(f"the package has a link that leads out of it: {relative} → {goal}")
            (target / name).symlink_to(goal)
            digest.update(f"{relative}\0link\0{goal}\0".encode())
            continue
        try:
            opened = os.fstat(descriptor)
            if owner is not None and opened.st_uid != owner:
                raise SlotError(f"the package has something in it that is not its installer's: {relative}")
            if stat.S_ISDIR(opened.st_mode):
                _copy(descriptor, target / name, top, digest, owner, depth + 1)
            elif stat.S_ISREG(opened.st_mode) and opened.st_nlink == 1:
                executable = bool(opened.st_mode & 0o111)
                content = _copy_file(descriptor, opened.st_size, target / name, 0o755 if executable else 0o644)
                digest.update(f"{relative}\0{executable}\0{content}\0".encode())
            else:
                raise SlotError(f"the package has something that is no plain file: {relative}")
        finally:
            os.close(descriptor)


def _copy_file(source: int, size: int, target: Path, mode: int) -> str:
    """Copy no more of an open file than it had when it was looked at; return the checksum of what was copied."""
    content = hashlib.sha256()
    with open(target, "xb") as copy:
        while size > 0 and (part := os.read(source, min(size, 1024 * 1024))):
            content.update(part)
            copy.write(part)
            size -= len(part)
        os.fchmod(copy.fileno(), mode)
    return content.hexdigest()


def linked_version(link: Path) -> str | None:
    """The version that a link leads to; None for no link, `hold` while its user is being restored. Raises SlotError for an odd one."""
    try:
        target = os.readlink(link)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SlotError(
            f"{link} is no link: move it away, then assign the user's version again (t3flow doctor)"
        ) from error
    return Path(target).name


def user_link(versions_dir: Path, user: str) -> Path:
    """Where a user's link is: it has the account's name as `id -un` prints it, by which the launcher finds it."""
    return versions_dir / "users" / path_component(user)


def assigned(versions_dir: Path, user: str) -> str | None:
    """The version that a user has a link to, or None."""
    return linked_version(user_link(versions_dir, user))


def default_version(versions_dir: Path) -> str | None:
    """The version of those who have no link."""
    return linked_version(versions_dir / "current")


def effective(versions_dir: Path, user: str) -> str | None:
    """The version that the launcher leads a user to."""
    return assigned(versions_dir, user) or default_version(versions_dir)


def assign(versions_dir: Path, user: str, version: str) -> None:
    """Leads a user to a version (or to `hold`) by one rename. Raises SlotError when the version has no slot."""
    link = user_link(versions_dir, user)
    make_folder(link.parent)
    link_atomically(link, _target(versions_dir, version, "../"))


def note_starting(versions_dir: Path, user: str) -> None:
    """Mark that a user's server is about to start on a new version: until it answers, the launcher refuses commands that open its database.

    A minting that migrates the database meanwhile holds its lock, and the server may end over that. Idempotent; the mark ends by itself.
    """
    _starting(versions_dir, user).touch()


def forget_starting(versions_dir: Path, user: str) -> None:
    """Remove the mark: the server answers, or does not start after all. Idempotent."""
    with suppress(FileNotFoundError):
        _starting(versions_dir, user).unlink()


def _starting(versions_dir: Path, user: str) -> Path:
    return user_link(versions_dir, user).with_name(f".{safe_name(user)}.starting")


def set_default(versions_dir: Path, version: str) -> None:
    """Leads those without a link to a version."""
    link_atomically(versions_dir / "current", _target(versions_dir, version, ""))


def _target(versions_dir: Path, version: str, up: str) -> str:
    if version == HOLD:
        return f"{up}{HOLD}"
    manifest(versions_dir, version)
    return f"{up}versions/{safe_name(version)}"


def links(versions_dir: Path) -> dict[str, str]:
    """All users' links: user → version."""
    found = {}
    with suppress(FileNotFoundError):
        for entry in (versions_dir / "users").iterdir():
            if not entry.name.startswith("."):
                with suppress(SlotError):
                    found[entry.name] = linked_version(entry) or ""
    return found


def in_use(versions_dir: Path, version: str, running: dict[str, int] | None = None) -> str | None:
    """Return what needs a slot: a link or a running process; None when nothing does. `running` is what `running_versions` just said."""
    for user, linked in links(versions_dir).items():
        if linked == version:
            return f"the link of {user}"
    if default_version(versions_dir) == version:
        return "the default link"
    pid = (running_versions(versions_dir) if running is None else running).get(slot_path(versions_dir, version).name)
    return f"process {pid}" if pid is not None else None


def running_versions(versions_dir: Path) -> dict[str, int]:
    """Return the versions that processes run from their slots, by command line or executable: version → one such process. Walks /proc once."""
    prefix = f"{versions(versions_dir).resolve()}/"
    found: dict[str, int] = {}
    for pid in proc.all_others():
        for word in (*proc.command_line(pid), proc.executable(pid)):
            if word.startswith(prefix):
                found.setdefault(word[len(prefix) :].partition("/")[0], pid)
    return found


def remove_slot(versions_dir: Path, version: str, running: dict[str, int] | None = None) -> str | None:
    """Remove a slot that nothing needs; otherwise return what needs it. Idempotent."""
    needed_by = in_use(versions_dir, version, running)
    if needed_by is None:
        path = slot_path(versions_dir, version)
        doomed = path.with_name(f".{path.name}.partial")
        if path.exists():
            remove_tree(doomed)
            path.rename(doomed)
        remove_tree(doomed)
    return needed_by


def remove_partials(versions_dir: Path) -> None:
    """Removes what a making or removing that was cut off has left. Only for who has the host to himself."""
    for path in versions(versions_dir).glob(".*.partial"):
        remove_tree(path)


def running_version(main_pid: int, versions_dir: Path) -> str | None:
    """The version whose slot a server was started from, by its command line."""
    prefix = f"{versions(versions_dir).resolve()}/"
    for word in proc.command_line(main_pid):
        if word.startswith(prefix):
            return word[len(prefix) :].partition("/")[0]
    return None


def unlink(link: Path) -> None:
    """Removes a link, if it is there."""
    with suppress(FileNotFoundError):
        link.unlink()
        sync_folder(link.parent)


def write_last_good(path: Path, version: str) -> None:
    """Notes the last version that was given to users with success."""
    make_folder(path.parent)
    write_atomically(path, version + "\n")


def read_last_good(path: Path) -> str | None:
    """The last version noted, or None."""
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip() or None
    return None
