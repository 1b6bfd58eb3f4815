"""The host as one value, passed to every part: its settings, the paths of each user, and the means to act."""

import pwd
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from t3flow import T3flowError
from t3flow.engine.journal import Journal
from t3flow.host.accounts import Account, account, is_root
from t3flow.host.children import Children
from t3flow.host.services import environment_files
from t3flow.host.services.manager import ServerState, ServiceError, Services
from t3flow.host.services.supervisor import SUPERVISOR_SOCKET, Supervised
from t3flow.host.services.systemd import Systemd
from t3flow.host.services.unit_facts import UnitFacts
from t3flow.settings.load import Settings
from t3flow.settings.user_map import MappedUser, UserMap, read_user_map

CHILDREN_LOCK = "children.lock"
COMMANDS_LOCK = "commands.lock"
"""The lock for children of commands: a starting consumer ends the children of a dead consumer, but not those of a `verify`."""
PORT_VARIABLE = "T3_PORT"
FACTS_SECONDS = 5.0
MAP_SECONDS = 1.0


class HostError(T3flowError):
    """A file of the host is missing or malformed."""


@dataclass(frozen=True)
class Host:
    """What every part of t3flow needs to work on this host. `hint` asks the engine to advance a run now; it only saves time."""

    settings: Settings
    journal: Journal
    children: Children
    services: Services
    hint: Callable[[str], None] = lambda run_id: None
    _known_map: list[tuple[float, tuple[int, int, int], UserMap]] = field(
        default_factory=list, compare=False, repr=False
    )
    _known_accounts: dict[str, tuple[float, Account]] = field(default_factory=dict, compare=False, repr=False)
    _known_facts: dict[str, tuple[float, UnitFacts | None]] = field(default_factory=dict, compare=False, repr=False)

    def user_map(self) -> UserMap:
        """Return the user map. Raise UserMapError if it cannot be read at all.

        Cached for MAP_SECONDS while the file is unchanged, since parsing it looks up an account for every line.
        """
        now, mark = time.monotonic(), _file_mark(self.settings.paths.user_map)
        for at, known, found in self._known_map:
            if mark is not None and mark == known and now - at < MAP_SECONDS:
                return found
        found = user_map_of(self.settings)
        if mark is not None:
            self._known_map[:] = [(now, mark, found)]
        return found

    def map_entry(self, user: str) -> MappedUser:
        """Return a user's entry in the user map. Raise HostError if there is none."""
        for entry in self.user_map().users:
            if entry.name == user:
                return entry
        raise HostError(
            f"{user} is not in {self.settings.paths.user_map}: add the line PERSON={user}, or omit the user"
        )

    def account(self, user: str) -> Account:
        """Return a user's account, cached for MAP_SECONDS: a directory service may take milliseconds for each look-up. Raise AccountError."""
        now = time.monotonic()
        known = self._known_accounts.get(user)
        if known is None or now - known[0] > MAP_SECONDS:
            known = self._known_accounts[user] = (now, account(user))
        return known[1]

    def gate_account(self) -> Account:
        """Return the unprivileged account that installs and tries versions. Raise AccountError."""
        return account(self.settings.gate.user)

    def base_dir(self, user: str) -> Path:
        """Return the base dir of a user's server, which holds its whole state."""
        return Path(self.settings.serve.base_dir.format(user=user, home=self.account(user).home))

    def port(self, user: str) -> int:
        """Return the port of a user's server, from the command and environment of its unit, else from its environment file. Raise HostError."""
        facts = self._facts(user)
        files = facts.environment_files if facts else ()
        files = files or ((self.settings.paths.serve_env_dir / f"{user}.env", False),)
        asked = (facts.option("--port") if facts else None) or f"${{{PORT_VARIABLE}}}"
        path = files[-1][0]
        if not asked.startswith("$"):
            value = asked
        else:
            try:
                known = environment_files.read(files, facts.environment if facts else None)
            except OSError as error:
                path = Path(error.filename or path)
                raise HostError(
                    f"cannot read {path} ({error.strerror}): it must contain a line T3_PORT=PORT"
                ) from error
            except ValueError as error:
                raise HostError(
                    f"systemd would not accept {path} ({error}): it must contain a line T3_PORT=PORT"
                ) from error
            value = known.get(asked.strip("${}"), "")
        if value.isascii() and value.isdigit() and 0 < int(value) < 65536:
            return int(value)
        raise HostError(f"{path} sets no port: it must contain a line T3_PORT=PORT")

    def note_facts(self, states: Mapping[str, ServerState]) -> None:
        """Cache the unit facts of many users, read together, so that the manager is not asked once per user."""
        for user, state in states.items():
            if state.facts is not None:
                self._known_facts[user] = (
                    time.monotonic(),
                    state.facts if state.facts.load_state == "loaded" else None,
                )

    def _facts(self, user: str) -> UnitFacts | None:
        """Return the facts of a user's unit, cached for FACTS_SECONDS: they change with `systemctl daemon-reload`."""
        if self.settings.serve.backend != "systemd":
            return None
        known = self._known_facts.get(user)
        if known is None or time.monotonic() - known[0] > FACTS_SECONDS:
            try:
                facts = self.services.state(user).facts
            except ServiceError:
                facts = known[1] if known else None
            if facts is not None and facts.load_state != "loaded":
                facts = None
            known = self._known_facts[user] = (time.monotonic(), facts)
        return known[1]


def _file_mark(path: Path) -> tuple[int, int, int] | None:
    """Return values that change when a file changes, or None if it does not exist."""
    with suppress(OSError):
        status = path.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns
    return None


def user_map_of(settings: Settings) -> UserMap:
    """Return the present user map; as root, accounts that do not exist are refused. Raise UserMapError if it cannot be read at all."""
    return read_user_map(settings.paths.user_map, lookup=uid_of if is_root() else None)


def uid_of(name: str) -> int | None:
    """Return the uid of an account, or None."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def services_of(settings: Settings, children: Children) -> Services:
    """Return the service manager that `serve.backend` names."""
    if settings.serve.backend == "systemd":
        return Systemd(children, settings.serve.unit)
    return Supervised(settings.paths.serve_env_dir / SUPERVISOR_SOCKET)


def open_host(
    settings: Settings,
    journal: Journal,
    hint: Callable[[str], None] = lambda run_id: None,
    *,
    children_lock: str = CHILDREN_LOCK,
) -> Host:
    """Return the host that the settings describe. Its children hold the lock of that name in the state folder."""
    children = Children(settings.paths.state_dir / children_lock)
    return Host(settings, journal, children, services_of(settings, children), hint)


_current: Host | None = None


def set_current_host(host: Host) -> None:
    """Set the host that steps work on. A process has one."""
    global _current
    _current = host


def current_host() -> Host:
    """Return the host that steps work on."""
    assert _current is not None
    return _current
