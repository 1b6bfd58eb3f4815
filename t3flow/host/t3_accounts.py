"""Accounts that may have a t3 server or state on this host, whether or not they are in the user map.

Each of them gets its own link before the default moves, so that its next program does not run on another version. An extra account does no harm; a
missing one would lose its pairing for good. Homes are only checked for the existence of the state folder; nothing inside is read.
"""

import os
import pwd
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from t3flow.engine.files import DiskError, path_component
from t3flow.host import slots
from t3flow.host.accounts import is_root
from t3flow.host.host import Host
from t3flow.t3.files import USERDATA

LOOK_SECONDS = 10.0
"""How long the check of homes may take. A home that has not answered by then counts as one with state."""


def accounts(host: Host) -> list[str]:
    """Return the accounts of the user map in its order, then all others that may have a t3 here.

    Raise UserMapError, ServiceError.
    """
    mapped = host.user_map()
    names = [entry.name for entry in mapped.users]
    others = {*mapped.refused, *accounts_with_environment(host), *host.services.accounts()}
    for name in list(others):
        with suppress(ValueError):
            others.update(_first_name_of_uid(name))
    others |= set(accounts_with_state(host, [*names, *others]))
    return names + sorted(name for name in others - set(names) if _may_be_linked(name))


def assign_unlinked(host: Host, default: str) -> list[str]:
    """Assign the default explicitly to each account without a link, and return their names. Idempotent.

    Raise UserMapError, ServiceError: while the accounts are not known, the default must not move.
    """
    versions_dir = host.settings.paths.versions_dir
    if not slots.has_slot(versions_dir, default):
        return []  # the launcher cannot have run it
    linked = []
    for name in accounts(host):
        with suppress(slots.SlotError):  # something else in place of the link: the launcher refuses it
            if slots.assigned(versions_dir, name) is None:
                slots.assign(versions_dir, name, default)
                linked.append(name)
    return linked


def accounts_with_environment(host: Host) -> list[str]:
    """Return the accounts that have an environment file of a server."""
    return sorted(path.stem for path in host.settings.paths.serve_env_dir.glob("*.env"))


def _may_be_linked(name: str) -> bool:
    """Return whether a name is valid for a link and, checked as root, belongs to an account other than root."""
    with suppress(DiskError, ValueError, KeyError):
        path_component(name)
        return not is_root() or pwd.getpwnam(name).pw_uid != 0
    return False


def _first_name_of_uid(name: str) -> list[str]:
    """Return the name by which the launcher knows an account: `id -un` prints the first of several names of a uid."""
    with suppress(KeyError):
        return [pwd.getpwuid(pwd.getpwnam(name).pw_uid).pw_name]
    return []


def accounts_with_state(host: Host, known: Iterable[str]) -> list[str]:
    """Return the accounts with a state folder: of all listed accounts, and of folders beside the homes of the `known` ones."""
    template = host.settings.serve.base_dir
    if "{home}" not in template:
        return _folders_of_users(template)
    if not is_root():
        return []
    homes = {Path(entry.pw_dir): entry.pw_name for entry in pwd.getpwall() if entry.pw_uid != 0}
    parents = {Path("/home")}
    for name in known:
        with suppress(KeyError, ValueError):
            parents.add(Path(pwd.getpwnam(name).pw_dir).parent)
    for parent in parents - {Path("/")}:
        with suppress(OSError):
            for entry in os.scandir(parent):
                homes.setdefault(Path(entry.path), "")
    found = _accounts_of_homes(template, _without_automount(homes))
    return [name for name in dict.fromkeys(found) if name]


def _folders_of_users(template: str) -> list[str]:
    """Return the accounts whose folder exists, given a base dir template that contains the user's name."""
    before, _, after = template.partition("{user}")
    folder, _, start = before.rpartition("/")
    found = []
    with suppress(OSError):
        for entry in os.scandir(folder or "/"):
            name = entry.name.removeprefix(start)
            if (
                entry.name.startswith(start)
                and (Path(template.replace("{user}", name)) / USERDATA).is_dir()
                and (after.startswith("/") or not after)
            ):
                found.append(name)
    return found


def _without_automount(homes: dict[Path, str]) -> dict[Path, str]:
    """Return the homes that can be checked without mounting them: below an automounter, only those mounted now."""
    automounts: set[Path] = set()
    mounted: set[Path] = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        place = Path(fields[4].encode().decode("unicode_escape"))
        (automounts if fields[fields.index("-") + 1] == "autofs" else mounted).add(place)
    return {
        home: name for home, name in homes.items() if home in mounted or automounts.isdisjoint({home, *home.parents})
    }


def _accounts_of_homes(template: str, homes: dict[Path, str]) -> list[str]:
    """Return the accounts of homes with a state folder or without an answer: a dead file server must not block the rest."""
    found: dict[Path, str] = {}

    def check() -> None:
        for home, name in homes.items():
            found[home] = _owner_with_state(template, home, name)

    thread = threading.Thread(target=check, name="homes", daemon=True)
    thread.start()
    thread.join(LOOK_SECONDS)
    return [found.get(home, name) for home, name in list(homes.items())]


def _owner_with_state(template: str, home: Path, name: str) -> str:
    """Return the account of a home, or "" if it has no state folder. An inaccessible home may have one."""
    try:
        if not name:
            name = pwd.getpwuid(os.stat(home).st_uid).pw_name
        os.stat(Path(template.format(home=home, user=name)) / USERDATA)
    except PermissionError:
        return name
    except (OSError, KeyError, ValueError):
        return ""
    return name
