"""Who may have a server or a state of t3's on this host, whatever the user map says of them.

Before the default moves, each of these accounts has a link of its own: the next program that runs as them must not meet another version
than the one they have. So an account too many does no harm, and an account that is left out would lose its pairing for ever.
Homes are looked at from outside alone: whether the state folder is there, nothing that is in it.
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
"""How long homes may take to be looked at; those that have not answered by then count as homes with a state."""


def accounts(host: Host) -> list[str]:
    """Names of accounts: those of the user map in its order, then all others that may have a t3 here.

    Raises UserMapError, and ServiceError where the servers' manager does not answer.
    """
    mapped = host.user_map()
    names = [entry.name for entry in mapped.users]
    others = {*mapped.refused, *configured(host), *host.services.accounts()}
    for name in list(others):
        with suppress(ValueError):
            others.update(_of_one_uid(name))
    others |= set(with_state(host, [*names, *others]))
    return names + sorted(name for name in others - set(names) if _may_be_linked(name))


def link(host: Host, default: str) -> list[str]:
    """Give each account that has no link one to the default; return their names. Idempotent.

    Raises UserMapError, ServiceError: while it is not known who there is, the default must not move.
    """
    versions_dir = host.settings.paths.versions_dir
    if not slots.has_slot(versions_dir, default):
        return []  # nobody can have been led there: the launcher says so
    linked = []
    for name in accounts(host):
        with suppress(slots.SlotError):  # an odd thing in a link's place: the launcher leads nobody past it
            if slots.assigned(versions_dir, name) is None:
                slots.assign(versions_dir, name, default)
                linked.append(name)
    return linked


def configured(host: Host) -> list[str]:
    """The accounts that have an environment file of a server's."""
    return sorted(path.stem for path in host.settings.paths.serve_env_dir.glob("*.env"))


def _may_be_linked(name: str) -> bool:
    """Whether a name can be a link's, and is an account's (which only root can tell) that is not root's."""
    with suppress(DiskError, ValueError, KeyError):
        path_component(name)
        return not is_root() or pwd.getpwnam(name).pw_uid != 0
    return False


def _of_one_uid(name: str) -> list[str]:
    """The name by which the launcher knows an account: `id -un` gives the first of several names of one uid."""
    with suppress(KeyError):
        return [pwd.getpwuid(pwd.getpwnam(name).pw_uid).pw_name]
    return []


def with_state(host: Host, known: Iterable[str]) -> list[str]:
    """Accounts whose state folder is there: of all accounts that the host lists, and of the folders beside the homes of those that are `known`."""
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
    found = _answering(template, _without_automount(homes))
    return [name for name in dict.fromkeys(found) if name]


def _folders_of_users(template: str) -> list[str]:
    """Accounts by the folders that a template with the user's name in it leads to."""
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
    """The homes that can be looked at without mounting each: of an automounter's, those that are mounted now."""
    automounts: set[Path] = set()
    mounted: set[Path] = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        place = Path(fields[4].encode().decode("unicode_escape"))
        (automounts if fields[fields.index("-") + 1] == "autofs" else mounted).add(place)
    return {
        home: name for home, name in homes.items() if home in mounted or automounts.isdisjoint({home, *home.parents})
    }


def _answering(template: str, homes: dict[Path, str]) -> list[str]:
    """The names of those homes that have a state folder, or do not answer: a file server that is gone must not hold up all others."""
    found: dict[Path, str] = {}

    def look() -> None:
        for home, name in homes.items():
            found[home] = _owner_with_state(template, home, name)

    thread = threading.Thread(target=look, name="homes", daemon=True)
    thread.start()
    thread.join(LOOK_SECONDS)
    return [found.get(home, name) for home, name in list(homes.items())]


def _owner_with_state(template: str, home: Path, name: str) -> str:
    """The account of a home, "" if it has no state folder. One that may not be looked at may have one."""
    try:
        if not name:
            name = pwd.getpwuid(os.stat(home).st_uid).pw_name
        os.stat(Path(template.format(home=home, user=name)) / USERDATA)
    except PermissionError:
        return name
    except (OSError, KeyError, ValueError):
        return ""
    return name
