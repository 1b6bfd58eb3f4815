"""Slots of a server that speaks FleetLock's protocol, as zincati's. It knows no records: neither waves nor rejections of other hosts.

A lease is owned and recursive: a second lock by the same host succeeds, and a second unlock too. Any other answer than 2xx means "no".
"""

import json
from http import HTTPStatus

from t3flow.fleet.errors import FleetUnreachable
from t3flow.host import http_client
from t3flow.t3.secrets import hide

LOCK, UNLOCK = "/v1/pre-reboot", "/v1/steady-state"
HEADERS = {"fleet-lock-protocol": "true", "Content-Type": "application/json"}
TIMEOUT_SECONDS = 10.0
MAX_BYTES = 64 * 1024
REFUSALS = (HTTPStatus.CONFLICT, HTTPStatus.LOCKED)
SILENT = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
LONGEST = 200


class FleetLock:
    """The slots of one group on a FleetLock server."""

    def __init__(self, url: str, group: str) -> None:
        self._url = url.rstrip("/")
        self._group = group

    def lock(self, host: str) -> str:
        """Take a slot for a host. Return "" if the host holds one now, else why not. Raises FleetUnreachable."""
        return self._post(LOCK, host)

    def unlock(self, host: str) -> None:
        """Free the slot of a host; one that holds none is a no-op. Raises FleetUnreachable."""
        if reason := self._post(UNLOCK, host):
            raise FleetUnreachable(f"the FleetLock server did not free the slot of {host}: {reason}")

    def answers(self) -> bool:
        """Return whether the server answers a request that changes nothing, whatever it says. A proxy that does not reach it is no server."""
        try:
            found = http_client.request(f"{self._url}/", timeout_seconds=TIMEOUT_SECONDS, max_bytes=MAX_BYTES)
        except OSError:
            return False
        return found.status not in SILENT

    def _post(self, path: str, host: str) -> str:
        body = json.dumps({"client_params": {"id": host, "group": self._group}}).encode()
        try:
            answer = http_client.request(
                self._url + path,
                method="POST",
                body=body,
                headers=HEADERS,
                timeout_seconds=TIMEOUT_SECONDS,
                max_bytes=MAX_BYTES,
            )
        except OSError as error:
            reason = hide(str(error) or type(error).__name__)[:LONGEST]
            raise FleetUnreachable(f"the FleetLock server does not answer: {reason}; see t3flow doctor") from error
        if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            return ""
        said = answer.json_object() or {}
        kind, value = (said.get(key) if isinstance(said.get(key), str) else "" for key in ("kind", "value"))
        text = hide(" ".join(f"{kind}: {value}".split()).strip(": ")) or "no reason given"
        text = "".join(letter for letter in text if letter.isprintable())[:LONGEST]
        if kind or answer.status in REFUSALS:
            return f"{text} (HTTP {answer.status})"
        raise FleetUnreachable(f"the FleetLock server answered {answer.status}: {text}; check fleet.url")
