"""The consumer's thread `messages`: derives messages and gives them to the channels.

Each channel has at most one send under way, in a thread of its own that touches nothing but the network: a receiver that hangs delays neither another
channel nor a run nor the end of the consumer. This thread alone reads and writes the outbox.
"""

import threading
import time
from queue import Empty, SimpleQueue
from typing import Any

from loguru import logger

from t3flow.engine.journal import Journal
from t3flow.host.host import Host
from t3flow.host.records import outbox
from t3flow.host.records.outbox import Letter
from t3flow.service.heartbeat import Heartbeats
from t3flow.service.notifications import pings
from t3flow.service.notifications.channels import Channel, NotSent, channels_of
from t3flow.service.notifications.derive import Deriver

NAME = "messages"
POLL_SECONDS = 0.5
LAST_SECONDS = 1.0
"""How long the end of the consumer waits for sends under way, so that fewer are repeated."""
LONGEST_PAUSE_SECONDS = 60.0
"""A channel that fails is left alone for 1 s, 2 s, 4 s and so on, up to this, whatever waits for it."""


class Sender:
    """Sends what is in the outbox over the channels of the settings."""

    def __init__(self, host: Host, stopping: threading.Event, heartbeats: Heartbeats) -> None:
        self._host = host
        self._stopping = stopping
        self._heartbeats = heartbeats
        self._channels = {each.name: each for each in channels_of(host.settings, host.children)}
        names = [name for name in self._channels if name != pings.CHANNEL]
        self._derive = Deriver(host, names, has_ping=pings.CHANNEL in self._channels)
        self._busy: set[str] = set()
        self._failures: dict[str, int] = {}
        self._free_at: dict[str, float] = {}
        self._ended: SimpleQueue[tuple[Channel, Letter | None, str]] = SimpleQueue()

    def run(self) -> None:
        """Derive and send until the consumer stops. A failure is logged once and tried again."""
        failure = ""
        is_open = False
        while not self._stopping.wait(POLL_SECONDS):
            self._heartbeats.beat(NAME)
            try:
                if not is_open:
                    outbox.keep_channels(
                        self._host.journal, {each.name: each.shown for each in self._channels.values()}
                    )
                    is_open = True
                self._step()
                failure = ""
            except Exception as error:
                if failure != (failure := f"{type(error).__name__}: {error}"):
                    logger.opt(exception=True).error("messages cannot be sent at present; trying again: {}", failure)
        deadline = time.monotonic() + LAST_SECONDS
        while self._busy and time.monotonic() < deadline:
            self._collect(POLL_SECONDS)

    def _step(self) -> None:
        self._collect()
        self._derive()
        for channel in self._channels.values():
            if channel.name in self._busy or time.monotonic() < self._free_at.get(channel.name, 0.0):
                continue
            letter = outbox.due(self._host.journal, channel.name, time.time())
            if letter is not None and not self._is_stale(letter):
                self._start(channel, letter, letter.key, letter.document)
            elif letter is None and channel.name == pings.CHANNEL and self._beat_is_due():
                self._start(channel, None, f"heartbeat-{int(time.time())}", self._heartbeat())

    def _heartbeat(self) -> dict[str, Any]:
        return dict(pings.heartbeat(self._host.settings, self._host.journal))

    def _beat_is_due(self) -> bool:
        """Return whether an hour has passed. A time further ahead comes from a clock that was set."""
        at = outbox.next_beat(self._host.journal, pings.CHANNEL)
        return not time.time() < at <= time.time() + 2 * pings.BEAT_SECONDS

    def _is_stale(self, letter: Letter) -> bool:
        """Drop a ping of long ago, and return whether it was one."""
        is_stale = letter.channel == pings.CHANNEL and time.time() - letter.at > pings.MAX_AGE_SECONDS
        if is_stale:
            outbox.drop(self._host.journal, letter)
        return is_stale

    def _start(self, channel: Channel, letter: Letter | None, key: str, document: dict[str, Any]) -> None:
        """Send in a thread of its own, which puts the channel, the letter, and the cause of a failure into the queue of ended sends."""

        def send() -> None:
            cause = ""
            try:
                channel.send(key, document)
            except NotSent as error:
                cause = str(error) or "no cause given"
            except Exception as error:
                cause = f"internal error: {type(error).__name__}"
            self._ended.put((channel, letter, cause))

        self._busy.add(channel.name)
        threading.Thread(target=send, name=f"{NAME} {channel.name}", daemon=True).start()

    def _collect(self, wait_seconds: float = 0.0) -> None:
        """Record how sends ended."""
        while True:
            try:
                channel, letter, cause = (
                    self._ended.get(timeout=wait_seconds) if wait_seconds else self._ended.get_nowait()
                )
            except Empty:
                return
            self._busy.discard(channel.name)
            self._record(self._host.journal, channel, letter, cause)

    def _record(self, journal: Journal, channel: Channel, letter: Letter | None, cause: str) -> None:
        if cause:
            failures = self._failures[channel.name] = self._failures.get(channel.name, 0) + 1
            self._free_at[channel.name] = time.monotonic() + min(2.0 ** (failures - 1), LONGEST_PAUSE_SECONDS)
            outbox.note_failure(journal, channel.name, channel.shown, cause, letter)
            if failures == 1:
                logger.error(
                    "a message to {} was not taken: {}; try again with: t3flow notify test", channel.shown, cause
                )
        else:
            if self._failures.pop(channel.name, 0):
                logger.info("{} takes messages again", channel.shown)
            self._free_at.pop(channel.name, None)
            outbox.note_sent(journal, channel.name, channel.shown, letter)
        if letter is None:
            pause = pings.BEAT_RETRY_SECONDS if cause else pings.BEAT_SECONDS
            outbox.plan_beat(journal, channel.name, time.time() + pause)
