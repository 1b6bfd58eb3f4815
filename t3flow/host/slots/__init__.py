"""Slots and assignments: one folder per version, one link per user. Assigning a version is one rename.

`versions_dir/versions/VERSION/` is a slot: an npm install, and a link `.node` to the Node that the gate tried it with. The links
`versions_dir/users/USER` and `versions_dir/current` (the default) point to slots. A link to `versions_dir/hold` means that a restore is in flight and
nothing may start.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from t3flow import T3flowError
from t3flow.engine.files import (
    link_atomically,
    make_folder,
    path_component,
    safe_name,
    sync_folder,
    write_atomically,
)

MANIFEST = ".t3flow.json"
RESTORING = "hold"


class SlotError(T3flowError):
    """A slot or link is missing or malformed."""


def slots_dir(versions_dir: Path) -> Path:
    """Return the folder of the slots."""
    return versions_dir / "versions"


def slot_path(versions_dir: Path, version: str) -> Path:
    """Return the path of a version's slot, which may not exist."""
    return slots_dir(versions_dir) / safe_name(version)


def manifest(versions_dir: Path, version: str) -> dict[str, Any]:
    """Return the manifest written when a slot was created. Raise SlotError if the slot is missing or incomplete."""
    path = slot_path(versions_dir, version) / MANIFEST
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return content
    except (OSError, ValueError) as error:
        raise SlotError(
            f"there is no usable slot of {version} in {slots_dir(versions_dir)}: t3flow enqueue bump --target {version}"
        ) from error


def has_slot(versions_dir: Path, version: str) -> bool:
    """Return whether a complete slot of the version exists."""
    with suppress(SlotError):
        return manifest(versions_dir, version).get("version") == version
    return False


def installed(versions_dir: Path) -> list[str]:
    """Return the versions that have a slot."""
    with suppress(FileNotFoundError):
        return sorted(entry.name for entry in slots_dir(versions_dir).iterdir() if not entry.name.startswith("."))
    return []


def linked_version(link: Path) -> str | None:
    """Return the version that a link points to, `hold` during a restore, or None without a link. Raise SlotError for anything but a link."""
    try:
        target = os.readlink(link)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SlotError(
            f"{link} is not a link: move it away, then assign the user's version again (t3flow doctor)"
        ) from error
    return target.rstrip("/").rpartition("/")[2]


def user_link(versions_dir: Path, user: str) -> Path:
    """Return the path of a user's link. Its name is what `id -un` prints, by which the launcher finds it."""
    return versions_dir / "users" / path_component(user)


def assigned(versions_dir: Path, user: str) -> str | None:
    """Return the version that is assigned to a user by a link, or None."""
    return linked_version(user_link(versions_dir, user))


def default_version(versions_dir: Path) -> str | None:
    """Return the default version, for users without a link."""
    return linked_version(versions_dir / "current")


def effective(versions_dir: Path, user: str) -> str | None:
    """Return the version that the launcher starts for a user."""
    return assigned(versions_dir, user) or default_version(versions_dir)


def assign(versions_dir: Path, user: str, version: str) -> None:
    """Assign a version (or `hold`) to a user by one rename. Raise SlotError if the version has no slot. Idempotent."""
    link = user_link(versions_dir, user)
    make_folder(link.parent)
    link_atomically(link, _target(versions_dir, version, "../"))


def note_starting(versions_dir: Path, user: str) -> None:
    """Mark that a user's server is about to start on a new version: the launcher then refuses commands that open the database.

    A minting that migrates the database meanwhile holds its lock, on which the server may fail. The mark expires. Idempotent.
    """
    _starting(versions_dir, user).touch()


def remove_starting(versions_dir: Path, user: str) -> None:
    """Remove the mark: the server answers, or its start was abandoned. Idempotent."""
    with suppress(FileNotFoundError):
        _starting(versions_dir, user).unlink()


def _starting(versions_dir: Path, user: str) -> Path:
    return user_link(versions_dir, user).with_name(f".{safe_name(user)}.starting")


def set_default(versions_dir: Path, version: str) -> None:
    """Set the default version. Idempotent."""
    link_atomically(versions_dir / "current", _target(versions_dir, version, ""))


def _target(versions_dir: Path, version: str, up: str) -> str:
    if version == RESTORING:
        return f"{up}{RESTORING}"
    manifest(versions_dir, version)
    return f"{up}versions/{safe_name(version)}"


def links(versions_dir: Path, user: str | None = None) -> dict[str, str]:
    """Return the links of all users, or of one: user → version."""
    found = {}
    with suppress(FileNotFoundError):
        for name in os.listdir(versions_dir / "users") if user is None else [path_component(user)]:
            if not name.startswith("."):
                with suppress(SlotError):
                    found[name] = linked_version(versions_dir / "users" / name) or ""
    return found


def remove_link(link: Path) -> None:
    """Remove a link if it exists."""
    with suppress(FileNotFoundError):
        link.unlink()
        sync_folder(link.parent)


def write_last_good(path: Path, version: str) -> None:
    """Record the last good version."""
    make_folder(path.parent)
    write_atomically(path, version + "\n")


def read_last_good(path: Path) -> str | None:
    """Return the last good version, or None."""
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip() or None
    return None
