"""Who asks: the identity in `dispatch.user_header`, and whether it may act.

The reverse proxy sets the header after it has authenticated the person. It is read on a Unix socket that only the proxy can open, and nowhere else.
"""

from typing import NamedTuple

from starlette.requests import HTTPConnection

from t3flow.settings.load import Settings

LONGEST_IDENTITY = 256


class Ambiguous(Exception):
    """A request that names several people, or one in a way that cannot be meant."""


class Viewer(NamedTuple):
    """Who looks at the page: the identity, "" if it is not known, and whether it is one of `web.admins`."""

    identity: str
    is_admin: bool


class People:
    """What is known of the people who ask. `distrusted`: why no header is believed; "" where it is."""

    def __init__(self, settings: Settings, distrusted: str) -> None:
        self._header = settings.dispatch.user_header.lower().encode()
        self._admins = frozenset(settings.web.admins)
        self.header = settings.dispatch.user_header
        self.distrusted = distrusted

    def of(self, request: HTTPConnection) -> Viewer:
        """Return who asks. Raises Ambiguous for a request with the header more than once, or with a value that is no name."""
        values = [value for name, value in request.headers.raw if name == self._header]
        if self.distrusted or not values:
            return Viewer("", False)
        if len(values) > 1:
            raise Ambiguous(
                f"{self.header} is there {len(values)} times; the reverse proxy must replace what a browser sends"
            )
        identity = _text(values[0])
        if len(identity) > LONGEST_IDENTITY or not identity.isprintable():
            raise Ambiguous(f"{self.header} does not hold the name of a person")
        return Viewer(identity, identity in self._admins)


def _text(value: bytes) -> str:
    """Return a header's value. Proxies send UTF-8; what is not UTF-8 is Latin-1, as HTTP has it."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
