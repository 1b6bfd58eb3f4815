"""What holds for every request and every response: headers, the name of the host, and errors in one line.

Written as plain ASGI, so that streams pass through it without a task of their own.
"""

import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = re.compile(rb"(?:localhost|127\.0\.0\.1|\[::1\])(?::\d+)?")
HEADERS = [
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
     b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]  # fmt: skip
NO_STORE = (b"cache-control", b"no-store")
logger = logging.getLogger("t3flow.web")


class Guard:
    """The application inside these rules. `is_loopback`: on a TCP port, where a foreign name in Host means that a web site points at it."""

    def __init__(self, app: App, *, is_loopback: bool) -> None:
        self.app, self.is_loopback = app, is_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_started = False

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                own = message.setdefault("headers", [])
                is_cached = any(name == b"cache-control" for name, _ in own)
                message["headers"] = [*own, *HEADERS, *([] if is_cached else [NO_STORE])]
            await send(message)

        if self.is_loopback and not self._is_meant(scope):
            await plain(send_guarded, 421, "This page answers to localhost alone.")
            return
        try:
            await self.app(scope, receive, send_guarded)
        except Exception as error:
            logger.exception("%s %r failed: %r", scope["method"], scope["path"], error)
            if not has_started:
                await plain(
                    send_guarded, 500, "t3flow web: internal error; the log says more: journalctl -u t3flow-web"
                )

    def _is_meant(self, scope: Scope) -> bool:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        return len(hosts) == 1 and LOOPBACK.fullmatch(hosts[0]) is not None


async def plain(send: Send, status: int, text: str) -> None:
    """Answer with one line of text."""
    body = f"{text}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
