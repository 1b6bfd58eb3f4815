"""Channels over HTTP: the webhook and the dead man's switch. Success is an answer 2xx; a redirect is not followed."""

import base64
import json
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit

from t3flow import T3flowError, __version__
from t3flow.host import http_client
from t3flow.service.notifications.pings import MAX_BYTES

TIMEOUT_SECONDS = 10.0
AGENT = f"t3flow/{__version__}"
PLAIN, DOCUMENT = "text/plain; charset=utf-8", "application/json"
SAFE = "/:@!$&'()*+,;=-._~%?"
"""Characters of a path and a query that stay as they are."""


class NotSent(T3flowError):
    """A channel did not take a message. The text is the cause for people, without secrets."""


def send_webhook(url: str, key: str, document: dict[str, Any]) -> None:
    """Post a message as one JSON document. Raise NotSent."""
    _post(url, json.dumps(document).encode(), DOCUMENT, key)


def send_ping(url: str, key: str, document: dict[str, Any]) -> None:
    """Post a ping by the conventions of healthchecks.io. Raise NotSent."""
    _post(ping_url(url, document["action"], document["rid"]), _end_of(document["body"]), PLAIN, key)


def ping_url(url: str, action: str, rid: str) -> str:
    """Return the URL of a ping: the action is added to the path, the run to the query, which the URL may have."""
    parts = urlsplit(url)
    path = parts.path if action == "success" else f"{parts.path.rstrip('/')}/{action}"
    query = "&".join(part for part in (parts.query, urlencode({"rid": rid}) if rid else "") if part)
    return urlunsplit(parts._replace(path=path, query=query))


def _end_of(text: str) -> bytes:
    """Return the end of a text that fits a ping's body."""
    return text.encode()[-MAX_BYTES:].decode(errors="ignore").encode()


def _post(url: str, body: bytes, content_type: str, key: str) -> None:
    parts = urlsplit(url)
    headers = {"Content-Type": content_type, "User-Agent": AGENT, "Idempotency-Key": key}
    if "@" in parts.netloc:
        name, _, host = parts.netloc.rpartition("@")
        headers["Authorization"] = f"Basic {base64.b64encode(unquote(name).encode()).decode()}"
        parts = parts._replace(netloc=host)
    parts = parts._replace(path=quote(parts.path, SAFE), query=quote(parts.query, SAFE))
    try:
        answer = http_client.request(
            urlunsplit(parts), method="POST", body=body, headers=headers, timeout_seconds=TIMEOUT_SECONDS, max_bytes=0
        )
    except OSError as error:
        raise NotSent(http_client.reason(error)) from None
    if 300 <= answer.status < 400:
        raise NotSent(f"answered {answer.status}, a redirect, which is not followed; set the URL that it leads to")
    if not 200 <= answer.status < 300:
        raise NotSent(f"answered {answer.status}{MEANINGS.get(answer.status, '')}")


MEANINGS = {
    401: " (not authorized)",
    403: " (forbidden)",
    404: " (not found: the URL may be wrong or was revoked)",
    410: " (gone: the URL was revoked)",
    429: " (too many requests)",
}
