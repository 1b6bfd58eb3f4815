"""The servers of all users, surveyed once for all checks of one examination."""

import threading
from dataclasses import dataclass, field

from t3flow.host import management
from t3flow.host.host import Host
from t3flow.host.management import SurveyedServer


@dataclass(frozen=True)
class Examined(Host):
    """A host that is being examined."""

    surveys: list[dict[str, SurveyedServer]] = field(default_factory=list, compare=False, repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)


def surveyed(host: Host) -> dict[str, SurveyedServer]:
    """Return the server of each user in the user map, and why t3flow cannot manage it ("" if it can).

    Of an examined host, they are surveyed once: the manager is asked, and /proc is walked, once for all users and all checks.
    """
    users = [entry.name for entry in host.user_map().users]
    if not isinstance(host, Examined):
        return management.survey(host, users)
    with host.lock:
        if not host.surveys:
            host.surveys.append(management.survey(host, users))
        return host.surveys[0]


def managed(host: Host) -> list[str]:
    """Return the managed users of the user map."""
    return [user for user, (_, reason) in surveyed(host).items() if not reason]


def running(host: Host) -> list[str]:
    """Return the managed users with a running server."""
    return [user for user, (server, reason) in surveyed(host).items() if server.active and not reason]
