"""The fleet that the settings describe, as this host reaches it."""

import socket
from functools import lru_cache

from t3flow.fleet.errors import FleetError
from t3flow.fleet.fleetlock import FleetLock
from t3flow.fleet.signatures import NAME, Keys, read_keys
from t3flow.settings.load import Settings
from t3flow.settings.schema import Fleet as FleetSettings

HTTP = ("http://", "https://")


class Fleet:
    """One group, with Redis (`store`) or a FleetLock server (`lock`). Connects on first use."""

    def __init__(self, settings: FleetSettings) -> None:
        self.settings = settings
        self.lock = FleetLock(settings.url, settings.group) if settings.url.startswith(HTTP) else None
        self.store = None
        if self.lock is None:
            from t3flow.fleet.redis_store import RedisStore

            self.store = RedisStore(settings.url, settings.group, settings.slots)

    @property
    def name(self) -> str:
        """The name of this host. Raises FleetError."""
        return name_of(self.settings)

    def keys(self) -> Keys:
        """Return the keys as the files have them now, so that a host can be added without a restart. Raises FleetError."""
        settings = self.settings
        return read_keys(settings.group, self.name, settings.key_file, settings.peers)


def name_of(settings: FleetSettings) -> str:
    """Return the name of this host in the fleet: from the settings, else the machine's host name. Raises FleetError."""
    name = settings.host or socket.gethostname()
    if not NAME.fullmatch(name):
        raise FleetError(f"the host name {name!a} is not the name of a host in a fleet: set fleet.host")
    return name


def is_on(settings: Settings) -> bool:
    """Return whether this host belongs to a fleet."""
    return bool(settings.fleet.url)


def open_fleet(settings: Settings) -> Fleet | None:
    """Return the fleet of this host; None if it belongs to none. One process has one connection to each fleet."""
    return _open(settings.fleet) if is_on(settings) else None


@lru_cache(maxsize=4)
def _open(settings: FleetSettings) -> Fleet:
    return Fleet(settings)
