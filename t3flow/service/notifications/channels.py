"""The channels that the settings name, each with the function that sends one message."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from t3flow.host.children import Children
from t3flow.service.notifications import pings
from t3flow.service.notifications.apprise_channel import send_apprise
from t3flow.service.notifications.http_channel import NotSent, send_ping, send_webhook
from t3flow.settings.load import Settings
from t3flow.settings.text import mask_message_url

__all__ = ["Channel", "NotSent", "channels_of"]


class Channel(NamedTuple):
    """A channel. `shown`: its setting and URL without secrets; `send` takes key and document, is bounded in time, and raises NotSent."""

    name: str
    shown: str
    send: Callable[[str, dict[str, Any]], None]


def channels_of(settings: Settings, children: Children) -> list[Channel]:
    """Return the channels in the order of the settings."""
    urls: list[tuple[str, str, Callable[..., None]]] = []
    if url := settings.notify.ping_url:
        urls.append((pings.CHANNEL, url, partial(send_ping, url)))
    if url := settings.notify.webhook_url:
        urls.append(("webhook", url, partial(send_webhook, url)))
    for number, url in enumerate(settings.notify.urls, 1):
        urls.append((f"urls {number}", url, partial(send_apprise, children, url)))
    shown = {pings.CHANNEL: "notify.ping_url", "webhook": "notify.webhook_url"}
    return [
        Channel(name, f"{shown.get(name, f'notify.{name}')} ({mask_message_url(url)})", send)
        for name, url, send in urls
    ]
