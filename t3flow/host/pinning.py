"""The version at which the host is held."""

from t3flow.host.host import Host
from t3flow.host.records import facts


def pin(host: Host) -> str:
    """Return the version to stay on, or "": from the consumer's environment, else `t3flow pin`, else the settings file."""
    from_environment = host.settings.sources["track.pin"].startswith("environment")
    noted = facts.read(host.journal, "pin")
    return host.settings.track.pin if from_environment or not noted else str(noted)
