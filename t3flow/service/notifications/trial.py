"""The message of `t3flow notify test`, sent over all channels at once, with or without a consumer."""

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from t3flow.engine.files import make_folder
from t3flow.engine.journal import Journal, JournalError
from t3flow.host.children import Children
from t3flow.host.host import COMMANDS_LOCK
from t3flow.host.records import outbox
from t3flow.host.state_dir import MODE
from t3flow.service.notifications import messages, pings
from t3flow.service.notifications.channels import Channel, NotSent, channels_of
from t3flow.settings.load import Settings
from t3flow.state.documents import Sent
from t3flow.state.sources import journal_if_any


def send_test(settings: Settings) -> list[Sent]:
    """Send a test message over every channel and return how that went; [] if there is no channel.

    Records the results of channels that the consumer knows too, so that `status` shows them.
    """
    if settings.notify.urls:
        make_folder(settings.paths.state_dir, MODE)  # for the lock of the children, before a consumer has run
    channels = channels_of(settings, Children(settings.paths.state_dir / COMMANDS_LOCK))
    key = f"test-{secrets.token_hex(8)}"
    message = dict(messages.of_test(key, time.time()))
    with ThreadPoolExecutor(max(1, len(channels))) as pool:
        sent = list(pool.map(lambda channel: _send(channel, key, message), channels))
    with suppress(JournalError, PermissionError):
        if (journal := journal_if_any(settings)) is not None:
            _record(journal, sent)
    return sent


def _send(channel: Channel, key: str, message: dict[str, Any]) -> Sent:
    ping = pings.Ping(action="log", rid="", body=message["text"])
    began, reason = time.monotonic(), ""
    try:
        channel.send(key, dict(ping) if channel.name == pings.CHANNEL else message)
    except NotSent as error:
        reason = str(error)
    seconds = round(time.monotonic() - began, 3)
    return Sent(channel=channel.name, shown=channel.shown, ok=not reason, reason=reason, seconds=seconds)


def _record(journal: Journal, sent: list[Sent]) -> None:
    """Record the results of channels that the journal has under the same name and URL."""
    known = {(each.name, each.shown) for each in outbox.channels(journal)}
    for each in sent:
        if (each["channel"], each["shown"]) not in known:
            continue
        if each["ok"]:
            outbox.note_sent(journal, each["channel"], each["shown"])
        else:
            outbox.note_failure(journal, each["channel"], each["shown"], each["reason"])
