"""The fleet's settings in force, which are the consumer's. Light: `status` reads them on every host, and imports the fleet only on a member."""

import json
from contextlib import suppress
from typing import Any

from t3flow.engine.journal import Journal
from t3flow.host.records import facts
from t3flow.settings.load import Settings
from t3flow.settings.schema import Fleet as FleetSettings

FLEET_FILE = "fleet.json"
"""The file with the fleet's settings that the consumer uses, as the URL may have a password."""


def in_force(read: Settings, noted: Journal | None = None) -> Settings:
    """Return the settings with the fleet's as the consumer uses them.

    Where this account may not read those, they are as the journal has them, with the password of the URL masked: enough to show.
    """
    found: dict[str, Any] | None = None
    with suppress(OSError, ValueError):
        found = json.loads((read.paths.state_dir / FLEET_FILE).read_text())
    if found is None and noted is not None:
        described = (facts.read(noted, "consumer") or {}).get("settings") or []
        found = {key.removeprefix("fleet."): value for key, value, _ in described if key.startswith("fleet.")}
    with suppress(TypeError, ValueError, AttributeError):
        if found:
            values = {key: type(getattr(read.fleet, key))(value) for key, value in found.items()}
            return read._replace(fleet=FleetSettings(**values))
    return read


def as_text(settings: Settings) -> str:
    """Return the fleet's settings as the file has them."""
    return json.dumps(settings.fleet._asdict(), default=str)
