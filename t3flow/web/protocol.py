"""HTTP connections with bounds: how many there are, how long a request may take to arrive, and how long a client may take nothing.

uvicorn bounds none of these. The reverse proxy in front usually does; the page does not rely on it.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 512
REQUEST_SECONDS = 10.0
"""From the connection, or the first byte of a further request, to the end of the request's body."""
STALLED_SECONDS = 30.0
"""How long a client may leave something unread that waits to be sent. Then the connection is cut, whatever it was for."""
_BUSY = b"Too many connections. Reload in a moment.\n"
TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_BUSY), _BUSY)
)


class BoundedProtocol(H11Protocol):
    """A connection that is cut when its client is too slow."""

    _since = 0.0
    _deadline: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, or refuse it at once where there are too many."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that any unsent byte starts the timer
        self._since = self.loop.time()
        if len(self.connections) > MAX_CONNECTIONS and not self._drop_idle():
            transport.write(TOO_MANY)
            transport.close()
            return
        self._expect_request()

    def _drop_idle(self) -> bool:
        """Cut the connection that has been without a complete request for longest, to make room for this one. Return whether there was one."""
        idle = [
            each for each in self.connections if isinstance(each, BoundedProtocol) and each is not self and each.is_idle
        ]
        if idle:
            min(idle, key=lambda each: each._since).transport.abort()
        return bool(idle)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being answered here."""
        return (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request, whose end is due."""
        if self.transport.is_closing():
            return
        self._expect_request()
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._cancel_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._cancel_deadline()
        self._cancel_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the timer of a client that takes less than it is sent."""
        super().pause_writing()
        self._cancel_stall()
        self._stall = self.loop.call_later(STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timer of a client that has caught up."""
        self._cancel_stall()
        super().resume_writing()

    def _expect_request(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
