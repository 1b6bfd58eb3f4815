"""Checks of the messages to the owner: each channel takes them, and their URLs, which are secrets, are not open to every account."""

import stat
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from t3flow.host.host import Host
from t3flow.settings.text import MESSAGE_KEYS
from t3flow.state.doctor.finding import Finding, finding
from t3flow.state.host import channels

ENVIRONMENT = "/etc/t3flow/environment"
"""The file of the service's environment, for settings that are secrets."""


def messages_arrive(host: Host) -> Iterator[Finding]:
    """Check the channels of messages and the secrecy of their URLs."""
    if host.settings.notify.urls and find_spec("apprise") is None:
        yield finding("notify.urls needs an extra that is not installed", "pip install 't3flow[notify]'")
    for channel in channels(host.journal):
        if channel["failing_since"]:
            yield finding(f"messages to {channel['shown']} fail: {channel['cause']}", "t3flow notify test")
    for key in MESSAGE_KEYS:
        source = host.settings.sources.get(key, "")
        section, _, name = key.partition(".")
        if not source.startswith("file ") or not getattr(getattr(host.settings, section), name):
            continue
        path = Path(source.removeprefix("file "))
        if stat.S_IMODE(path.stat().st_mode) & stat.S_IROTH:
            variable = f"T3FLOW_{section}__{name}".upper()
            yield finding(
                f"every account can read {key}, which is a secret, in {path}",
                f"move it as {variable}=… to {ENVIRONMENT}, which only root may read, or run: chmod o= {path}",
            )
