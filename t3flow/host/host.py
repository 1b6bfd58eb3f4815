"""The host as one value: its settings, where a user's things are, and the means to act. Handed to every part."""

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
from t3flow.host.services.manager import ServerState, ServiceError, Services, services_of
from t3flow.host.services.unit_facts import UnitFacts
from t3flow.settings.load import Settings
from t3flow.settings.user_map import MappedUser, UserMap, read_user_map

CHILDREN_LOCK = "children.lock"
COMMANDS_LOCK = "commands.lock"
"""The lock of what a command runs: a consumer that starts ends the children of one that died, and not those of a `verify`."""
PORT_VARIABLE = "T3_PORT"
FACTS_SECONDS = 5.0
MAP_SECONDS = 1.0


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
    _known_map: list[tuple[float, tuple[int, int, int], UserMap]] = field(
        default_factory=list, compare=False, repr=False
    )
    _known_facts: dict[str, tuple[float, UnitFacts | None]] = field(default_factory=dict, compare=False, repr=False)

    def user_map(self) -> UserMap:
        """Return the user map. Raises UserMapError when it cannot be read at all.

        A file that has not changed is not read again for a second: each reading asks the host for the account of every line.
        """
        now, mark = time.monotonic(), _mark(self.settings.paths.user_map)
        for at, known, found in self._known_map:
            if mark is not None and mark == known and now - at < MAP_SECONDS:
                return found
        found = user_map_of(self.settings)
        if mark is not None:
            self._known_map[:] = [(now, mark, found)]
        return found

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
        """The port that a user's server is started with: by its unit's command and environment, else by its environment file. Raises HostError."""
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
                raise HostError(f"{path} cannot be read ({error.strerror}): it must say T3_PORT=PORT") from error
            except ValueError as error:
                raise HostError(f"{path} is not as systemd takes it ({error}): it must say T3_PORT=PORT") from error
            value = known.get(asked.strip("${}"), "")
        if value.isascii() and value.isdigit() and 0 < int(value) < 65536:
            return int(value)
        raise HostError(f"{path} says no port: it must have a line T3_PORT=PORT")

    def note_facts(self, states: Mapping[str, ServerState]) -> None:
        """Take over what the manager just said of many units, so that it is not asked again for each."""
        for user, state in states.items():
            if state.facts is not None:
                self._known_facts[user] = (
                    time.monotonic(),
                    state.facts if state.facts.load_state == "loaded" else None,
                )

    def _facts(self, user: str) -> UnitFacts | None:
        """A user's unit. What it is changes with `systemctl daemon-reload`, so that an answer serves for some seconds."""
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


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file; None when it is not there."""
    with suppress(OSError):
        status = path.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns
    return None


def user_map_of(settings: Settings) -> UserMap:
    """The user map as it is now; root knows which of its accounts there are. Raises UserMapError when it cannot be read at all."""
    return read_user_map(settings.paths.user_map, lookup=uid_of if is_root() else None)


def uid_of(name: str) -> int | None:
    """The uid of an account, or None."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def open_host(
    settings: Settings,
    journal: Journal,
    hint: Callable[[str], None] = lambda run_id: None,
    *,
    children_lock: str = CHILDREN_LOCK,
) -> Host:
    """The host that the settings describe. What it runs is under the lock of that name in the state folder."""
    children = Children(settings.paths.state_dir / children_lock)
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
