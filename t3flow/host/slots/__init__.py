"""Slots: one folder a version, one link a user. Assigning a version is one rename; nobody is led to a slot but by a link.

`versions_dir/versions/VERSION/` holds an npm install and a link `.node` to the Node it was gated with. `versions_dir/users/USER` and
`versions_dir/current` are links to slots, `versions_dir/hold` is a link that means: being restored, start nothing.
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


def remove_starting(versions_dir: Path, user: str) -> None:
    """Remove the mark: the server answers, or does not start after all. Idempotent."""
    with suppress(FileNotFoundError):
        _starting(versions_dir, user).unlink()


def _starting(versions_dir: Path, user: str) -> Path:
    return user_link(versions_dir, user).with_name(f".{safe_name(user)}.starting")


def set_default(versions_dir: Path, version: str) -> None:
    """Leads those without a link to a version."""
    link_atomically(versions_dir / "current", _target(versions_dir, version, ""))


def _target(versions_dir: Path, version: str, up: str) -> str:
    if version == RESTORING:
        return f"{up}{RESTORING}"
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


def remove_link(link: Path) -> None:
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
