"""Live pages: one watch over the host for all viewers, and a stream of changes to each (server-sent events).

1. Twice a second, while a page is open anywhere, the watch asks the files of the host for their times. It reads nothing.
2. If something changed, each page that is open is made once, whatever the number of its viewers, and compared with what they have. The pages are
   made so rarely that this takes at most MAX_SHARE of a core: a journal that changes all the time changes a large page less often.
3. What differs goes into the queue of each viewer, as one text for all. A viewer whose queue is full is dropped: the browser connects again, and
   gets the whole page.
"""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from t3flow.web.guard import Receive, Scope, Send
from t3flow.web.reader import Reader, Seen
from t3flow.web.screens import Screen, changes

POLL_SECONDS = 0.5
MAX_SHARE = 0.03
"""The share of a core that making the open pages may take. After a pause, a change is shown at once."""
ANEW_SECONDS = 30.0
"""How often a page is made anew without a change, for what depends on the clock."""
KEEP_ALIVE_SECONDS = 15.0
QUEUE_LENGTH = 8
MAX_STREAMS = 128
MAX_OF_ONE, MAX_OF_UNKNOWN = 8, 64
RETRY_SECONDS = 10
logger = logging.getLogger("t3flow.web")


class View(NamedTuple):
    """A live page: its address, whether it is made for an administrator, and what makes it."""

    address: str
    is_admin: bool
    make: Callable[[Seen], Screen]

    @property
    def key(self) -> tuple[str, bool]:
        """What two viewers of the same page have in common."""
        return self.address, self.is_admin


class Stream:
    """The stream to one viewer. An ASGI application: the response itself."""

    def __init__(self, hub: "Hub", view: View, identity: str, first: bytes) -> None:
        self.hub, self.view, self.identity = hub, view, identity
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_LENGTH)
        self.queue.put_nowait(first)

    def put(self, text: bytes | None) -> None:
        """Send a text soon; None ends the stream. Drops a viewer who has not taken the last ones."""
        if self.queue.full():
            text = None
            while not self.queue.empty():
                self.queue.get_nowait()
        self.queue.put_nowait(text)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what comes until the viewer leaves."""
        gone = asyncio.ensure_future(self._until_gone(receive))
        try:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while (text := await self._next()) is not None:
                await send({"type": "http.response.body", "body": text, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            self.hub.leave(self)

    async def _next(self) -> bytes | None:
        try:
            return await asyncio.wait_for(self.queue.get(), KEEP_ALIVE_SECONDS)
        except TimeoutError:
            return b": still here\n\n"

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.put(None)


class Hub:
    """All streams, and the watch that feeds them."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.streams: set[Stream] = set()
        self._screens: dict[tuple[str, bool], Screen] = {}
        self._watch: asyncio.Task[None] | None = None

    def is_full(self, identity: str) -> bool:
        """Return whether there is no stream left for a viewer."""
        most = MAX_OF_ONE if identity else MAX_OF_UNKNOWN
        held = Counter(stream.identity for stream in self.streams)[identity]
        return len(self.streams) >= MAX_STREAMS or held >= most

    async def open(self, view: View, identity: str, token: str) -> Stream | None:
        """Return a stream for a viewer who has the screen of that token; None where there are too many."""
        if self.is_full(identity):
            return None
        stream = Stream(self, view, identity, b"retry: 2000\n\n")
        self.streams.add(stream)  # counted before the first wait
        try:
            screen = await self.reader.run(view.make)
        except BaseException:
            self.leave(stream)
            raise
        known = self._screens.setdefault(view.key, screen)
        if known.token != token:
            stream.put(_event(None, known))
        if self._watch is None:
            self._watch = asyncio.ensure_future(self._feed())
        return stream

    def leave(self, stream: Stream) -> None:
        """Forget a stream, and its page with its last viewer."""
        self.streams.discard(stream)
        if not any(other.view.key == stream.view.key for other in self.streams):
            self._screens.pop(stream.view.key, None)

    def close(self) -> None:
        """End all streams."""
        if self._watch is not None:
            self._watch.cancel()
        for stream in self.streams:
            stream.put(None)

    async def _feed(self) -> None:
        stamp, made_at, pause_seconds = None, 0.0, 0.0
        while True:
            present, since = self.reader.stamp(), time.monotonic() - made_at
            if self.streams and since >= pause_seconds and (present != stamp or since > ANEW_SECONDS):
                stamp, made_at, spent = present, time.monotonic(), time.process_time()
                for view in {stream.view.key: stream.view for stream in self.streams}.values():
                    await self._feed_view(view)
                pause_seconds = min((time.process_time() - spent) / MAX_SHARE, ANEW_SECONDS)
            await asyncio.sleep(POLL_SECONDS)

    async def _feed_view(self, view: View) -> None:
        try:
            screen = await self.reader.run(view.make)
        except Exception as error:
            logger.error("%s cannot be kept live: %r", view.address, error)
            return
        former, self._screens[view.key] = self._screens.get(view.key), screen
        if former is None:  # the last viewer has left meanwhile
            self._screens.pop(view.key)
        elif changes(former, screen):
            text = _event(former, screen)
            for stream in self.streams:
                if stream.view.key == view.key:
                    stream.put(text)


def _event(old: Screen | None, new: Screen) -> bytes:
    return f"id: {new.token}\ndata: {json.dumps(changes(old, new), ensure_ascii=False)}\n\n".encode()
