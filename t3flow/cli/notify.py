"""`t3flow notify`: messages to the owner."""

import os
from contextlib import suppress
from pathlib import Path

import click

from t3flow.cli.base import Commands, UsageError, as_json, settings
from t3flow.cli.output import dump, styled, wrapped
from t3flow.settings.load import Settings
from t3flow.state.sources import consumer_pid


@click.group(cls=Commands)
def notify() -> None:
    """Messages to the owner."""


@notify.command()
@as_json
def test(as_json: bool) -> int:
    """Send one message through every configured channel and report each result. Example: t3flow notify test

    Needs no consumer. Exits 1 if a channel did not take the message. A channel that takes it no longer counts as failing in t3flow status, and what
    waits for it is sent at once. The ping goes to the path /log of notify.ping_url, which changes no state there.
    """
    from t3flow.service.notifications.trial import send_test

    sent = send_test(_settings_of_consumer())
    if not sent:
        raise UsageError(
            "no channel is configured: set notify.webhook_url, notify.ping_url or notify.urls; see t3flow config show notify.urls"
        )
    if as_json:
        dump(sent)
    else:
        for each in sent:
            word = styled("ok", fg="green") if each["ok"] else styled("failed", fg="red")
            reason = "" if each["ok"] else f": {each['reason']}"
            click.echo(wrapped(f"{each['shown']}: {word}{reason} ({each['seconds']:.1f} s)"))
    return 0 if all(each["ok"] for each in sent) else 1


def _settings_of_consumer() -> Settings:
    """Return the settings with the channels that the running consumer has from its environment, where a secret of the service belongs."""
    read = settings()
    with suppress(OSError):
        if pid := consumer_pid(read.paths.state_dir):
            words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
            given = dict(word.split("=", 1) for word in words if word.startswith("T3FLOW_NOTIFY__"))
            return settings({**given, **os.environ})
    return read
