"""The host as one value: its settings, where a user's things are, and the means to act. Handed to every part."""

import pwd
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from t3flow.engine.journal import Journal
from t3flow.errors import T3flowError
from t3flow.host.accounts import Account, account, is_root
from t3flow.host.children import Children
from t3flow.host.services import Services, services_of
from t3flow.settings import Settings
from t3flow.usermap import USER_NAME, MappedUser, UserMap, read_user_map

CHILDREN_LOCK = "children.lock"


class HostError(T3flowError):
    """A file of the host is missing or says nothing usable."""


@dataclass(frozen=True)
class Host:
    """What every part of t3flow needs to work on this host."""

    settings: Settings
    journal: Journal
    children: Children
    services: Services
    hint: Callable[[str], None] = lambda run_id: None  # asks the engine to look at a run now; only to be quick

    def user_map(self) -> UserMap:
        """The user map as it is now. Raises UserMapError when it cannot be read at all."""
        return user_map_of(self.settings)

    def everybody(self) -> list[str]:
        """Whoever may have a server: the users of the map, and accounts that have a server's settings though the map leaves them out."""
        mapped = [entry.name for entry in self.user_map().users]
        configured = sorted(path.stem for path in self.settings.paths.serve_env_dir.glob("*.env"))
        others = [name for name in configured if USER_NAME.fullmatch(name) and name not in mapped]
        return mapped + [name for name in others if not is_root() or uid_of(name)]

    def mapped(self, user: str) -> MappedUser:
        """One user of the map. Raises HostError for one who is not in it."""
        for entry in self.user_map().users:
            if entry.name == user:
                return entry
        raise HostError(
            f"{user} is not in {self.settings.paths.user_map}: add the line PERSON={user}, or leave the user out"
        )

    def account(self, user: str) -> Account:
        """The account that a user's things belong to."""
        return account(user)

    def gate_account(self) -> Account:
        """The unprivileged account that installs and tries candidates."""
        return account(self.settings.gate.user)

    def base_dir(self, user: str) -> Path:
        """The folder that a user's server keeps everything in."""
        return Path(self.settings.serve.base_dir.format(user=user, home=self.account(user).home))

    def port(self, user: str) -> int:
        """The port of a user's server, from its environment file. Raises HostError."""
        path = self.settings.paths.serve_env_dir / f"{user}.env"
        try:
            lines = path.read_text().splitlines()
        except OSError as error:
            raise HostError(f"{path} cannot be read ({error.strerror}): it must say T3_PORT=PORT") from error
        for line in lines:
            name, _, value = line.strip().partition("=")
            value = value.strip("\"'")
            if name == "T3_PORT" and value.isascii() and value.isdigit() and 0 < int(value) < 65536:
                return int(value)
        raise HostError(f"{path} says no port: it must have a line T3_PORT=PORT")


def user_map_of(settings: Settings) -> UserMap:
    """The user map as it is now; root knows which of its accounts there are. Raises UserMapError when it cannot be read at all."""
    return read_user_map(settings.paths.user_map, lookup=uid_of if is_root() else None)


def uid_of(name: str) -> int | None:
    """The uid of an account, or None."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def open_host(settings: Settings, journal: Journal, hint: Callable[[str], None] = lambda run_id: None) -> Host:
    """The host that the settings describe."""
    children = Children(settings.paths.state_dir / CHILDREN_LOCK)
    return Host(settings, journal, children, services_of(settings, children), hint)


_in_charge: Host | None = None


def take_charge(host: Host) -> None:
    """Makes this the host that steps work on. One a process."""
    global _in_charge
    _in_charge = host


def this_host() -> Host:
    """The host that steps work on."""
    assert _in_charge is not None
    return _in_charge
