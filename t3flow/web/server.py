"""The process of the page: one event loop, one thread that reads, bounded everywhere."""

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn
from uvicorn.server import Server

from t3flow.settings.load import Settings
from t3flow.web.app import create_app
from t3flow.web.guard import Guard
from t3flow.web.live import Hub
from t3flow.web.pages import Site
from t3flow.web.protocol import BoundedProtocol
from t3flow.web.sockets import Listener, listen

END_SECONDS = 3
TICK_SECONDS = 1.0
MAX_HEADER_BYTES = 16 * 1024


class PageServer(Server):
    """uvicorn's server, which wakes up once a second instead of ten times, and ends the streams before it waits for connections."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub
        self._end = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT end the server, and the process with status 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        self.should_exit = True
        self._end.set()

    async def main_loop(self) -> None:
        """Keep the Date header current, until a signal ends the server."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), TICK_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then all else."""
        self._hub.close()
        await super().shutdown(sockets)


def serve(settings: Settings) -> None:
    """Serve the page until SIGTERM or SIGINT. Raises CannotListen."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="t3flow web: %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # hostile requests are no news; Guard logs failures
    listener = listen(settings.web.listen)
    try:
        run(settings, listener)
    finally:
        listener.close()


def run(settings: Settings, listener: Listener) -> None:
    """Serve the page on a socket."""
    if listener.distrusted:
        logging.getLogger("t3flow.web").warning("read-only: %s", listener.distrusted)
    app = create_app(settings, listener.distrusted)
    is_loopback = listener.socket.family != socket.AF_UNIX
    config = uvicorn.Config(
        Guard(app, is_loopback=is_loopback),
        http=BoundedProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=END_SECONDS,
    )
    gc.collect()
    gc.freeze()  # what is loaded by now stays, and no collection need look at it
    print(f"t3flow web: serving {address_of(listener.socket)}", file=sys.stderr, flush=True)
    site: Site = app.state.site
    asyncio.run(PageServer(config, site.hub).serve(sockets=[listener.socket]))
    site.reader.close()


def address_of(listening: socket.socket) -> str:
    """Return the address of a socket, for people."""
    name = listening.getsockname()
    return f"unix://{name}" if listening.family == socket.AF_UNIX else f"http://{name[0]}:{name[1]}/"
